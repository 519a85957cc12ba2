"""Splits of rows into train, validation and test: ids and a seed in, row positions out.

A split is a function of the set of ids, of which of them belong together or to one class, and of
the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from probe.documents import read_json, write_json
from probe.run_documents import SplitDocument, digest_of_parts
from probe.strata import place_groups, share_out

PARTS = ("train", "validation", "test")
PAPER = (0.70, 0.15, 0.15)
"""Shares of train, validation and test."""
SMALLEST_PART = 3
"""Rows: a rank correlation over two is always 1 or -1."""

_PART_NAMES = {part: part for part in PARTS} | dict.fromkeys(("dev", "valid", "val"), "validation")


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
        return digest_of_parts(self._ids_by_part())

    def save(self, path: Path) -> None:
        """Write the split as JSON, parts by id, at once."""
        header = {"rule": self.rule, "seed": self.seed, "digest": self.digest}
        write_json(path, SplitDocument, {**header, **self._ids_by_part()})

    def _ids_by_part(self) -> dict[str, list[str]]:
        return {part: sorted(self.ids[row] for row in rows) for part, rows in self.parts.items()}


def load_split(path: Path, ids: Sequence[str]) -> Split:
    """A saved split over these rows, which may come in any order.

    The file may split more rows than these: the others are left out, so a split of a whole
    collection serves every run over a part of it.

    Raises
    ------
    BadInput
        The file is missing or no split, its digest does not match its parts, it lacks one of the
        ids, or leaves a part with fewer than `SMALLEST_PART` of them.
    NewerFormat
        A later version wrote it.
    """
    return split_of(read_json(path, SplitDocument), path, ids)


def split_of(saved: SplitDocument, path: Path, ids: Sequence[str]) -> Split:
    """As `load_split`, of a document that was read before.

    Parameters
    ----------
    path : of its file, for errors

    Raises
    ------
    BadInput
    """
    position = _positions(ids)
    mine = {part: [id for id in members if id in position] for part, members in saved.parts.items()}
    if sorted(id for members in mine.values() for id in members) != sorted(position):
        raise BadInput(
            f"{str(path)!r} splits other ids than these {len(ids)}.",
            "Use the split of a run over the same rows, or make a new one.",
        )
    return _split(ids, mine, saved.seed, saved.rule)


def random_split(
    ids: Sequence[str], seed: int, fractions: tuple[float, float, float] = PAPER
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
    _positions(ids)
    ordered = sorted(ids)  # by code point: the same everywhere
    train, validation = round(fractions[0] * len(ids)), round(fractions[1] * len(ids))
    drawn = _permutation(len(ids), seed)
    cut = np.split(drawn, [train, train + validation])
    parts = {
        part: [ordered[i] for i in rows.tolist()] for part, rows in zip(PARTS, cut, strict=True)
    }
    return _split(ids, parts, seed, f"random {_ratio(fractions)}")


def stratified_split(
    ids: Sequence[str],
    classes: NDArray[np.int64],
    seed: int,
    fractions: tuple[float, float, float] = PAPER,
) -> Split:
    """Split the rows of each class at random, so that every part has its share of each.

    A function of the set of ids, of which of them are of one class, and of the seed. In each part
    the rows of a class are less than one row from its share (of a class of three rows: one from the
    rounded share, so that each part has one); a class of one or two rows trains first. Parts as a
    whole come near their shares too: see `probe.strata.share_out`.

    Parameters
    ----------
    ids : distinct strings, N of them
    classes : int64, shape (N,): rows with equal numbers are of one class; what the numbers are does
        not enter
    seed : int, at least 0
    fractions : train, validation and test, adding up to 1

    Raises
    ------
    BadInput
        An id occurs twice, or a part would get fewer than `SMALLEST_PART` rows.
    """
    drawn = _drawn_by_class(ids, classes, seed)
    order = (0, 2, 1)  # where rows are few, a test says more than a validation
    counts = share_out([len(members) for members in drawn], [fractions[at] for at in order])
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for members, given in zip(drawn, counts.tolist(), strict=True):
        train, test, _ = given
        parts["train"] += members[:train]
        parts["test"] += members[train : train + test]
        parts["validation"] += members[train + test :]
    return _split(ids, parts, seed, f"random by class {_ratio(fractions)}")


def group_split(
    ids: Sequence[str],
    groups: NDArray[np.int64],
    seed: int,
    *,
    rule: str,
    fractions: tuple[float, float, float] = PAPER,
    classes: NDArray[np.int64] | None = None,
) -> Split:
    """Split whole groups at random, so that no group stands in two parts.

    The largest group goes first, each into the part that is furthest below its share; groups of
    one size come in random order. So the largest groups train, and parts come as near to their
    fractions as groups allow. With classes, each of them does too, as far as groups allow: see
    `probe.strata.place_groups`.

    Parameters
    ----------
    groups : int64, shape (N,): rows with equal numbers stay together; what the numbers are does
        not enter
    rule : how groups were made, for people
    classes : int64, shape (N,): rows with equal numbers are of one class

    Raises
    ------
    BadInput
        An id occurs twice, or groups are too few or too large for every part to get
        `SMALLEST_PART` rows.
    """
    members = _members(ids, groups)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    order = _largest_first(members, seed)
    if classes is None:
        room = np.array(fractions) * len(ids)
        for group in order:
            to = int(room.argmax())
            parts[PARTS[to]] += members[group]
            room[to] -= len(members[group])
    else:
        named = ("train", "test", "validation")  # the order in which they need each class
        shares = [fractions[PARTS.index(part)] for part in named]
        placed = place_groups(_class_counts(ids, classes, members), order, shares)
        for group in order:
            parts[named[placed[group]]] += members[group]
    by_class = "" if classes is None else " by class"
    rule = f"{rule} in {len(members)} groups{by_class} {_ratio(fractions)}"
    return _split(ids, parts, seed, rule, f"They form {len(members)} groups.")


def fold_split(
    ids: Sequence[str],
    seed: int,
    *,
    folds: int,
    fold: int,
    rule: str = "random",
    groups: NDArray[np.int64] | None = None,
    classes: NDArray[np.int64] | None = None,
) -> Split:
    """One of k folds: fold `fold` tests, the next one (cyclically) validates, all others train.

    Over all folds each row is tested once. Folds are the same whichever is asked for. With classes,
    the rows of each differ by at most one between folds, or with groups as little as they allow.

    Parameters
    ----------
    folds : 3 or more
    fold : counted from 0
    groups : int64, shape (N,): rows with equal numbers share their fold; default each by itself
    classes : int64, shape (N,): rows with equal numbers are of one class

    Raises
    ------
    BadInput
        There is no such fold, an id occurs twice, or a part gets fewer than `SMALLEST_PART` rows.
    """
    if folds < 3 or not 0 <= fold < folds:
        raise BadInput(
            f"There is no fold {fold} of {folds}.",
            "Give --folds of 3 or more, and a --fold from 0 to one less.",
        )
    filled: list[list[str]] = [[] for _ in range(folds)]
    if classes is not None and groups is None:
        dealt = [id for members in _drawn_by_class(ids, classes, seed) for id in members]
        filled = [dealt[at::folds] for at in range(folds)]
    else:
        members = _members(ids, np.arange(len(ids)) if groups is None else groups)
        order = _largest_first(members, seed)
        if classes is None:
            for group in order:
                min(filled, key=len).extend(members[group])
        else:
            counts = _class_counts(ids, classes, members)
            placed = place_groups(counts, order, [1 / folds] * folds)
            for group in order:
                filled[placed[group]].extend(members[group])
    validation = (fold + 1) % folds
    train = [id for at, ids_ in enumerate(filled) if at not in (fold, validation) for id in ids_]
    parts = {"train": train, "validation": filled[validation], "test": filled[fold]}
    by_class = "" if classes is None else " by class"
    return _split(ids, parts, seed, f"{rule}{by_class} fold {fold} of {folds}")


def column_split(ids: Sequence[str], values: Sequence[str | None], column: str) -> Split:
    """The split that a column of the table names: `train`, `validation` or `test` for each row.

    `dev`, `valid` and `val` are other names of validation; upper case is lower case.

    Raises
    ------
    BadInput
        An id occurs twice, a value is none of these, or a part gets fewer than `SMALLEST_PART`
        rows.
    """
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for id, value in zip(ids, values, strict=True):
        part = _PART_NAMES.get(str(value).strip().lower())
        if part is None:
            shown = "nothing" if value is None else repr(value)
            raise BadInput(
                f"The column {column} says {shown} of {id}.",
                f"Write {', '.join(sorted(_PART_NAMES))}, or choose another --split.",
            )
        parts[part].append(id)
    return _split(ids, parts, 0, f"column {column}")


def _members(ids: Sequence[str], groups: NDArray[np.int64]) -> list[list[str]]:
    """The ids of each group, sorted, groups in the order of their first ids."""
    _positions(ids)
    of = dict(zip(ids, groups.tolist(), strict=True))
    members: dict[int, list[str]] = {}
    for id in sorted(ids):
        members.setdefault(of[id], []).append(id)
    return list(members.values())


def _class_counts(
    ids: Sequence[str], classes: NDArray[np.int64], members: Sequence[Sequence[str]]
) -> NDArray[np.int64]:
    """Rows of each class in each group, shape (G, C); classes in the order of their first ids."""
    of = _class_of(ids, classes)
    counts = np.zeros((len(members), len(set(of.values()))), np.int64)
    for group, own in enumerate(members):
        for id in own:
            counts[group, of[id]] += 1
    return counts


def _class_of(ids: Sequence[str], classes: NDArray[np.int64]) -> dict[str, int]:
    """The class of each id, numbered in the order of first ids."""
    _positions(ids)
    told = dict(zip(ids, classes.tolist(), strict=True))
    number: dict[int, int] = {}
    return {id: number.setdefault(told[id], len(number)) for id in sorted(ids)}


def _drawn_by_class(ids: Sequence[str], classes: NDArray[np.int64], seed: int) -> list[list[str]]:
    """The ids of each class in random order, the largest class first, ties in random order."""
    of = _class_of(ids, classes)
    ordered = sorted(ids)
    members: dict[int, list[str]] = {}
    for at in _permutation(len(ids), seed).tolist():
        members.setdefault(of[ordered[at]], []).append(ordered[at])
    return sorted(members.values(), key=lambda own: -len(own))  # stable


def _largest_first(members: Sequence[Sequence[str]], seed: int) -> list[int]:
    drawn = _permutation(len(members), seed).tolist()
    return sorted(drawn, key=lambda group: -len(members[group]))  # stable: ties stay random


def _permutation(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(seed)).permutation(count)


def _split(
    ids: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    seed: int,
    rule: str,
    why: str = "",
) -> Split:
    """The split of these parts, none of which may be too small."""
    position = _positions(ids)
    if min(map(len, parts.values())) < SMALLEST_PART:
        got = ", ".join(f"{part} {len(members)}" for part, members in parts.items())
        raise BadInput(
            f"{len(ids)} rows are too few: train, validation and test need {SMALLEST_PART} each, "
            f"and get {got}. {why}".strip(),
            "Add labelled records, loosen the filters, or choose another --split.",
        )
    rows = {
        part: np.array([position[id] for id in sorted(members)], np.int64)
        for part, members in parts.items()
    }
    return Split(ids=tuple(ids), seed=seed, rule=rule, **rows)


def _positions(ids: Sequence[str]) -> dict[str, int]:
    position = {id: row for row, id in enumerate(ids)}
    if len(position) != len(ids):
        twice = next(id for row, id in enumerate(ids) if position[id] != row)
        raise BadInput(f"The id {twice!r} occurs more than once.", "Give every record its own id.")
    return position


def _ratio(fractions: Sequence[float]) -> str:
    return ":".join(f"{fraction:g}" for fraction in fractions)
