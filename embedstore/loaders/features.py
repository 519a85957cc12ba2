"""Features for training: rows asked for in, packed batches of their tokens out.

Heads are trained on a `FeatureSet`, whatever is behind it: an array in memory (`Features`), one on
a GPU (`DeviceFeatures`), or a store that is read again each epoch (`StreamedFeatures`).

Shape letters: N rows, K <= N distinct inputs, B rows of a batch, T tokens in all, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.loaders.packing import cut_lengths, cut_passes, pack

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.loaders.joined import JoinedRecipe
    from embedstore.store import PackedEmbeddings, Recipe


class FeatureSet(Protocol):
    """Per-token features of N rows that share K distinct inputs."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Shape (N,): which distinct input each row reads."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Shape (K,): tokens of each distinct input."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def device(self) -> str:
        """Where batches come out, e.g. `cpu` or `cuda:0`; heads must be there too."""

    def batches(
        self,
        rows: NDArray[np.int64],
        size: int,
        order: np.random.Generator,
        keep: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Go once through some rows in a new random order.

        Parameters
        ----------
        rows : int64, shape (n,), places in `self.rows`
        size : rows of a batch; only the last one may hold fewer
        order : draws the order; its state is all that tells one epoch from the next
        keep : int64, shape (n,), how many first tokens of each row are wanted; None: all

        Yields
        ------
        places, tokens, lengths
            int64, shape (B,), places in the `rows` asked for; float32, shape (T, D), and int64,
            shape (B,), on the device.
        """

    def passes(
        self, inputs: NDArray[np.int64], most: int, keep: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Go once through some distinct inputs in the order asked, as for predictions.

        Parameters
        ----------
        inputs : int64, shape (n,), numbers of distinct inputs
        most : tokens of one pass, unless a single input has more; see `cut_passes`
        keep : int64, shape (n,), how many first tokens of each input are wanted; None: all

        Yields
        ------
        part, tokens, lengths
            Which of the `inputs`; tokens and lengths as in `batches`.
        """

    def pooled(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Average over tokens of each of some rows: float32, shape (n, D)."""


class EmbeddingReader(Protocol):
    """What features are read from: a recipe's embeddings, or those of several joined."""

    @property
    def recipe(self) -> Recipe | JoinedRecipe:
        """What made the embeddings."""

    @property
    def name(self) -> str:
        """Of the recipe."""

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which keys are stored: bool, shape (N,)."""

    def lengths(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Token rows of each embedding, shape (N,); reads no embedding."""

    def batch(self, keys: Sequence[str]) -> PackedEmbeddings:
        """Embeddings packed end to end in the order asked."""

    def read_into(self, keys: Sequence[str], out: NDArray[Any], at: NDArray[np.int64]) -> None:
        """Read embeddings into an array of the stored dtype, from given rows on."""

    def means(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Average over tokens of each embedding: float32, shape (N, D)."""

    def locate(self, keys: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Where they lie: segment and row within it, shape (N,) each."""


class InMemory(ABC):
    """Batches and passes of features whose inputs can be taken in any order."""

    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @abstractmethod
    def take(
        self, inputs: NDArray[np.int64], keep: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens, float32, shape (T, D), and lengths of some distinct inputs, on the device.

        Parameters
        ----------
        keep : int64, shape (n,), how many first tokens of each are wanted; None: all
        """

    def batches(
        self,
        rows: NDArray[np.int64],
        size: int,
        order: np.random.Generator,
        keep: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """As `FeatureSet.batches`."""
        shuffled = order.permutation(len(rows))
        for first in range(0, len(rows), size):
            batch = shuffled[first : first + size]
            yield batch, *self.take(self.rows[rows[batch]], None if keep is None else keep[batch])

    def passes(
        self, inputs: NDArray[np.int64], most: int, keep: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """As `FeatureSet.passes`."""
        lengths = cut_lengths(self.lengths[inputs], keep)
        for part in cut_passes(lengths, most):
            yield part, *self.take(inputs[part], lengths[part])


@dataclass(frozen=True, eq=False)
class Features(InMemory):
    """Per-token features of N rows in one array in memory."""

    tokens: NDArray[Any]
    """float16 or float32 as stored, shape (T, D): the distinct inputs end to end."""
    starts: NDArray[np.int64]
    """Shape (K,): first token of each distinct input."""
    lengths: NDArray[np.int64]
    """Shape (K,): tokens of each distinct input."""
    rows: NDArray[np.int64]
    """Shape (N,): which distinct input each row reads."""
    device: str = "cpu"
    """Where batches come out; to another one they are copied batch by batch."""

    @property
    def width(self) -> int:
        """D."""
        return int(self.tokens.shape[1])

    def take(
        self, inputs: NDArray[np.int64], keep: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `InMemory.take`; converted from what is stored."""
        lengths = cut_lengths(self.lengths[inputs], keep)
        spans = zip(self.starts[inputs].tolist(), lengths.tolist(), strict=True)
        return pack([self.tokens[s : s + n] for s, n in spans], lengths, self.device)

    def pooled(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `FeatureSet.pooled`; zeros where an input has no token."""
        return self._means[self.rows[rows]]

    @cached_property
    def _means(self) -> NDArray[np.float32]:
        means = np.zeros((len(self.lengths), self.width), np.float32)
        for row, (start, count) in enumerate(zip(self.starts, self.lengths, strict=True)):
            if count:
                means[row] = self.tokens[start : start + count].mean(axis=0, dtype=np.float32)
        return means


def number_inputs(keys: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct keys in the order of their first row, and which of them each row has."""
    place: dict[str, int] = {}
    rows = np.array([place.setdefault(key, len(place)) for key in keys], np.int64)
    return list(place), rows


def load_features(reader: EmbeddingReader, keys: Sequence[str], device: str = "cpu") -> Features:
    """Read the embeddings of many keys into memory, each distinct one once.

    Parameters
    ----------
    device : where batches are to come out

    Raises
    ------
    MissingEmbedding
        A key was never written.
    DamagedSegment
        Stored bytes do not match their checksum.
    """
    distinct, rows = number_inputs(keys)
    packed = reader.batch(distinct)
    starts = np.cumsum(packed.lengths) - packed.lengths
    return Features(packed.tokens, starts, packed.lengths, rows, device)
