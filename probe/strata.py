"""Classes in equal shares over the parts of a split: counts or groups in, places out.

Shape letters: C classes, P parts, G groups. Which number a class has never matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SLACK = 0.05
"""By how much of its rows a part may grow beyond its share so that it has a rare class."""

_TINY = 1e-9  # so that 0.15 * 20 is three whole rows


def share_out(counts: Sequence[int], fractions: Sequence[float]) -> NDArray[np.int64]:
    """How many rows of each class go to each part.

    Each part gets its share of each class, rounded down or up (Cox's controlled rounding, 1987);
    which of the two is chosen so that whole parts come near their shares too. A class of one or two
    rows goes to the first part first, then to the second. One of three or more goes to every part,
    unless a part would grow by more than `SLACK` of its rows (but one row may always come).

    Parameters
    ----------
    counts : rows of C classes, the largest first
    fractions : of P parts, adding up to 1, in the order in which they must have each class

    Returns
    -------
    int64, shape (C, P), rows adding up to the counts; each less than one row from its share, or for
    a class of three rows one from its rounded share
    """
    shares = np.array(fractions)
    room = np.zeros(len(shares))  # share of the classes so far, less what was given
    slack = np.maximum(1.0, SLACK * sum(counts) * shares)
    given = np.zeros((len(counts), len(shares)), np.int64)
    for number, count in enumerate(counts):
        wanted = count * shares
        mine = given[number]
        mine += np.floor(wanted + _TINY).astype(np.int64)
        room += wanted - mine
        rest = count - int(mine.sum())
        fits = room - 1 >= -slack - _TINY
        if count < 3:
            first = [at for at in (0, 1) if mine[at] == 0 and (fits[at] or at == 0)]
        else:
            first = [at for at in range(len(shares)) if mine[at] == 0 and (fits[at] or at == 0)]
        by_need = sorted(range(len(shares)), key=lambda at: (-round(float(room[at]), 9), at))
        for at in [*first, *(at for at in by_need if at not in first)]:
            fraction = wanted[at] - math.floor(wanted[at] + _TINY)
            if rest and fraction > _TINY:
                mine[at] += 1
                room[at] -= 1
                rest -= 1
            elif at in first and count >= 3 and mine[0] > 1 and fraction > _TINY:
                mine[at] += 1  # of three rows one is for each part
                mine[0] -= 1
                room[at] -= 1
                room[0] += 1
        assert rest == 0, "the fractions of three shares add up to less than three rows"
    return given


def place_groups(
    sizes: NDArray[np.int64], order: Sequence[int], fractions: Sequence[float]
) -> list[int]:
    """The part of each group, so that every part gets its share of rows and of each class.

    Groups come in the given order, each into the part that lacks most of what the group has: for
    every class, and for all rows together, the missing rows of the part weighted by the group's
    rows and divided by the rows there are. Where a class stands in no more groups to come than
    there are parts without it, the group goes to one of these, first parts first, unless the part
    would grow by more than `SLACK` of its rows.

    Parameters
    ----------
    sizes : int64, shape (G, C): rows of each class in each group
    order : the G groups, the largest first
    fractions : of P parts, adding up to 1, in the order in which they must have each class

    Returns
    -------
    Part of each group
    """
    shares = np.array(fractions)
    counts = np.column_stack([sizes, sizes.sum(axis=1)]).astype(np.float64)  # (G, C + 1)
    totals = counts.sum(axis=0)
    weighted = counts / np.maximum(totals, 1)
    room = np.outer(shares, totals)  # (P, C + 1)
    slack = np.maximum(1.0, SLACK * room[:, -1])
    to_come = (sizes > 0).sum(axis=0)  # (C,)
    lacks = np.ones((len(shares), sizes.shape[1]), np.bool_)
    placed = [0] * len(sizes)
    for group in order:
        there = sizes[group] > 0
        fits = counts[group, -1] - room[:, -1] <= slack + _TINY
        urgent = there & (to_come <= lacks.sum(axis=0))
        to = None
        if urgent.any():
            rarest = np.flatnonzero(urgent)[to_come[urgent].argmin()]
            to = next((at for at in range(len(shares)) if lacks[at, rarest] and fits[at]), None)
        if to is None:
            to = int(np.round(room @ weighted[group], 9).argmax())
        placed[group] = to
        room[to] -= counts[group]
        lacks[to] &= ~there
        to_come -= there
    return placed
