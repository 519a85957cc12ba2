"""A collection: the table of records, with the key of each view they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from embedstore.dogma import VIEWS, Unreadable, view_of
from embedstore.records import Record


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
    digits, null where a record has no such view."""

    @property
    def ids(self) -> list[str]:
        """Record ids, in the order of the input."""
        return list(self.table.column("id").to_pylist())

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        fixed = {"id", "sequence", "molecule", *map(key_column, VIEWS)}
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
        columns = (self.table.column(name).to_pylist() for name in ("id", "sequence", "molecule"))
        return [Record(*values) for values in zip(*columns, strict=True)]


def make_table(records: Iterable[Record], labels: pa.Table) -> pa.Table:
    """The table of a collection: every view is made, so every key is known."""
    rows = list(records)
    keys: dict[str, list[str | None]] = {view: [] for view in VIEWS}
    for record in rows:
        for view, column in keys.items():
            try:
                column.append(key_of(view_of(record.sequence, record.molecule, view).text))
            except Unreadable:
                column.append(None)
    columns: dict[str, pa.Array] = {
        "id": pa.array([record.id for record in rows], pa.string()),
        "sequence": pa.array([record.sequence for record in rows], pa.large_string()),
        "molecule": pa.array([record.molecule for record in rows], pa.string()),
    }
    columns |= {name: labels.column(name) for name in labels.column_names}
    columns |= {key_column(view): pa.array(keys[view], pa.string()) for view in VIEWS}
    return pa.table(columns)
