"""A run as Markdown: its two documents in, the text of `results.md` out."""

from __future__ import annotations

from typing import Any

HEADS = {
    "textcnn": "TextCNN",
    "lstm": "LSTM",
    "ridge": "ridge",
    "logistic": "logistic",
    "textcnn-position": "per-position TextCNN",
}
"""How people write the kinds of heads."""


def results_table(run: dict[str, Any], results: dict[str, Any]) -> str:
    """The results as Markdown.

    Parameters
    ----------
    run, results : the documents `run.json` and `results.json`
    """
    n, rows = run["split"]["n"], run["rows"]
    left_out = [f"{count} {reason}" for reason, count in rows["dropped"].items() if count]
    lines = [
        f"# {run['task']['collection']}: {results['unit']}",
        "",
        f"{results['metric'].capitalize()} of {HEADS.get(run['head'], run['head'])} heads on "
        f"{_features(run)}. "
        f"{rows['used']} of {rows['collection']} records used, the same for every backbone"
        + (f" (left out: {', '.join(left_out)})" if left_out else "")
        + f"; train {n['train']}, validation {n['validation']}, test {n['test']} "
        f"({run['split']['rule']}, seed {run['split']['seed']})."
        + (" Configurations chosen by successive halving." if run["search"] == "halving" else ""),
        "",
        "| backbone | view | test | validation | batch size | learning rate | epoch | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in results["backbones"].items():
        chosen = one["chosen"]
        lines.append(
            f"| {name} | {one['view']} | {_score(one['test_score'])}{_interval(results, name)} "
            f"| {_score(one['validation_score'])} | {_shown(chosen.get('batch_size'))} "
            f"| {_shown(chosen.get('learning_rate'))} | {_shown(one['best_epoch'])} "
            f"| {one['seconds']:.0f} |"
        )
    lines += [
        f"| {name} | {one['view']} | diverged |  |  |  |  |  |"
        for name, one in results.get("diverged", {}).items()
    ]
    constant = results["constant"]
    shown = constant["prediction"]
    lines.append(
        f"| constant ({'means' if isinstance(shown, list) else _shown(shown)}) |  "
        f"| {_score(constant['test_score'])} | {_score(constant['validation_score'])} |  |  |  |  |"
    )
    lines += [
        *_baseline_rows(results),
        *_diverged_lines(results),
        *_comparison_lines(results),
        *_audit_lines(results),
    ]
    return "\n".join(lines) + "\n"


def _features(run: dict[str, Any]) -> str:
    said = {"lora": "backbones fine-tuned by LoRA", "full": "fully fine-tuned backbones"}
    return said.get(run.get("method", ""), "frozen embeddings")


def _baseline_rows(results: dict[str, Any]) -> list[str]:
    """Rows of the table below the backbones."""
    rows = [
        f"| baseline: {name} |  | {_score(one['test_score'])}{_interval(results, name)} "
        f"| {_score(one['validation_score'])} |  |  |  |  |"
        for name, one in results.get("baselines", {}).items()
    ]
    for name, one in results["backbones"].items():
        if "shuffled_labels_test_score" in one:
            score = _score(one["shuffled_labels_test_score"])
            if one.get("shuffled_labels_diverged"):
                score = "diverged"
            rows.append(f"| {name}, shuffled labels |  | {score} |  |  |  |  |  |")
    return rows


def _diverged_lines(results: dict[str, Any]) -> list[str]:
    """What diverged: backbones, and configurations that were therefore not chosen."""
    said = [f"- {name}: {one['problem']}" for name, one in results.get("diverged", {}).items()]
    for name, one in results["backbones"].items():
        lost = [each for each in one.get("configurations") or [] if each.get("diverged")]
        if lost:
            said.append(
                f"- {name}: {len(lost)} of {len(one['configurations'])} trainings diverged and "
                f"could not be chosen: {'; '.join(map(_configuration, lost))}."
            )
    return ["", "## Diverged", "", *said] if said else []


def _configuration(tried: dict[str, Any]) -> str:
    names = ("batch_size", "learning_rate", "backbone_learning_rate", "rank", "alpha", "penalty",
             "seed")  # fmt: skip
    return ", ".join(
        f"{name.replace('_', ' ')} {tried[name]:g}" for name in names if tried.get(name) is not None
    )


def _interval(results: dict[str, Any], name: str) -> str:
    low, high = results.get("comparisons", {}).get("intervals", {}).get(name, (None, None))
    return "" if low is None else f" ({low:.3f} to {high:.3f})"


def _comparison_lines(results: dict[str, Any]) -> list[str]:
    found = results.get("comparisons")
    if not found:
        return []
    lines = [
        "",
        "## Differences",
        "",
        f"In parentheses above and here: 95 % intervals from {found['resamples']:,} bootstrap "
        f"resamples of {found['resampled']}. p is Holm-adjusted for the {len(found['pairs'])} "
        "comparisons; the last column is the difference that a test of this size would find with "
        "80 % power.",
        "",
        "| first | second | first - second | p | verdict | smallest detectable |",
        "|---|---|---:|---:|---|---:|",
    ]
    for pair in found["pairs"]:
        interval = "" if pair["low"] is None else f" ({pair['low']:+.3f} to {pair['high']:+.3f})"
        difference = "" if pair["difference"] is None else f"{pair['difference']:+.3f}"
        lines.append(
            f"| {pair['first']} | {pair['second']} | {difference}{interval} "
            f"| {_score(pair['p_holm'])} | {pair['verdict']} "
            f"| {_score(pair['smallest_detectable'])} |"
        )
    return lines


def _audit_lines(results: dict[str, Any]) -> list[str]:
    audit = results.get("audit", {})
    said = [*audit.get("refusals", []), *audit.get("warnings", [])]
    return ["", "## Audit", "", *(f"- {sentence}" for sentence in said)] if said else []


def _shown(value: float | str | None) -> str:
    """A number as short as may be; nothing where a linear head has none."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
