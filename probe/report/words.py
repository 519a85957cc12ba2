"""Numbers and findings as people read them: parts of the report's document in, short text out."""

from __future__ import annotations

from typing import Any

from probe.report.plots import size_text
from probe.statistics import NO_DIFFERENCE

MARKS = {"higher": "▲", "lower": "▼", NO_DIFFERENCE: "="}
"""Beside a score: how it compares with the one-hot letters of the view."""


FIRST_WAY = "Differences are against the first way in the row after the one-hot letters."
"""What Table 2 compares."""


def score_text(value: float | None) -> str:
    """Three decimals; `undefined` where there is no score."""
    return "undefined" if value is None else f"{value:.3f}"


def interval_text(part: dict[str, Any], sign: str = "") -> str:
    """`0.485 to 0.643`; empty where there is no interval."""
    low, high = part.get("low"), part.get("high")
    if low is None or high is None:
        return ""
    return f"{low:{sign}.3f} to {high:{sign}.3f}"


def difference_text(compared: dict[str, Any] | None) -> str:
    """A difference with its interval and sign; empty where nothing was compared."""
    if compared is None or compared["difference"] is None:
        return ""
    between = interval_text(compared, "+")
    return f"{compared['difference']:+.3f}" + (f" ({between})" if between else "")


def parameters_text(parameters: int | None, none: str = "none") -> str:
    """`7.41M`; `none` for backbones without weights; a dash where it is not known."""
    if parameters is None:
        return "-"
    return size_text(parameters) if parameters else none


def bytes_text(count: int | None) -> str:
    """`1.3 GB`, decimal units; a dash where it is not known."""
    if count is None:
        return "-"
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count} B"


def seconds_text(seconds: float | None) -> str:
    """`42 s`, `3.5 min`, `1.2 h`; a dash where it is not known."""
    if seconds is None:
        return "-"
    for limit, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.1f} {unit}"
    return f"{seconds:.3g} s"


def cost_texts(cell: dict[str, Any]) -> list[str]:
    """Parameters trained, seconds and peak memory of a cell of Table 2, those that are known."""
    texts = []
    if cell["parameters_trained"] is not None:
        texts.append(f"{parameters_text(cell['parameters_trained'])} trained")
    if cell["seconds"] is not None:
        texts.append(seconds_text(cell["seconds"]))
    if cell["peak_bytes"] is not None:
        texts.append(f"{bytes_text(cell['peak_bytes'])} peak")
    return texts


def settings_text(chosen: dict[str, Any]) -> str:
    """`batch size 32, learning rate 0.0003`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in chosen.items()
    )


def smallest_text(column: dict[str, Any]) -> str:
    """What a column says about the smallest backbone that is good enough; empty if nothing."""
    found = column["smallest"]
    if found is None:
        return ""
    best = f"{found['best']} scores highest ({score_text(found['best_score'])}"
    if found["best_parameters"]:
        best += f", {size_text(found['best_parameters'])} parameters"
    best += ")."
    compared = found["compared"]
    if compared is None:
        rest = (
            " It is the smallest itself."
            if found["best_parameters"] == 0
            else " Every smaller backbone in these runs scores detectably lower."
            if not found["untested"]
            else " No smaller backbone could be compared with it."
        )
    else:
        size = parameters_text(found["parameters"], "no learnt parameters")
        rest = (
            f" The smallest not detectably worse is {found['name']} ({size}; "
            f"{score_text(found['score'])}): it differs by {difference_text(compared)}, p "
            f"{score_text(compared['p_holm'])} after Holm's adjustment. That is no proof of "
            f"equality: {column['test_rows']:,} test rows would show a difference of "
            f"{score_text(compared['smallest_detectable'])} with 80 % power, and smaller ones can "
            "hide."
        )
    if found["baselines"]:
        known = [f"{each['name']} ({score_text(each['score'])})" for each in found["baselines"]]
        rest += f" Nor detectably worse, though no backbone: {', '.join(known)}."
    if found["unsized"]:
        rest += f" Left out, of unknown size: {', '.join(found['unsized'])}."
    return best + rest


def rows_text(run: dict[str, Any]) -> str:
    """Rows of a run, used and left out, with the reasons."""
    rows, n = run["rows"], run["split"]["n"]
    left_out = [f"{count:,} {reason}" for reason, count in rows["dropped"].items() if count]
    return (
        f"{rows['used']:,} of {rows['collection']:,} records used"
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
        + "; "
        + ", ".join(f"{part} {count:,}" for part, count in n.items())
    )
