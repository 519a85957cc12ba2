"""Prediction intervals by split conformal prediction: validation residuals in, half-widths out.

A half-width q makes the interval [prediction - q, prediction + q]. It is a quantile of the absolute
residuals |label - prediction| of validation rows (Papadopoulos et al. 2002; Lei et al. 2018),
corrected for their number, and needs no assumption on model or noise. What it guarantees: of new
rows that are drawn like the validation rows, at least 1 - level lie within their interval, on
average over validation sets; with n rows of different residuals at most 1 - level + 1 / (n + 1).

What it does not: coverage of every subgroup; of rows unlike the validation rows (a random split
says nothing of new families: give the groups of a split by groups); and it is a little optimistic
where the same rows chose the epoch or the configuration, so coverage is to be measured on the test
rows, which `coverage` does.

Rows that belong together (families, or the positions of one row) are not exchangeable one by one.
With groups each group weighs the same, and the guarantee is for a random row of a new group (Lee,
Barber and Willett 2023, hierarchical conformal prediction). Groups of one row give the plain rule.

Shape letters: N rows, Q outputs or positions, G groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""Share of new rows that may lie outside of their interval."""


@dataclass(frozen=True, kw_only=True)
class HalfWidth:
    """How far predictions of one output may be off."""

    value: float
    """In the unit of the labels; nan where there is no interval."""
    level: float
    rows: int
    """Validation labels that it rests on."""
    groups: int
    """Groups of them; as many as rows where each is by itself."""
    reason: str | None = None
    """Why there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many labels lie within their interval."""

    rows: int
    covered: int

    @property
    def share(self) -> float:
        """nan without rows."""
        return self.covered / self.rows if self.rows else math.nan


def fewest_groups(level: float) -> int:
    """Groups (rows, where each is by itself) from which there is an interval of this level."""
    return math.ceil(1 / level - 1e-9) - 1


def half_width(
    residuals: NDArray[np.floating[Any]],
    level: float = LEVEL,
    groups: NDArray[np.int64] | None = None,
) -> HalfWidth:
    """The half-width of the intervals of one output.

    Without groups the ceil((n + 1) (1 - level))-th smallest absolute residual of n rows. With
    groups the smallest one with at least 1 - level of the weight at or below it, where each of G
    groups weighs 1 / (G + 1), shared evenly by its rows, and the rest lies at infinity.

    Parameters
    ----------
    residuals : label - prediction of validation rows, shape (N,); nan, where a row has no label,
        is left out
    level : between 0 and 1
    groups : int64, shape (N,): rows with one number belong together; default each by itself

    Raises
    ------
    ValueError
        The level is not between 0 and 1, or shapes differ.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if residuals.ndim != 1 or (groups is not None and groups.shape != residuals.shape):
        raise ValueError(f"residuals of shape {residuals.shape} are not those of one output")
    there = ~np.isnan(residuals)
    sizes = np.abs(residuals[there].astype(np.float64))
    rows = len(sizes)
    member = np.arange(rows) if groups is None else np.unique(groups[there], return_inverse=True)[1]
    members = np.bincount(member)
    count = len(members)
    least = fewest_groups(level)
    value, reason = math.nan, None
    if count < least:
        what = "validation rows" if groups is None else "groups of validation rows"
        reason = (
            f"{count:,} {what} are too few for intervals that hold {100 * (1 - level):g} % of new "
            f"ones: {least:,} are needed."
        )
    elif not np.isfinite(sizes).all():
        reason = "A validation prediction is not finite."
    else:
        order = np.argsort(sizes)
        weight = np.cumsum(1 / members[member[order]]) / (count + 1)
        # rounding must not take the row that is needed for one less
        at = int(np.searchsorted(weight, 1 - level - 1e-9))
        value = float(sizes[order[min(at, rows - 1)]])
    return HalfWidth(value=value, level=level, rows=rows, groups=count, reason=reason)


def half_widths(
    residuals: NDArray[np.floating[Any]],
    level: float = LEVEL,
    groups: NDArray[np.int64] | None = None,
) -> list[HalfWidth]:
    """The half-width of each of several outputs, or of each position by itself.

    Each holds for its own output; all outputs of a row together are covered less often, see
    `half_width_of_all`. An output with too few labels has none, with the reason, beside others that
    have one.

    Parameters
    ----------
    residuals : shape (N, Q), nan where a row has no such label
    groups : int64, shape (N,), as in `half_width`

    Returns
    -------
    Q of them
    """
    return [half_width(column, level, groups) for column in residuals.T]


def half_width_of_positions(
    residuals: NDArray[np.floating[Any]],
    level: float = LEVEL,
    groups: NDArray[np.int64] | None = None,
) -> HalfWidth:
    """One half-width for all positions: of a random position of a new row.

    The positions of a row are a group, so that a row counts once however long it is; rows that
    belong together share theirs.

    Parameters
    ----------
    residuals : shape (N, P), nan where a row has no such position
    groups : int64, shape (N,): rows that belong together; default each by itself
    """
    member = np.arange(len(residuals)) if groups is None else groups
    return half_width(residuals.ravel(), level, member.repeat(residuals.shape[1]))


def half_width_of_all(
    residuals: NDArray[np.floating[Any]],
    level: float = LEVEL,
    groups: NDArray[np.int64] | None = None,
    scale: NDArray[np.float64] | None = None,
) -> HalfWidth:
    """How many scales every output of a new row may be off at once.

    The conformal rule on the largest scaled residual of each row (Diquigiovanni et al. 2022).

    Parameters
    ----------
    residuals : shape (N, Q), nan where a row has no such label; a row without any is left out
    scale : float64 above 0, shape (Q,), from other rows than these, e.g. the spread of the training
        labels; the half-width of output q is the value times scale[q]. Default 1.
    """
    scaled = np.abs(residuals) / (np.ones(residuals.shape[1]) if scale is None else scale)
    absent = np.isnan(scaled)
    largest = np.where(absent, -math.inf, scaled).max(axis=1)
    return half_width(np.where(absent.all(axis=1), math.nan, largest), level, groups)


def coverage(
    predicted: NDArray[np.floating[Any]],
    true: NDArray[np.floating[Any]],
    width: float | NDArray[np.float64],
) -> Coverage:
    """How many of some labels, of any shape, lie within their interval; nan is no label.

    Parameters
    ----------
    width : half-width, one for all or of a shape that fits the labels; nan holds none

    Raises
    ------
    ValueError
        The shapes of predictions and labels differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"shapes differ: predicted {predicted.shape}, true {true.shape}")
    there = ~np.isnan(true)
    inside = np.abs(true - predicted) <= width  # nan is not inside
    return Coverage(rows=int(there.sum()), covered=int((inside & there).sum()))
