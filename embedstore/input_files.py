"""Bytes of an input file to columns: FASTA, CSV, TSV, JSONL or Parquet, plain or gzipped.

Whatever makes a file unreadable becomes one error that names the file, the place and the fix.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from embedstore.errors import BadInput

_CSV_BLOCK = 64 << 20  # bytes parsed together: no row may be longer
_JSONL_ROWS = 10_000  # turned into columns together


@dataclass(frozen=True)
class Source:
    """The file that is read, for errors."""

    path: Path
    kind: str

    def rows(self, *numbers: int, name: str = "") -> str:
        """Rows as a person finds them in the file; the first is 1."""
        word = ("record" if self.kind == "fasta" else "row") + "s" * (len(numbers) > 1)
        place = {"csv": " below the header", "tsv": " below the header", "parquet": " (from 1)"}
        found = f"{self.path.name}, {word} {' and '.join(map(str, numbers))}"
        return found + place.get(self.kind, "") + (f", id {name!r}" if name else "")


def read_table(source: Source, text_columns: Collection[str]) -> pa.Table:
    """All columns of a CSV, TSV, JSONL or Parquet file; of FASTA, `id` and `sequence`.

    Parameters
    ----------
    text_columns : never taken for numbers or dates, so that ids like 007 stay as they are

    Raises
    ------
    BadInput
        The file is damaged, no text, or no table.
    """
    read = {"fasta": _read_fasta, "jsonl": _read_jsonl, "parquet": _read_parquet}
    try:
        return read.get(source.kind, _read_csv)(source, text_columns)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(
            f"{source.path.name} cannot be unzipped: {_one_line(error)}.",
            "Copy it again, or leave .gz out of its name if it is not gzipped.",
        ) from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        line = None
        if source.kind != "parquet" and not isinstance(error, OSError):
            line = _undecodable_line(source.path)
        if line is not None:
            raise BadInput(
                f"{source.path.name}, line {line} of the file: not UTF-8 text.",
                "Save the file as UTF-8, or name it .gz if it is gzipped.",
            ) from error
        raise BadInput(
            f"{source.path.name} cannot be read as {source.kind}: {_one_line(error)}.",
            "Check the file and its name.",
        ) from error


def _undecodable_line(path: Path) -> int | None:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def _read_fasta(source: Source, text_columns: Collection[str]) -> pa.Table:
    ids: list[str] = []
    sequences: list[str] = []
    parts: list[str] = []
    for number, line in _lines(source.path):
        if line.startswith(">"):
            name = line[1:].split(maxsplit=1)
            if not name:
                raise BadInput(
                    f"{source.path.name}, line {number} of the file: a header without an id.",
                    "Write the id right behind '>'.",
                )
            if ids:
                sequences.append("".join(parts))
            ids.append(name[0])
            parts.clear()
        elif not line.startswith(";"):
            if not ids:
                raise BadInput(
                    f"{source.path.name}, line {number} of the file: text before the first header.",
                    "FASTA begins with a line '>id'.",
                )
            parts.append(line)
    if not ids:
        raise BadInput(
            f"{source.path.name} has no records.", "FASTA holds lines '>id' and sequences."
        )
    sequences.append("".join(parts))
    return pa.table({"id": ids, "sequence": pa.array(sequences, pa.large_string())})


def _read_csv(source: Source, text_columns: Collection[str]) -> pa.Table:
    import pyarrow.csv as csv

    ragged: list[csv.InvalidRow] = []

    def refuse(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        with _open(source.path) as file:
            table = csv.read_csv(
                file,
                # one thread: with more, no row has a number
                csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
                csv.ParseOptions(
                    delimiter="\t" if source.kind == "tsv" else ",",
                    newlines_in_values=True,
                    invalid_row_handler=refuse,
                ),
                # ids like 007 and sequences like NAN stay text
                csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string())),
            )
    except pa.ArrowInvalid:
        if ragged and _undecodable_line(source.path) is None:
            row = ragged[0]
            raise BadInput(
                f"{source.rows(row.number - 1)}: {row.actual_columns} columns, but the header "
                f"has {row.expected_columns}.",
                "Give every row all columns, and quote values that hold the separator.",
            ) from None
        raise
    if any(pa.types.is_binary(column.type) for column in table.columns):
        raise UnicodeError("a column is not UTF-8 text")
    return table


def _read_jsonl(source: Source, text_columns: Collection[str]) -> pa.Table:
    rows: list[dict[str, object]] = []
    tables: list[pa.Table] = []
    last: dict[str, object] = {}
    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    for number, line in _lines(source.path):
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{source.path.name}, line {number} of the file: not JSON "
                f"({getattr(error, 'msg', error)}).",
                "Write one JSON object a line.",
            ) from None
        if not row or not isinstance(row, dict):
            raise BadInput(
                f"{source.path.name}, line {number} of the file: not a JSON object.",
                'Write one object a line: {"id": "...", "sequence": "..."}.',
            )
        for name in text_columns:
            if type(row.get(name)) is int:
                row[name] = str(row[name])
        rows.append(row)
        if len(rows) == _JSONL_ROWS:
            tables.append(_json_columns(source, rows, len(tables) * _JSONL_ROWS, last))
            rows = []
    tables.append(_json_columns(source, rows, len(tables) * _JSONL_ROWS, last))
    return pa.concat_tables(tables, promote_options="permissive")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has one name twice")
    return found


def _json_columns(
    source: Source, rows: list[dict[str, object]], before: int, last: dict[str, object]
) -> pa.Table:
    """Some rows as columns; `last` has the last value of each column in the rows before."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [last.get(name), *(row.get(name) for row in rows)]
        try:
            columns[name] = pa.array(values)[1:]
        except (pa.ArrowException, OverflowError, UnicodeError):
            at = bisect_left(range(1, len(values)), True, key=partial(_clashes, values))
            alone = _clashes([values[at]], 1)
            raise BadInput(
                f"{source.rows(before + at)}: {name!r} holds {_short(values[at])}, which "
                + ("no column can hold." if alone else "does not fit the rows above."),
                "Give a column one type: numbers, text, true and false, or lists of one kind.",
            ) from None
        last[name] = next((value for value in reversed(values) if value is not None), None)
    return pa.table(columns)


def _clashes(values: list[object], count: int) -> bool:
    """Whether the first values cannot be one column."""
    try:
        pa.array(values[:count])
    except (pa.ArrowException, OverflowError, UnicodeError):
        return True
    return False


def _read_parquet(source: Source, text_columns: Collection[str]) -> pa.Table:
    import pyarrow.parquet as parquet

    with _open(source.path) as file:
        zipped = isinstance(file, gzip.GzipFile)
        # a file, not a path: of a path like molecule=dna/x.parquet columns would be made
        return parquet.ParquetFile(io.BytesIO(file.read()) if zipped else file).read()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of every line that is not blank."""
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig") as text:
        for number, raw in enumerate(text, start=1):
            line = raw.strip()
            if line:
                yield number, line


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
