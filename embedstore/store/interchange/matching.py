"""Whose a data set is, and whether it can be: an HDF5 file and records in, checked rows out."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from embedstore.dogma import Unreadable
from embedstore.errors import BadInput
from embedstore.store.collection import Collection
from embedstore.store.failures import Failure
from embedstore.store.interchange.apart import apart
from embedstore.store.interchange.given_hdf5 import (
    MOST_WIDTH,
    check_values,
    data_sets,
    open_given,
    reading,
    text_of,
)
from embedstore.store.interchange.hdf5 import sequence_hash

HASH = re.compile(r"[0-9a-f]{64}")
UNIPROT = re.compile(r"(?:sp|tr)\|([^|]+)\|.*")
"""Ids in UniProt's FASTA files; its embedding files go by the accession alone."""
FLOATS = tuple(np.dtype(f"{order}f{size}") for order in "<>" for size in (2, 4, 8))
"""Types of values that are read."""
SPECIAL = (1, 2)
"""Rows that special tokens add."""


class Wanted:
    """What a collection wants of a file: the keys of one view."""

    def __init__(self, collection: Collection, view: str) -> None:
        self.view = view
        self.rows: dict[str, int] = {}
        """Rows that the embedding of each key must have."""
        self.unreadable: list[Failure] = []
        self._key_of_id: dict[str, str] = {}
        self._key_of_hash: dict[str, str] = {}
        self._key_of_accession: dict[str, str] = {}
        for record, key in zip(collection.records(), collection.keys(view), strict=True):
            try:
                text = record.view(view).text
            except Unreadable as error:
                self.unreadable.append(Failure(record.id, view, error.reason, error.detail))
                continue
            assert key is not None, record.id
            self.rows[key] = len(text) // 3 if view == "cds" else len(text)
            self._key_of_id[record.id] = key
            self._key_of_hash[sequence_hash(text)] = key
            accession = UNIPROT.fullmatch(record.id)
            if accession:
                self._key_of_accession.setdefault(accession[1], key)

    def key_of(self, name: str, digest: str | None, original: str | None) -> str | None:
        """Key of what a data set embeds: by the hash of its sequence, where it has one, else by id.

        A hash that no record has is never looked up by id: the record's sequence has changed.

        Parameters
        ----------
        digest, original : its attributes `sequence_hash` and `original_id`
        """
        digest = name if digest is None else digest
        if HASH.fullmatch(digest):
            return self._key_of_hash.get(digest)
        own = name if original is None else original
        return self._key_of_id.get(own) or self._key_of_accession.get(own)

    def lacking(
        self, keys: Container[str], not_finite: Mapping[str, str], file: str
    ) -> list[Failure]:
        """Records without an embedding: no such view, none of the keys found, or no finite values.

        Parameters
        ----------
        keys : what was found and can be stored
        not_finite : what was found and cannot, with the reason
        """
        absent = [
            Failure(name, self.view, "not-finite", not_finite[key], key)
            if key in not_finite
            else Failure(name, self.view, "not-in-file", f"{file} has no data set of it", key)
            for name, key in self._key_of_id.items()
            if key not in keys
        ]
        return self.unreadable + absent


