"""Splits of rows into train, validation and test: ids and a seed in, row positions out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from probe.documents import read_json, write_json

FORMAT = 1
PARTS = ("train", "validation", "test")
SMALLEST_PART = 3
"""Rows: a rank correlation over two is always 1 or -1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which rows train, which choose and which judge."""

    ids: tuple[str, ...]
    """Id of every row; the positions below point into it."""
    train: NDArray[np.int64]
    """Row positions, in the order of their ids, like those below."""
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    rule: str
    """How rows were assigned, e.g. `random 0.7:0.15:0.15`."""

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @cached_property
    def digest(self) -> str:
        """32 hex digits of which id is in which part; the order of rows does not enter."""
        return hashlib.blake2b(_canonical(self._ids_by_part()), digest_size=16).hexdigest()

    def save(self, path: Path) -> None:
        """Write the split as JSON, parts by id, at once."""
        header = {"kind": "split", "format": FORMAT, "rule": self.rule, "seed": self.seed}
        write_json(path, {**header, "digest": self.digest, **self._ids_by_part()})

    def _ids_by_part(self) -> dict[str, list[str]]:
        return {part: sorted(self.ids[row] for row in rows) for part, rows in self.parts.items()}


def load_split(path: Path, ids: Sequence[str]) -> Split:
    """A saved split over these rows, which may come in any order.

    Raises
    ------
    BadInput
        The file is missing or no split, its digest does not match its parts, or it splits
        other ids.
    NewerFormat
        A later version wrote it.
    """
    saved = read_json(path, "split", FORMAT)
    again = "Use the split of a run over the same rows, or make a new one."
    try:
        parts = {part: [str(id) for id in saved[part]] for part in PARTS}
        seed, rule, digest = int(saved["seed"]), str(saved["rule"]), str(saved["digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is no split: {error!r}.", again) from error
    position = _positions(ids)
    if sorted(id for part in parts.values() for id in part) != sorted(position):
        raise BadInput(f"{path} splits other ids than these {len(ids)}.", again)
    split = Split(ids=tuple(ids), seed=seed, rule=rule, **_rows_by_part(parts, position))
    if split.digest != digest:
        raise BadInput(f"{path} was changed: its parts have another digest.", again)
    return split


def random_split(
    ids: Sequence[str], seed: int, fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
) -> Split:
    """Split rows at random: a function of the set of ids and the seed alone.

    The order of the rows and what else is known of them (backbone, label) do not enter.

    Parameters
    ----------
    ids : distinct strings, N of them
    seed : int, at least 0
    fractions : train, validation and test, adding up to 1

    Raises
    ------
    BadInput
        An id occurs twice, or a part would get fewer than `SMALLEST_PART` rows.
    ValueError
        The fractions do not add up to 1, or one is not positive.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be positive and add up to 1, got {fractions}")
    position = _positions(ids)
    ordered = sorted(ids)  # by code point: the same everywhere
    train, validation = round(fractions[0] * len(ids)), round(fractions[1] * len(ids))
    if min(train, validation, len(ids) - train - validation) < SMALLEST_PART:
        raise BadInput(
            f"{len(ids)} rows are too few: train, validation and test need {SMALLEST_PART} each.",
            "Add labelled records, or loosen the filters.",
        )
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(ids))
    cut = np.split(drawn, [train, train + validation])
    parts = {
        part: [ordered[i] for i in rows.tolist()] for part, rows in zip(PARTS, cut, strict=True)
    }
    rule = "random " + ":".join(f"{fraction:g}" for fraction in fractions)
    return Split(ids=tuple(ids), seed=seed, rule=rule, **_rows_by_part(parts, position))


def _positions(ids: Sequence[str]) -> dict[str, int]:
    position = {id: row for row, id in enumerate(ids)}
    if len(position) != len(ids):
        twice = next(id for row, id in enumerate(ids) if position[id] != row)
        raise BadInput(f"The id {twice!r} occurs more than once.", "Give every record its own id.")
    return position


def _rows_by_part(
    parts: Mapping[str, Sequence[str]], position: Mapping[str, int]
) -> dict[str, NDArray[np.int64]]:
    return {
        part: np.array([position[id] for id in sorted(members)], np.int64)
        for part, members in parts.items()
    }


def _canonical(value: dict[str, list[str]]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
