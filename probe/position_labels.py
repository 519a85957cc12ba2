"""Labels of single positions: lists of numbers to a matrix, and to the tokens that they need.

Shape letters: N rows, P positions of the longest list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput

if TYPE_CHECKING:
    from embedstore.loaders import FeatureSet
    from probe.training import Examples

HALO = 2
"""Tokens behind the last label that its window reads: half of the widest kernel."""


def matrix_of_lists(
    lists: Sequence[Sequence[float | None]], ids: Sequence[str], letters: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Lists of numbers for the first positions of sequences, under each other.

    Parameters
    ----------
    lists : N of them; None and nan are positions without a label
    ids : of the rows, for errors
    letters : shape (N,): length of each sequence

    Returns
    -------
    labels, lengths
        float64, shape (N, P), nan where there is no label or the list has ended; and int64, shape
        (N,): the length of each list.

    Raises
    ------
    BadInput
        A list is longer than its sequence.
    """
    lengths = np.array([len(each) for each in lists], np.int64)
    if (lengths > letters).any():
        row = int((lengths > letters).argmax())
        raise BadInput(
            f"{ids[row]} has {lengths[row]} labels for {letters[row]} positions.",
            "A list holds the labels of the first positions of its sequence.",
        )
    labels = np.full((len(lists), int(lengths.max(initial=0))), np.nan)
    for row, each in enumerate(lists):
        labels[row, : len(each)] = np.array(each, np.float64)  # None becomes nan
    return labels, lengths


def tokens_needed(labels: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """How many first tokens the labels of each row need: to the last label, and `HALO` more.

    Parameters
    ----------
    labels : shape (N, P), nan where there is none

    Returns
    -------
    int64, shape (N,)
    """
    there = ~np.isnan(labels)
    behind_last = labels.shape[1] - there[:, ::-1].argmax(axis=1)
    return np.where(there.any(axis=1), behind_last, 0) + HALO


def values_of_tokens(
    values: NDArray[np.float32], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Training values of positions on the tokens of a batch.

    Parameters
    ----------
    values : shape (N, P), nan where there is no label
    lengths : shape (N,): tokens of each sequence

    Returns
    -------
    float32, shape (T, 1), nan where a token has no label
    """
    wide = max(int(lengths.max(initial=0)), values.shape[1])
    padded = np.full((len(values), wide), np.nan, np.float32)
    padded[:, : values.shape[1]] = values
    return padded[np.arange(wide) < lengths[:, None]][:, None]


def first_positions(outputs: NDArray[Any], positions: int) -> NDArray[Any]:
    """Outputs by token, shape (..., L), as shape (..., positions): cut, or nan behind the end."""
    if outputs.shape[-1] >= positions:
        return outputs[..., :positions]
    behind = np.full((*outputs.shape[:-1], positions - outputs.shape[-1]), np.nan, outputs.dtype)
    return np.concatenate([outputs, behind], axis=-1)


def check_reach(features: FeatureSet, *examples: Examples) -> None:
    """Raise BadInput where a label lies behind the last token of its row, as of a cut sequence."""
    for part in examples:
        tokens = features.lengths[features.rows[part.rows]]
        behind = np.arange(part.targets.shape[1]) >= tokens[:, None]
        if (behind & ~np.isnan(part.targets)).any():
            raise BadInput(
                "Some labels lie behind the last stored token of their sequence.",
                "Build the embeddings without cutting long sequences, or set --max-nt.",
            )
