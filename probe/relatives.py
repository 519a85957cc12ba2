"""Test rows that have relatives in train: groups and a split in; counts and masks out.

A relative is a row of the same group: one that shares the input, or that a clustering puts beside
it. Where test rows have relatives in train, a head can score by what it remembers of these; the
score of the others, beside the whole, shows how much of it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.splits import Split


@dataclass(frozen=True, kw_only=True)
class Relatives:
    """What one way of grouping sees of a split."""

    rule: str
    """How rows were grouped, e.g. `protein 4-mers, Jaccard 0.2`."""
    rows: int
    """Rows that were compared."""
    groups: int
    largest: int
    """Rows of the largest group: what chains of relatives make of single linkage."""
    test: int
    """Test rows that were compared."""
    copies: int
    """Of those, rows whose sequence also stands in train."""
    relatives: int
    """Of those, rows whose group also stands in train, copies among them."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def has_relatives(groups: NDArray[np.int64], split: Split) -> NDArray[np.bool_]:
    """Which test rows have a relative in train.

    The score of the test rows without any is the metric over `~has_relatives(groups, split)`.

    Parameters
    ----------
    groups : int64, shape (N,), of the rows of the split: rows with equal numbers are relatives; a
        negative number is a row without any

    Returns
    -------
    bool, shape (test rows,), in the order of `split.test`
    """
    if len(groups) != len(split.ids):
        raise ValueError(f"{len(groups)} groups of {len(split.ids)} rows")
    mine = groups[split.test]
    return np.isin(mine, groups[split.train]) & (mine >= 0)


def count_relatives(
    groups: NDArray[np.int64], copies: NDArray[np.int64], split: Split, rule: str
) -> Relatives:
    """Count the test rows that have copies and relatives in train.

    Parameters
    ----------
    groups : int64, shape (N,): relatives, as in `has_relatives`; negative for rows that were not
        compared
    copies : int64, shape (N,): likewise, rows with the same sequence
    rule : how rows were grouped, in words
    """
    compared = groups >= 0
    same = has_relatives(copies, split)
    sizes = np.bincount(np.unique(groups[compared], return_inverse=True)[1])
    return Relatives(
        rule=rule,
        rows=int(compared.sum()),
        groups=len(sizes),
        largest=int(sizes.max(initial=0)),
        test=int(compared[split.test].sum()),
        copies=int(same.sum()),
        relatives=int((same | has_relatives(groups, split)).sum()),
    )


def doubt_relatives(found: Sequence[Relatives]) -> str | None:
    """A sentence for people on the way of grouping that sees the most relatives; None without any.

    Copies are another sentence: see `probe.audit`.
    """
    most = max(found, key=lambda one: one.relatives, default=None)
    if most is None or most.relatives <= most.copies:
        return None
    share = 100 * most.relatives / most.test
    shown = f"{share:.0f} %" if share >= 1 else "under 1 %"
    return (
        f"{most.relatives:,} of {most.test:,} test rows ({shown}) have relatives in train "
        f"({most.rule}), {most.copies:,} of them an exact copy: compare their score with that of "
        "the others, or split by --split group:homolog."
    )
