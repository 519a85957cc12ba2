"""JSONL to columns: one object a line in, one column a name out.

A name whose values are not of one type gives a column of text: numbers as they are printed, text
as it stands, the rest as JSON. So a table reads the same from JSONL and from CSV.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from embedstore.errors import BadInput
from embedstore.input_source import Source

_ROWS = 10_000  # turned into columns together
_FAMILIES = {int: "number", float: "number", bool: "bool", str: "text", list: "list", dict: "dict"}


def read_json_lines(source: Source, text_columns: Collection[str]) -> pa.Table:
    """All columns of a JSONL input, null where an object lacks a name.

    Parameters
    ----------
    text_columns : whole numbers in them are text, so that ids like 7 stay as they are

    Raises
    ------
    BadInput
        A line is no JSON object.
    """
    columns: dict[str, _Column] = {}
    rows: list[dict[str, Any]] = []
    before = 0
    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    for number, line in source.lines():
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{source.name}, line {number} of the file: not JSON "
                f"({getattr(error, 'msg', error)}).",
                "Write one JSON object a line.",
            ) from None
        if not row or not isinstance(row, dict):
            raise BadInput(
                f"{source.name}, line {number} of the file: not a JSON object.",
                'Write one object a line: {"id": "...", "sequence": "..."}.',
            )
        for name in text_columns:
            if type(row.get(name)) is int:
                row[name] = str(row[name])
        rows.append(row)
        if len(rows) == _ROWS:
            _add(columns, rows, before)
            before += len(rows)
            rows = []
    _add(columns, rows, before)
    return pa.table({_encodable(name): column.whole() for name, column in columns.items()})


class _Column:
    """One name's values, some thousand at a time."""

    def __init__(self, absent: int) -> None:
        self._parts = [pa.nulls(absent)]
        self._families: set[str] = set()

    def add(self, values: list[Any]) -> None:
        """Append the values of the next rows."""
        self._families |= {_FAMILIES[type(value)] for value in values if value is not None}
        try:
            if len(self._families) > 1:
                raise pa.ArrowInvalid
            self._parts.append(pa.array(values))
        except (pa.ArrowException, OverflowError, UnicodeError):
            self._families.add("mixed")
            self._parts.append(_as_text(values))

    def whole(self) -> pa.ChunkedArray:
        """The column, of the one type that holds every value."""
        if len(self._families) <= 1:
            tables = [pa.table({"": part}) for part in self._parts]
            try:
                return pa.concat_tables(tables, promote_options="permissive").column(0)
            except pa.ArrowException:
                pass
        return pa.chunked_array([_as_text(part.to_pylist()) for part in self._parts])


def _add(columns: dict[str, _Column], rows: list[dict[str, Any]], before: int) -> None:
    for row in rows:
        for name in row:
            if name not in columns:
                columns[name] = _Column(before)
    for name, column in columns.items():
        column.add([row.get(name) for row in rows])


def _as_text(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if v is None else _encodable(_text(v)) for v in values], pa.string())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)  # NaN and inf as other programs write them
    return json.dumps(value, ensure_ascii=False)


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which no UTF-8 holds, as JSON wrote it."""
    return text.encode(errors="backslashreplace").decode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has one name twice")
    return found
