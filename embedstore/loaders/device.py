"""Features that stay on a GPU: read from the store in pieces, batches gathered where they are.

Shape letters: N rows, K distinct inputs, T tokens in all, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedstore.loaders.features import EmbeddingReader, InMemory, number_inputs
from embedstore.loaders.packing import cut_lengths, cut_passes

if TYPE_CHECKING:
    from torch import Tensor

PIECE_BYTES = 256 << 20
"""Read into host memory at once on the way to the device."""


@dataclass(frozen=True, eq=False)
class DeviceFeatures(InMemory):
    """Per-token features of N rows in one tensor on a device."""

    tokens: Tensor
    """float16 or float32 as stored, shape (T, D): the distinct inputs end to end."""
    starts: NDArray[np.int64]
    """Shape (K,), in host memory as `lengths` and `rows` are."""
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    means: NDArray[np.float32]
    """Shape (K, D), in host memory: average over tokens."""

    @property
    def width(self) -> int:
        """D."""
        return int(self.tokens.shape[1])

    @property
    def device(self) -> str:
        """Where the tokens are."""
        return str(self.tokens.device)

    def take(
        self, inputs: NDArray[np.int64], keep: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `InMemory.take`; nothing but row numbers is copied from the host."""
        import torch

        lengths = cut_lengths(self.lengths[inputs], keep)
        shift = self.starts[inputs] - (np.cumsum(lengths) - lengths)
        rows = torch.from_numpy(np.arange(lengths.sum()) + np.repeat(shift, lengths))
        taken = self.tokens[rows.to(self.tokens.device)]
        counts = torch.from_numpy(lengths).to(self.tokens.device)
        return taken.to(torch.float32), counts

    def pooled(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `FeatureSet.pooled`."""
        return self.means[self.rows[rows]]


def load_to_device(reader: EmbeddingReader, keys: Sequence[str], device: str) -> DeviceFeatures:
    """Read the embeddings of many keys onto a device, each distinct one once.

    Host memory holds a piece of `PIECE_BYTES` at a time.

    Raises
    ------
    MissingEmbedding
        A key was never written.
    DamagedSegment
        Stored bytes do not match their checksum.
    """
    import torch

    distinct, rows = number_inputs(keys)
    lengths = reader.lengths(distinct)
    starts = np.cumsum(lengths) - lengths
    recipe = reader.recipe
    dtype = getattr(torch, recipe.store_dtype)
    tokens = torch.empty(int(lengths.sum()), recipe.width, dtype=dtype, device=device)
    for part in cut_passes(lengths, PIECE_BYTES // (recipe.width * dtype.itemsize)):
        piece = torch.from_numpy(reader.batch(distinct[part]).tokens)
        first = int(starts[part.start])
        tokens[first : first + len(piece)].copy_(piece)
    return DeviceFeatures(tokens, starts, lengths, rows, reader.means(distinct))
