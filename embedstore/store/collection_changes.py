"""What a new table of a collection would change of the old one: two tables in, the first loss out.

Rows are matched by id. Added rows, added columns, and values where there was none are additions.
Null, NaN, blank text and the empty list are all "no value". Numbers are compared by value, whatever
their types; text is never equal to a number; lists and structs are compared part by part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedstore.dogma import VIEWS
from embedstore.store.collection import CODING_COLUMN, key_column

IDENTITY = ("sequence", "molecule", CODING_COLUMN)
"""Columns that make a record what it is; in these, a value where there was none is a change."""
EXACT_FLOAT = 2.0**53
"""Whole numbers up to this one are all told apart as float64."""
SHOWN = 60
"""Letters of a value that an error shows."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """The first thing of the old table that would be lost."""

    id: str | None
    """None where a whole column is gone."""
    column: str | None
    """None where a whole row is gone."""
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        if self.column is None:
            return f"id {self.id!r} changed or gone: the new table has no such row"
        if self.id is None:
            return f"label column {self.column!r} is gone"
        if self.column == CODING_COLUMN:
            return f"id {self.id!r} has another coding region or genetic code"
        lead = f"id {self.id!r} changed or gone" if self.column in IDENTITY else f"id {self.id!r}"
        return f"{lead}: {self.column} was {_shown(self.old)} and would be {_shown(self.new)}"


def find_loss(old: pa.Table, new: pa.Table) -> Change | None:
    """The first thing of a table that another one would drop or change; None where it only adds.

    A coding region may be given to a record that could not be read as a coding sequence: nothing
    was stored of one.

    Parameters
    ----------
    old, new : tables of a collection, ids unique; their order of rows does not matter
    """
    old, new = _without_views(old), _without_views(new)
    place = _places(old, new)
    if place.null_count:
        gone = int(np.flatnonzero(place.is_null().to_numpy(zero_copy_only=False))[0])
        return Change(old.column("id")[gone].as_py(), None)
    for name in _compared(old):
        if name not in new.column_names and name not in IDENTITY:
            return Change(None, name)
    return _first_change(old, new.take(place), both_ways=False)


def unite(old: pa.Table, new: pa.Table) -> tuple[pa.Table, Change | None]:
    """The rows, columns and values of two tables in one, the old one's rows first.

    Returns
    -------
    The table, and the first value in which they differ; where there is one, the table is the old.
    """
    old, new = _without_views(old), _without_views(new)
    place = _places(old, new)
    known = place.is_valid()
    common, twin = old.filter(known), new.take(place.drop_null())
    change = _first_change(common, twin, both_ways=True)
    if change is not None:
        return old, change
    twins = new.take(place)  # a row of nulls where the old row has none
    columns: dict[str, Any] = {name: old.column(name) for name in old.column_names}
    for name in new.column_names:
        theirs = twins.column(name)
        if name not in columns:
            columns[name] = theirs
        elif name in _compared(old) and name not in IDENTITY:
            ours = columns[name]
            parts = _plain(ours), _plain(theirs)
            fills = ~_changed(*parts)  # theirs has all that ours has, in part too, as in a list
            lacks = _changed(*parts[::-1])  # theirs has something that ours has not
            split = np.flatnonzero(~fills & lacks & ~_no_value(parts[1]))
            if len(split):
                row = int(split[0])
                name_of_row = old.column("id")[row].as_py()
                return old, Change(name_of_row, name, *(part[row].as_py() for part in parts))
            if not (fills & lacks).any():
                continue
            try:
                columns[name] = _choose(fills & lacks, theirs, ours)
            except pa.ArrowException:  # text here, numbers there, in rows that never meet
                return old, _of_types(name, ours.type, theirs.type)
    fresh = pc.is_null(pc.index_in(_ids(new), value_set=_ids(old)))
    added = new.filter(fresh)
    for name in added.column_names:
        if added.num_rows and columns[name].type != added.column(name).type:
            ours, theirs = _plain(columns[name]), _plain(added.column(name))
            try:
                kind = _common_type(ours.type, theirs.type)
                columns[name] = ours.cast(kind)
                theirs = theirs.cast(kind)
            except pa.ArrowException:
                return old, _of_types(name, ours.type, theirs.type)
            added = added.set_column(added.column_names.index(name), name, theirs)
    parts_of = [pa.table(columns), added] if added.num_rows else [pa.table(columns)]
    table = pa.concat_tables(parts_of, promote_options="permissive")
    last = list(map(key_column, VIEWS))
    names = [name for name in table.column_names if name not in last]
    return table.select([*names, *(name for name in last if name in table.column_names)]), None


def _without_views(table: pa.Table) -> pa.Table:
    """The same with no string or list views, of which Arrow cannot take rows."""
    for at, field in enumerate(table.schema):
        if str(field.type).startswith(("string_view", "list_view", "large_list_view")):
            table = table.set_column(at, field.name, _plain(table.column(at)))
    return table


def _ids(table: pa.Table) -> pa.Array:
    return table.column("id").cast(pa.large_string()).combine_chunks()


def _places(old: pa.Table, new: pa.Table) -> pa.Array:
    """Row of the new table for each of the old; null where it has none."""
    place = pc.index_in(_ids(old), value_set=_ids(new))
    return place.combine_chunks() if isinstance(place, pa.ChunkedArray) else place


def _compared(table: pa.Table) -> list[str]:
    keys = {"id", *map(key_column, VIEWS)}
    return [name for name in table.column_names if name not in keys]


def _first_change(old: pa.Table, new: pa.Table, *, both_ways: bool) -> Change | None:
    """The first row, and in it the first column, of two tables with the same ids row by row."""
    names = list(dict.fromkeys([*IDENTITY[:2], *_compared(old)]))
    if CODING_COLUMN not in names and CODING_COLUMN in new.column_names:
        names.append(CODING_COLUMN)
    first: tuple[int, Change] | None = None
    for name in names:
        if name not in new.column_names and name != CODING_COLUMN:
            continue
        ours, theirs = (
            _plain(table.column(name)) if name in table.column_names else pa.nulls(len(table))
            for table in (old, new)
        )
        changed = _changed(ours, theirs, strict=name in IDENTITY, both_ways=both_ways)
        if name == CODING_COLUMN and not both_ways:
            changed &= _has_cds(old)
        row = int(changed.argmax()) if changed.any() else None
        if row is not None and (first is None or row < first[0]):
            values = ours[row].as_py(), theirs[row].as_py()
            first = (row, Change(old.column("id")[row].as_py(), name, *values))
    return None if first is None else first[1]


def _has_cds(table: pa.Table) -> Mask:
    """Which records could be read as a coding sequence."""
    name = key_column("cds")
    if name not in table.column_names:
        return np.ones(len(table), np.bool_)
    return ~_no_value(_plain(table.column(name)))


def _changed(
    old: pa.Array, new: pa.Array, *, strict: bool = False, both_ways: bool = False
) -> Mask:
    """Where a value changed or was lost: bool, shape (N,).

    Parameters
    ----------
    strict : a value where there was none is a change too
    both_ways : a value that only one of the two has is none
    """
    old_none, new_none = _no_value(old), _no_value(new)
    both = ~old_none & ~new_none
    changed = np.zeros(len(old), np.bool_)
    if both.any():
        if both.all():
            changed = _unequal(old, new, strict, both_ways)
        else:
            kept = pa.array(both)
            changed[both] = _unequal(old.filter(kept), new.filter(kept), strict, both_ways)
    if strict or not both_ways:
        changed |= ~old_none & new_none
    return changed | (old_none & ~new_none) if strict else changed


def _unequal(old: pa.Array, new: pa.Array, strict: bool, both_ways: bool) -> Mask:
    """The same of rows that both have a value."""
    nested = pa.types.is_nested
    if pa.types.is_struct(old.type) and pa.types.is_struct(new.type):
        changed = np.zeros(len(old), np.bool_)
        names = dict.fromkeys(each.name for kind in (old.type, new.type) for each in kind)
        for name in names:
            parts = [
                _plain(pc.struct_field(each, name))
                if each.type.get_field_index(name) >= 0
                else pa.nulls(len(each))
                for each in (old, new)
            ]
            changed |= _changed(*parts, strict=strict, both_ways=both_ways)
        return changed
    if pa.types.is_large_list(old.type) and pa.types.is_large_list(new.type):
        lengths = old.value_lengths().to_numpy()
        changed = np.asarray(lengths != new.value_lengths().to_numpy())
        same = ~changed
        if same.any():
            kept = pa.array(same)
            parts = [_plain(each.filter(kept).flatten()) for each in (old, new)]
            inner = _changed(*parts, strict=strict, both_ways=both_ways)
            parents = np.repeat(np.flatnonzero(same), lengths[same])
            changed[parents[inner]] = True
        return changed
    if nested(old.type) or nested(new.type):
        return _each_by_each(old, new)
    if _is_number(old.type) and _is_number(new.type):
        if old.type == new.type:
            return _mask(pc.not_equal(old, new))
        left, right = (each.cast(pa.float64(), safe=False).to_numpy() for each in (old, new))
        changed = np.asarray(left != right)
        large = np.flatnonzero(np.abs(left) >= EXACT_FLOAT)
        if len(large):  # of these float64 cannot tell all apart; Python compares them exactly
            at = pa.array(large)
            changed[large] = _each_by_each(old.take(at), new.take(at))
        return changed
    if old.type == new.type:
        return _mask(pc.not_equal(old, new))
    return _each_by_each(old, new)


def _each_by_each(old: pa.Array, new: pa.Array) -> Mask:
    """Value by value in Python: for types that seldom meet. True is not 1."""

    def unequal(one: Any, other: Any) -> bool:
        return isinstance(one, bool) != isinstance(other, bool) or bool(one != other)

    if _is_text(old.type) != _is_text(new.type):
        return np.ones(len(old), np.bool_)  # "1" is no number
    pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
    return np.fromiter((unequal(*pair) for pair in pairs), np.bool_, len(old))


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of a type that can be compared: no dictionaries, views or odd kinds of lists."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
    kind = column.type
    while isinstance(column, pa.ExtensionArray):
        column, kind = column.storage, column.storage.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if _is_text(kind):
        return column.cast(pa.large_string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    is_list: list[Callable[[Any], bool]] = [
        pa.types.is_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    ]
    if any(test(kind) for test in is_list):
        return column.cast(pa.large_list(kind.value_type))
    return column


def _no_value(column: pa.Array) -> Mask:
    """Where there is no value: bool, shape (N,)."""
    kind = column.type
    if pa.types.is_floating(kind):
        return _mask(column.is_null(nan_is_null=True))
    none = _mask(column.is_null())
    if pa.types.is_large_string(kind):
        none |= _mask(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0))
    elif pa.types.is_large_list(kind):
        none |= _mask(pc.equal(pc.list_value_length(column), 0))
    elif pa.types.is_struct(kind):
        parts = [_no_value(_plain(part)) for part in column.flatten()]
        none |= np.logical_and.reduce(parts) if parts else np.True_
    return none


def _mask(values: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), np.bool_)


def _choose(mask: Mask, where: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.Array:
    """Of two columns, values of the first where the mask is set, in a type that holds both."""
    left, right = _plain(where), _plain(other)
    if left.type != right.type:
        kind = _common_type(right.type, left.type)
        left, right = left.cast(kind), right.cast(kind)
    rows = np.arange(len(mask))
    both = pa.concat_arrays([right, left])
    return both.take(pa.array(np.where(mask, rows + len(mask), rows)))


def _of_types(name: str, one: pa.DataType, other: pa.DataType) -> Change:
    """The change of a column whose values cannot stand in one."""
    return Change("of any row", name, f"of type {one}", f"of type {other}")


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field("x").type


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _shown(value: Any) -> str:
    text = repr(value)
    return "nothing" if value is None else text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
