"""Features larger than memory: read from the store again for every pass, window by window.

What a window holds was read in the order of the disk; while it is used, the next one is read by a
thread. So two windows are in memory, and a batch.

Shape letters: N rows, K distinct inputs, B rows of a batch, T tokens in all, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from embedstore.loaders.features import EmbeddingReader, number_inputs
from embedstore.loaders.packing import cut_lengths, cut_passes, pack

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS = 8
"""A window holds about so many stretches of the disk, or more: neighbours there are of like
length, and a window of one stretch would give batches that are all alike."""


@dataclass(frozen=True, eq=False)
class _Window:
    """Some distinct inputs in memory."""

    inputs: NDArray[np.int64]
    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    """Of each of the `inputs` in `tokens`."""
    lengths: NDArray[np.int64]

    def pieces(self) -> list[NDArray[Any]]:
        """Tokens of each input, shape (L, D): views that live as long as the window."""
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [self.tokens[start : start + length] for start, length in spans]


class StreamedFeatures:
    """Per-token features of N rows, in the store; a `FeatureSet`.

    Where one window holds all that is asked for, batches are those of `Features`, bit for bit.
    Passes without gradients always are.
    """

    def __init__(
        self,
        reader: EmbeddingReader,
        keys: Sequence[str],
        *,
        window_bytes: int,
        device: str = "cpu",
    ) -> None:
        """Look up where everything lies; reads no embedding.

        Parameters
        ----------
        keys : of the N rows
        window_bytes : of stored tokens in one window; two are held at a time

        Raises
        ------
        MissingEmbedding
            A key was never written.
        BadInput
            A window does not hold the longest embedding.
        """
        self._reader, self.device = reader, device
        self._keys, self.rows = number_inputs(keys)
        self.lengths = reader.lengths(self._keys)
        self.width = reader.recipe.width
        row_bytes = self.width * np.dtype(reader.recipe.store_dtype).itemsize
        self._window_tokens = window_bytes // row_bytes
        self._segment, row = reader.locate(self._keys)
        self._rank = np.empty(len(self._keys), np.int64)  # place on disk
        self._rank[np.lexsort((row, self._segment))] = np.arange(len(self._keys))
        longest = int(self.lengths.max(initial=0))
        if longest > self._window_tokens:
            raise BadInput(
                f"A window of {window_bytes:,} bytes cannot hold the longest embedding of "
                f"{reader.name}, {longest * row_bytes:,} bytes.",
                "Give more with --memory.",
            )

    def batches(
        self,
        rows: NDArray[np.int64],
        size: int,
        order: np.random.Generator,
        keep: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """As `FeatureSet.batches`: windows of stretches drawn at random, rows shuffled in each.

        Rows that share an input stand in one window. Those that fill no batch at its end begin
        the first batch of the next.

        Raises
        ------
        DamagedSegment
            Stored bytes do not match their checksum.
        """
        reads = self.rows[rows]
        windows = self._draw_windows(np.unique(reads), order)
        number = np.empty(len(self._keys), np.int64)
        for at, inputs in enumerate(windows):
            number[inputs] = at
        own = number[reads]  # window of each row
        ends = np.bincount(own, minlength=len(windows)).cumsum()
        members = np.split(own.argsort(kind="stable"), ends[:-1]) if len(windows) else []
        left: list[tuple[int, NDArray[Any]]] = []  # place and tokens of rows not yet in a batch
        for window, places in zip(self._read(windows), members, strict=True):
            piece = dict(zip(window.inputs.tolist(), window.pieces(), strict=True))
            shuffled = places[order.permutation(len(places))].tolist()
            waiting = left + [
                (place, piece[int(reads[place])][: None if keep is None else int(keep[place])])
                for place in shuffled
            ]
            full = len(waiting) // size * size
            for first in range(0, full, size):
                yield self._pack(waiting[first : first + size])
            # copied: the window's memory is about to be read into
            left = [(place, tokens.copy()) for place, tokens in waiting[full:]]
        if left:
            yield self._pack(left)

    def passes(
        self, inputs: NDArray[np.int64], most: int, keep: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """As `FeatureSet.passes`; a window holds whole passes, one at least.

        Raises
        ------
        DamagedSegment
            Stored bytes do not match their checksum.
        """
        wanted = cut_lengths(self.lengths[inputs], keep)
        parts = list(cut_passes(wanted, most))
        sizes = np.array([self.lengths[inputs[part]].sum() for part in parts], np.int64)
        groups = [parts[held] for held in cut_passes(sizes, self._window_tokens)]
        windows = [inputs[group[0].start : group[-1].stop] for group in groups]
        for window, group in zip(self._read(windows), groups, strict=True):
            pieces = window.pieces()
            for part in group:
                own = pieces[part.start - group[0].start : part.stop - group[0].start]
                cut = [piece[:n] for piece, n in zip(own, wanted[part].tolist(), strict=True)]
                yield part, *pack(cut, wanted[part], self.device)

    def pooled(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `FeatureSet.pooled`; the stored means, no token is read.

        Raises
        ------
        DamagedSegment
        """
        inputs, back = np.unique(self.rows[rows], return_inverse=True)
        return self._reader.means([self._keys[at] for at in inputs.tolist()])[back]

    def _draw_windows(
        self, inputs: NDArray[np.int64], order: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Cut the disk into stretches and put them together at random, a window each."""
        ordered = inputs[self._rank[inputs].argsort()]
        lengths = self.lengths[ordered]
        if lengths.sum() <= self._window_tokens:
            return [ordered] if len(ordered) else []
        blocks = []
        for segment in np.split(ordered, np.flatnonzero(np.diff(self._segment[ordered])) + 1):
            cuts = cut_passes(self.lengths[segment], max(self._window_tokens // BLOCKS, 1))
            blocks += [segment[cut] for cut in cuts]
        # of a generator of its own: the order of rows is drawn as it is for features in memory
        drawn = [blocks[at] for at in order.spawn(1)[0].permutation(len(blocks))]
        sizes = np.array([self.lengths[block].sum() for block in drawn])
        windows = [np.concatenate(drawn[held]) for held in cut_passes(sizes, self._window_tokens)]
        return [window[self._rank[window].argsort()] for window in windows]

    def _read(self, windows: Sequence[NDArray[np.int64]]) -> Iterator[_Window]:
        """Read windows one after another into two buffers, each while the one before is used."""
        held = max((int(self.lengths[inputs].sum()) for inputs in windows), default=0)
        dtype = self._reader.recipe.store_dtype
        buffers = [np.empty((held, self.width), dtype) for _ in windows[:2]]
        with ThreadPoolExecutor(1, "features") as thread:
            ahead: Future[_Window] | None = None
            for at, inputs in enumerate(windows):
                # the window before the last is done with: its buffer is free
                coming = thread.submit(self._read_one, inputs, buffers[at % 2])
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            if ahead is not None:
                yield ahead.result()

    def _read_one(self, inputs: NDArray[np.int64], buffer: NDArray[Any]) -> _Window:
        lengths = self.lengths[inputs]
        starts = np.cumsum(lengths) - lengths
        self._reader.read_into([self._keys[at] for at in inputs.tolist()], buffer, starts)
        return _Window(inputs, buffer, starts, lengths)

    def _pack(
        self, taken: Sequence[tuple[int, NDArray[Any]]]
    ) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        places, parts = zip(*taken, strict=True)
        lengths = np.array([len(part) for part in parts], np.int64)
        return np.array(places, np.int64), *pack(parts, lengths, self.device)
