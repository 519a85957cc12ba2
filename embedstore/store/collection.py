"""A collection: the table of records, with the key of each view they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from embedstore.dogma import VIEWS, Coding, Unreadable
from embedstore.records import Record

CODING_COLUMN = "coding_region"
CODING_TYPE = pa.struct(
    [
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
        pa.field("genetic_code", pa.int32()),
        pa.field("inner_stops", pa.bool_()),
        pa.field("selenocysteine", pa.bool_()),
        pa.field("absent", pa.string()),
    ]
)
"""Of the column `coding_region`: the fields of a `Coding`; null where a record has none."""


def key_of(text: str) -> str:
    """Key of a view string: BLAKE2b-128, 32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def key_column(view: str) -> str:
    """Name of the column with the keys of a view."""
    return f"key_{view}"


@dataclass(frozen=True, eq=False)
class Collection:
    """Records by name."""

    name: str
    table: pa.Table
    """id, sequence, molecule, label columns, and key_mrna, key_dna, key_protein, key_cds: 32 hex
    digits, null where a record has no such view. Where some record is not read as a whole by the
    standard code there is a column `coding_region`, of `CODING_TYPE`."""

    @property
    def ids(self) -> list[str]:
        """Record ids, in the order of the input."""
        return list(self.table.column("id").to_pylist())

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        fixed = {"id", "sequence", "molecule", *map(key_column, VIEWS)}
        if self._has_regions:
            fixed.add(CODING_COLUMN)
        return [name for name in self.table.column_names if name not in fixed]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def keys(self, view: str) -> list[str | None]:
        """Key of a view of each record, None where the record has no such view."""
        return list(self.table.column(key_column(view)).to_pylist())

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    def records(self) -> list[Record]:
        """The records, in order."""
        return _records(self.table, self._has_regions)

    def record(self, row: int) -> Record:
        """One of them; no other is made."""
        return _records(self.table.slice(row, 1), self._has_regions)[0]

    @property
    def _has_regions(self) -> bool:
        """Whether the column is ours: a table of before could have a label of its name."""
        at = self.table.schema.get_field_index(CODING_COLUMN)
        return at >= 0 and bool(self.table.schema.field(at).type.equals(CODING_TYPE))


def _records(table: pa.Table, has_regions: bool) -> list[Record]:
    columns = [table.column(name).to_pylist() for name in ("id", "sequence", "molecule")]
    if has_regions:
        columns.append([_coding(cell) for cell in table.column(CODING_COLUMN).to_pylist()])
    return [Record(*values) for values in zip(*columns, strict=True)]


def _coding(cell: dict[str, Any] | None) -> Coding | None:
    if cell is None:
        return None
    values = {name: value for name, value in cell.items() if name != "genetic_code"}
    return Coding(**values, code=cell["genetic_code"])


def _cell(coding: Coding | None) -> dict[str, Any] | None:
    if coding is None:
        return None
    values = asdict(coding)
    return {"genetic_code": values.pop("code"), **values}


def make_table(records: Iterable[Record], labels: pa.Table) -> pa.Table:
    """The table of a collection: every view is made, so every key is known."""
    rows = list(records)
    keys: dict[str, list[str | None]] = {view: [] for view in VIEWS}
    for record in rows:
        for view, column in keys.items():
            try:
                column.append(key_of(record.view(view).text))
            except Unreadable:
                column.append(None)
    columns: dict[str, pa.Array] = {
        "id": pa.array([record.id for record in rows], pa.string()),
        "sequence": pa.array([record.sequence for record in rows], pa.large_string()),
        "molecule": pa.array([record.molecule for record in rows], pa.string()),
    }
    if any(record.coding for record in rows):
        cells = [_cell(record.coding) for record in rows]
        columns[CODING_COLUMN] = pa.array(cells, CODING_TYPE)
    columns |= {name: labels.column(name) for name in labels.column_names}
    columns |= {key_column(view): pa.array(keys[view], pa.string()) for view in VIEWS}
    return pa.table(columns)
