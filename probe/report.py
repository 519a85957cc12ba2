"""A run for people to read: its JSON and CSV in, `results.md` and `results.png` out."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.store.files import write_atomically
from probe.documents import read_json
from probe.plan import FORMAT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEADS = {"textcnn": "TextCNN", "lstm": "LSTM"}
_BLUE, _GREY = "#2b6ca3", "#9aa5b1"


def write_report(folder: Path) -> None:
    """Write `results.md` and `results.png` into a run's folder, from what else stands there."""
    run = read_json(folder / "run.json", "run", FORMAT)
    results = read_json(folder / "results.json", "results", FORMAT)
    write_atomically(folder / "results.md", results_table(run, results).encode())
    write_atomically(folder / "results.png", _figure(folder, run, results))


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
        f"{results['metric'].capitalize()} of {_HEADS[run['head']]} heads on frozen embeddings. "
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
            f"| {_score(one['validation_score'])} | {chosen['batch_size']} "
            f"| {chosen['learning_rate']:g} | {one['best_epoch']} | {one['seconds']:.0f} |"
        )
    constant = results["constant"]
    shown = constant["prediction"]
    lines.append(
        f"| constant ({shown if isinstance(shown, str) else f'{shown:.4g}'}) |  "
        f"| {_score(constant['test_score'])} | {_score(constant['validation_score'])} |  |  |  |  |"
    )
    lines += [*_baseline_rows(results), *_comparison_lines(results), *_audit_lines(results)]
    return "\n".join(lines) + "\n"


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
            rows.append(f"| {name}, shuffled labels |  | {score} |  |  |  |  |  |")
    return rows


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


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _figure(folder: Path, run: dict[str, Any], results: dict[str, Any]) -> bytes:
    """One panel of test scores, then one of predicted against true for each backbone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(results["backbones"])
    columns = min(len(names) + 1, 4)
    lines = -(-(len(names) + 1) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.2 * lines), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(lines, columns, i + 1) for i in range(len(names) + 1)]
    _draw_scores(axes[0], results)
    for name, ax in zip(names, axes[1:], strict=True):
        with (folder / "predictions" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        true, predicted = ([row[column] for row in rows] for column in ("true", "predicted"))
        if run["classes"]:
            _draw_confusion(ax, true, predicted, run["classes"])
        else:
            _draw_scatter(ax, np.array(true, float), np.array(predicted, float))
        ax.set_title(f"{name}: {_score(results['backbones'][name]['test_score'])}", fontsize=9)
        ax.set_xlabel(f"true {results['unit']}", fontsize=8)
        ax.set_ylabel("predicted", fontsize=8)
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def _draw_scores(ax: Axes, results: dict[str, Any]) -> None:
    scores = {name: one["test_score"] for name, one in results["backbones"].items()}
    scores["constant"] = results["constant"]["test_score"]
    names = list(scores)
    colours = [_GREY if name == "constant" else _BLUE for name in names]
    lengths = [score or 0.0 for score in scores.values()]
    ax.barh(names, lengths, color=colours, height=0.6)
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8)
    for row, (score, length) in enumerate(zip(scores.values(), lengths, strict=True)):
        ax.annotate(
            _score(score),
            (max(length, 0.0), row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    ax.set_xlim(min(0.0, *lengths) * 1.1, max(0.1, *lengths) * 1.3)
    ax.set_title(f"test {results['metric']}", fontsize=9)


def _draw_scatter(ax: Axes, true: Any, predicted: Any) -> None:
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    ax.plot(ends, ends, color=_GREY, linewidth=0.8, zorder=0)
    ax.scatter(true, predicted, s=9, alpha=0.5, color=_BLUE, linewidths=0, rasterized=True)


def _draw_confusion(ax: Axes, true: list[str], predicted: list[str], classes: list[str]) -> None:
    """Share of each true class that was given each name; columns add up to 1."""
    number = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, ([number[p] for p in predicted], [number[t] for t in true]), 1)
    share = counts / np.maximum(counts.sum(axis=0), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if len(classes) <= 12:
        ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        ax.set_yticks(range(len(classes)), classes)
        for at, value in np.ndenumerate(share):
            colour = "white" if value > 0.5 else "black"
            ax.text(
                at[1], at[0], f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour
            )
