"""From a key back to the records that have it: a collection in, ids out.

N records with a view, sorted by the first eight bytes of its key: 16 bytes a record in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from embedstore.store.collection import Collection, key_column
from embedstore.store.index import pack_keys, split_keys


class RecordLookup:
    """Records of one collection by the key of one view."""

    def __init__(self, collection: Collection, view: str) -> None:
        """Sort the keys of a view; `mrna`, `dna`, `protein` or `cds`."""
        self.collection = collection
        column = collection.table.column(key_column(view))
        self._keys, self._ids = column, collection.table.column("id")
        rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        high, _ = split_keys(pack_keys(column.take(pa.array(rows)).to_pylist()))
        order = np.argsort(high, kind="stable")
        self._high, self._rows = high[order], rows[order]

    def find(self, keys: Sequence[str]) -> list[list[str]]:
        """Ids of the records with each key, in the order of the collection."""
        high, _ = split_keys(pack_keys(keys))
        first, last = (np.searchsorted(self._high, high, side=side) for side in ("left", "right"))
        return [
            [
                self._ids[row].as_py()
                for row in self._rows[start:stop].tolist()
                if self._keys[row].as_py() == key
            ]
            for key, start, stop in zip(keys, first.tolist(), last.tolist(), strict=True)
        ]
