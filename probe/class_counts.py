"""Classes in the parts of a split: class numbers in, counts and doubts out.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from probe.splits import PARTS, Split

NAMED = 5
"""Classes that a sentence names before it counts the others."""
FEWEST = len(PARTS)
"""Rows of a class that can stand in every part."""


def class_counts(
    targets: NDArray[np.int64], split: Split, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Rows of each class in train, validation and test: int64, shape (C, 3).

    Parameters
    ----------
    targets : class numbers, shape (N,)
    split : of the same N rows
    """
    parts = [split.parts[part] for part in PARTS]
    return np.stack([np.bincount(targets[rows], minlength=len(classes)) for rows in parts], axis=1)


def name_counts(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """The counts by class and part."""
    return {
        name: dict(zip(PARTS, row, strict=True))
        for name, row in zip(classes, counts.tolist(), strict=True)
    }


def doubt_classes(counts: NDArray[np.int64], classes: Sequence[str]) -> Iterator[str]:
    """What a part lacks: classes that cannot be learnt, chosen by or judged, in sentences.

    Parameters
    ----------
    counts : as `class_counts` gives them, shape (C, 3)
    """
    whole = counts.sum(axis=1)
    sizes = counts.sum(axis=0)
    test = PARTS.index("test")
    for at, part in enumerate(PARTS):
        lacking = np.flatnonzero((counts[:, at] == 0) & (whole > 0)).tolist()
        if part != "train":
            there = np.flatnonzero(counts[:, at]).tolist()
            if len(there) == 1:
                yield (
                    f"All {sizes[at]:,} {part} rows are of one class, {classes[there[0]]!r}: an "
                    "accuracy there says nothing of telling classes apart."
                )
        if not lacking:
            continue
        said = _named([f"{classes[row]!r} ({_rows(int(whole[row]))})" for row in lacking])
        one = len(lacking) == 1
        start = (
            f"{'Class' if one else 'Classes'} {said} {'is' if one else 'are'} absent from {part}"
        )
        if part != "train":
            does = (
                "heads are not chosen by" if part == "validation" else "the score says nothing of"
            )
            yield f"{start}, so {does} how well {'it is' if one else 'they are'} recognised."
            continue
        wrong = int(counts[lacking, test].sum())
        yield (
            f"{start}, so no head can be right about {'it' if one else 'them'}: "
            f"{wrong:,} of the {sizes[test]:,} test rows are wrong from the start, and the best "
            f"accuracy there is {1 - wrong / sizes[test]:.3f}."
        )
    small = np.flatnonzero((whole > 0) & (whole < FEWEST)).tolist()
    if small:
        one = len(small) == 1
        said = _named([f"{classes[row]!r} ({_rows(int(whole[row]))})" for row in small])
        yield (
            f"{'Class' if one else 'Classes'} {said} {'has' if one else 'have'} fewer than "
            f"{FEWEST} rows, too few for every part; a random split gives train the first."
        )
    empty = np.flatnonzero(whole == 0).tolist()
    if empty:
        said = _named([repr(classes[row]) for row in empty])
        yield f"No row of {said} is left: the class is an output that nothing trains."


def _rows(count: int) -> str:
    return f"{count:,} row" + ("s" if count != 1 else "")


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
