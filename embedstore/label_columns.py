"""Label columns of any Arrow type to plain ones: bool, int64, float64, text, and lists of these.

Text is stripped of white space around it, and what is then empty is null; items of lists stay as
they are. Values are those of the source: an encoding (dictionary, run ends, views) is undone,
floats of any width are float64, whole numbers int64. A decimal is the nearest float64, and int64
where the type has no places behind the point. Unsigned and decimal whole numbers beyond int64 are
the nearest float64. Dates and times are text in ISO form; a column of nulls alone is text. Other
types (structs, maps, bytes, durations) are kept where Parquet keeps them, and JSON text elsewhere.
"""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

MISSING = frozenset(
    ("na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "none", "null", "-", "\u2013", "\u2014")
)
"""What tables write where a value is missing, in lower case; the last two are longer dashes."""

_TEXT_BYTES = 1 << 31  # of a chunk, from which on only large_string holds it


def plain_table(table: pa.Table) -> pa.Table:
    """All columns as `plain_column` makes them."""
    columns = [plain_column(column) for column in table.columns]
    return pa.Table.from_arrays(columns, table.column_names) if columns else table


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """One column of a plain type with the values of the source; see the head of this file."""
    kind = column.type
    try:
        chunks = [_plain(chunk) for chunk in column.chunks] or [_plain(pa.array([], kind))]
        return pa.chunked_array(_of_one_type(chunks))
    except (pa.ArrowException, NotImplementedError):  # no kernel for this type
        return pa.chunked_array([_as_json(chunk) for chunk in column.chunks], pa.string())


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column without their encoding: no dictionaries, run ends, extensions."""
    chunks = [_decoded(chunk) for chunk in column.chunks] or [_decoded(pa.array([], column.type))]
    return pa.chunked_array(chunks)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of text, of any width or layout."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_missing_mark(text: str) -> bool:
    """Whether a cell says in writing that its value is missing: NA, nan, N/A, - and such."""
    return text.strip().lower() in MISSING


def _of_one_type(chunks: list[pa.Array]) -> list[pa.Array]:
    """Chunks of int64 and float64, or of text of two widths, become the wider of both."""
    kinds = {chunk.type for chunk in chunks}
    if len(kinds) == 1:
        return chunks
    tables = [pa.table({"": chunk}) for chunk in chunks]
    try:
        wide = pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowInvalid:  # int64 that float64 rounds
        return [chunk.cast(pa.float64(), safe=False) for chunk in chunks]
    return list(wide.chunks)


def _decoded(values: pa.Array) -> pa.Array:
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _decoded(values.storage)
    if types.is_dictionary(kind):
        return _decoded(values.dictionary).take(values.indices)
    if types.is_run_end_encoded(kind):
        return _decoded(pc.run_end_decode(values))
    if types.is_string_view(kind):
        return values.cast(pa.large_string())  # which can be sorted out by row
    return values.cast(pa.large_binary()) if types.is_binary_view(kind) else values


def _plain(values: pa.Array, *, item: bool = False) -> pa.Array:
    if values.type == getattr(pa, "uuid", lambda: None)():
        return pa.array([v and str(v) for v in values.to_pylist()], pa.string())
    values = _decoded(values)
    kind = values.type
    if types.is_null(kind):
        return values.cast(pa.string())
    if types.is_boolean(kind):
        return values
    if types.is_integer(kind):
        return _whole(values)
    if types.is_floating(kind):
        return values.cast(pa.float64())
    if types.is_decimal(kind):
        if kind.scale > 0:
            return values.cast(pa.string()).cast(pa.float64())  # rounded once, to the nearest
        return _whole(values)
    if is_text(kind):
        if not item:
            values = pc.utf8_trim_whitespace(values)
            values = pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
        return values.cast(pa.string()) if values.nbytes < _TEXT_BYTES else values
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind):
        # a fraction of zeros says no more than none
        return pc.replace_substring_regex(values.cast(pa.string()), r"\.0+($|[Z+-])", r"\1")
    if is_list(kind):
        return _plain_list(values)
    return _kept(values)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of lists, of any width or layout; maps are none."""
    tests = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def _plain_list(values: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(values)
    ends = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64()))
    starts = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    items = _plain(values.flatten(), item=True)  # of null lists there are none
    absent = lengths.is_null()
    if len(items) < _TEXT_BYTES:
        return pa.ListArray.from_arrays(starts.cast(pa.int32()), items, mask=absent)
    return pa.LargeListArray.from_arrays(starts, items, mask=absent)


def _whole(values: pa.Array) -> pa.Array:
    """Whole numbers: int64, or the nearest float64 where one does not fit."""
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values.cast(pa.string()).cast(pa.float64())


def _kept(values: pa.Array) -> pa.Array:
    """The values if Parquet can keep them and rows can be taken from them."""
    import pyarrow.parquet as parquet

    empty = pa.table({"": pa.array([], values.type)})
    parquet.write_table(empty, io.BytesIO())
    empty.take(pa.array([], pa.int64()))
    return values


def _as_json(values: pa.Array) -> pa.Array:
    texts = [
        None if value is None else json.dumps(value, ensure_ascii=False, default=str)
        for value in values.to_pylist()
    ]
    return pa.array(texts, pa.string())
