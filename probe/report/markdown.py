"""The report as Markdown: its document in, the text of `report.md` out."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from probe.report import words


def report_markdown(document: dict[str, Any]) -> str:
    """The document of `report_document` as Markdown; plots are on the page alone."""
    columns = document["columns"]
    lines = [f"# {_plain(document['title'])}", ""]
    doubts = [
        *(f"{each['level']}, {each['task']}: {each['sentence']}" for each in document["audit"]),
        *(
            f"missing: {gap['name']} ({gap['state']}). {gap['problem'] or ''}".rstrip()
            for gap in document["gaps"]
        ),
        *document["notes"],
    ]
    if doubts:
        lines += ["## Before you read the scores", "", *(f"- {_plain(each)}" for each in doubts)]
        lines.append("")
    found = [(column, words.smallest_text(column)) for column in columns if column["smallest"]]
    if found:
        lines += ["## The smallest backbone not detectably worse than the best", ""]
        lines += [
            f"- {_plain(column['title'])} ({_plain(column['subtitle'])}): {_plain(text)}"
            for column, text in found
        ]
        lines.append("")
    if columns:
        lines += _first_table(document)
    for table in document["table2"]:
        lines += _second_table(table)
    for column in columns:
        lines += _column(column)
    lines += ["## Rows, splits and versions", ""]
    for run in document["runs"]:
        lines += _run(run)
    return "\n".join(lines).rstrip() + "\n"


def _first_table(document: dict[str, Any]) -> list[str]:
    heads = [
        f"{column['title']}: {column['subtitle']}, {column['metric']}"
        for column in document["columns"]
    ]
    rows = []
    for view, group in itertools.groupby(document["table1"], key=lambda row: row["view"]):
        for row in group:
            cells = ["" if cell is None else _cell(cell) for cell in row["cells"]]
            rows.append([view, row["name"], words.parameters_text(row["parameters"]), *cells])
    return [
        "## Table 1: what frozen embeddings give",
        "",
        "Test scores with 95 % intervals. Against the one-hot letters of the view: ▲ higher, "
        "▼ lower, = no detectable difference.",
        "",
        *_table(["view", "backbone", "parameters", *heads], rows, left=2),
        "",
    ]


def _cell(cell: dict[str, Any]) -> str:
    mark = words.MARKS.get(cell["verdict"], "")
    between = words.interval_text(cell)
    return f"{words.score_text(cell['score'])} {mark}".strip() + (
        f" ({between})" if between else ""
    )


def _second_table(table: dict[str, Any]) -> list[str]:
    rows = []
    for row in table["rows"]:
        cells = []
        for cell in row["cells"]:
            if cell is None:
                cells.append("")
                continue
            compared = cell["compared"]
            text = _cell({**cell, "verdict": compared and compared["verdict"]})
            trained = words.parameters_text(cell["parameters_trained"])
            cells.append(f"{text}; {trained} trained")
        rows.append([row["name"], *cells])
    details = [
        [
            row["name"],
            way,
            words.difference_text(cell["compared"]),
            words.score_text(cell["compared"]["p_holm"]) if cell["compared"] else "",
            cell["compared"]["verdict"] if cell["compared"] else "",
            words.parameters_text(cell["parameters_trained"]),
            words.seconds_text(cell["seconds"]),
            words.bytes_text(cell["peak_bytes"]),
        ]
        for row in table["rows"]
        for way, cell in zip(table["trainings"], row["cells"], strict=True)
        if cell is not None
    ]
    why = f" No paired comparison, since {table['unpaired']}." if table["unpaired"] else ""
    return [
        f"## Table 2: ways of training, {_plain(table['title'])}",
        "",
        f"Test {table['metric']}; {_plain(table['subtitle'])}. {words.FIRST_WAY}{_plain(why)}",
        "",
        *_table(["backbone", *table["trainings"]], rows),
        "",
        *_table(
            [
                "backbone",
                "way",
                "difference from the first",
                "p (Holm)",
                "verdict",
                "trained",
                "seconds",
                "peak memory",
            ],
            details,
            left=2,
        ),
        "",
    ]


def _column(column: dict[str, Any]) -> list[str]:
    rows = []
    for row in column["rows"]:
        compared = row["compared"] or {}
        rows.append(
            [
                row["name"],
                row["view"],
                _cell({**row, "verdict": None}),
                "" if row["shuffled"] is None else words.score_text(row["shuffled"]),
                words.difference_text(row["compared"]),
                words.score_text(compared["p_holm"]) if compared else "",
                f"{compared['verdict']} ({row['against']})" if compared else "",
                words.score_text(compared["smallest_detectable"]) if compared else "",
                words.seconds_text(row["seconds"]),
                words.bytes_text((row["features"] or {}).get("bytes")),
                words.settings_text(row["chosen"]),
            ]
        )
    for row in column["baselines"]:
        rows.append([f"baseline: {row['name']}", "", _cell({**row, "verdict": None}), *[""] * 8])
    rows.append(["constant", "", words.score_text(column["constant"]["score"]), *[""] * 8])
    names = ["backbone", "view", f"test {column['metric']}", "shuffled labels",
             "difference from one-hot", "p (Holm)",
             "verdict", "detectable from", "seconds", "stored", "chosen"]  # fmt: skip
    return [
        f"## {_plain(column['title'])}",
        "",
        f"{_plain(column['subtitle'])}; {column['test_rows']:,} test rows.",
        "",
        *_table(names, rows, left=2),
        "",
    ]


def _run(run: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        f"### {_plain(run['name'])}",
        "",
        f"- {_plain(words.rows_text(run))}",
        f"- split {_plain(run['split']['rule'])}, seed {run['split']['seed']}, digest "
        f"{run['split']['digest']}; rows digest {run['rows']['digest']}",
        f"- {_plain(versions)}",
        "",
    ]
    if run["command"]:
        lines += [*(f"    {line}" for line in run["command"].splitlines()), ""]
    return lines


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Rows between bars; the first columns to the left, the others to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [
        f"| {' | '.join(map(_plain, head))} |",
        f"|{'|'.join(rule)}|",
        *(f"| {' | '.join(map(_plain, row))} |" for row in rows),
    ]


def _plain(text: str) -> str:
    """Text of users that must stay text: no tag, no bar of a table, no new line."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