class Source:
    """An HDF5 file whose data sets are matched to keys, then read. Use as a context manager."""

    def __init__(self, path: Path, wanted: Wanted, store_dtype: str) -> None:
        self.path, self.wanted, self.store_dtype = path, wanted, store_dtype
        self._file: h5py.File | None = None
        self._before: Callable[[int], None] = lambda size: None
        self.names: dict[str, str] = {}
        """Data set of each key that can be stored; of several for one sequence the first."""
        self.not_finite: dict[str, str] = {}
        """Keys whose data sets all have a value that is not finite as stored, and what it is."""
        self._others: dict[str, list[str]] = {}
        self.data_sets = self.unknown = self.width = 0

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def check(self) -> None:
        """Match every data set, then read each that was matched once, to see that it can be used.

        A process of its own does it, since HDF5's library may crash on a damaged file, or never
        end; here the file is opened when all that is needed of it was read there.

        Raises
        ------
        BadInput
            Nothing matches, or a data set cannot be the embedding of its record. Values that are
            not finite are no such reason: their keys go from `names` to `not_finite`.
        """
        found = apart(self.path, self._look)
        self.names, self.not_finite, self.data_sets, self.unknown, self.width = found
        self._file = open_given(self.path)

    def _look(self, before: Callable[[int], None]) -> tuple[Any, ...]:
        """What `check` finds.

        Parameters
        ----------
        before : called before each step with the bytes that it may read
        """
        self._before = before
        self._file = open_given(self.path)
        with reading(self.path, "its list of data sets"):
            for name, data in data_sets(self._file, self.path):
                before(0)
                self._match(self._file, name, data)
        if not self.names:
            raise BadInput(
                f"None of the {self.data_sets} data sets of {self.path} is of a record.",
                "They are found by the record's id, or by biotrainer's hash of its "
                f"{self.wanted.view} view; --view reads the records otherwise.",
            )
        for key in [*self.names]:
            self._check_values(key)
        return self.names, self.not_finite, self.data_sets, self.unknown, self.width

    def read(self, key: str) -> NDArray[Any]:
        """Rows of a matched key in the dtype that is stored: shape (L, D).

        Raises
        ------
        BadInput
            The data set is damaged.
        """
        with np.errstate(over="ignore"):
            rows: NDArray[Any] = self._given(self.names[key]).astype(self.store_dtype, copy=False)
        return rows

    def _given(self, name: str) -> NDArray[Any]:
        with reading(self.path, f"data set {name[:200]!r}"):
            assert self._file is not None, "check comes first"
            data = self._file[name]
            check_values(self.path, name, data)
            self._before(data.nbytes)
            rows: NDArray[Any] = data[()]
        return rows

    def _check_values(self, key: str) -> None:
        """Keep the first data set of a key whose values are finite as stored, if there is one."""
        for name in [self.names[key], *self._others.get(key, ())]:
            given = self._given(name)
            with np.errstate(over="ignore"):
                if np.isfinite(given.astype(self.store_dtype, copy=False)).all():
                    self.names[key] = name
                    return
            detail = f"a value of data set {name!r} is not finite"
            if np.isfinite(given).all():
                detail += f" in {self.store_dtype}; --store-dtype float32 may hold it"
            self.not_finite.setdefault(key, detail)
        del self.names[key]

    def _match(self, file: h5py.File, name: str, data: h5py.Dataset) -> None:
        self.data_sets += 1
        digest, original = (
            text_of(self.path, name, data, each) for each in ("sequence_hash", "original_id")
        )
        key = self.wanted.key_of(name, digest, original)
        if key is None:
            self.unknown += 1
        elif key not in self.names:
            self._check_shape(name, data, self.wanted.rows[key])
            check_values(self.path, name, data)
            self.names[key] = name
        elif data.dtype in FLOATS and data.shape == file[self.names[key]].shape:
            self._others.setdefault(key, []).append(name)

    def _check_shape(self, name: str, data: h5py.Dataset, rows: int) -> None:
        if data.shape is None:
            raise self._wrong(name, "is empty", "Write floats.")
        if data.dtype not in FLOATS:
            raise self._wrong(name, f"holds {data.dtype}, not floats", "Write floats.")
        if data.ndim != 2:
            what = "one vector" if data.ndim == 1 else "no matrix"
            raise self._wrong(
                name,
                f"has shape {data.shape}: {what} a sequence",
                "A store keeps one row for each letter: give the per-token file.",
            )
        given, width = data.shape
        if given - rows in SPECIAL:
            raise self._wrong(
                name,
                f"has {given} rows, and its record {rows}: special tokens are still in there",
                "Write the file without their rows.",
            )
        if given != rows:
            raise self._wrong(
                name,
                f"has {given} rows, and its record's {self.wanted.view} view {rows}",
                "The file is of other sequences, or they were cut; or say --view.",
            )
        if width > MOST_WIDTH:
            raise self._wrong(
                name,
                f"is {width} wide, and {MOST_WIDTH} is the most",
                "Give embeddings of one row a letter.",
            )
        self.width = self.width or width
        if width != self.width or not width:
            raise self._wrong(
                name,
                f"is {width} wide, and those before it {self.width}",
                "Give each backbone a file of its own.",
            )

    def _wrong(self, name: str, problem: str, fix: str) -> BadInput:
        return BadInput(f"Data set {name[:200]!r} of {self.path} {problem}.", fix)
