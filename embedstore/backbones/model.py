"""A trained model as a backbone: packed forward pass on one device, float16 rows on the host.

`embed` is three steps that a caller may overlap: `tokenize` on the host, `forward`, which only
queues work on a GPU, and `collect`, which waits for the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.backbones.backbone import Embedded
from embedstore.backbones.encoder import PackedEncoder
from embedstore.backbones.packed import Packing, send
from embedstore.backbones.specs import BackboneSpec
from embedstore.backbones.tokenize import Tokenizer
from embedstore.backbones.windows import WHOLE, Reading
from embedstore.errors import BadInput


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """One packed batch on the host; P passes (windows are passes of their own), R stored rows."""

    ids: Tensor
    """int64, shape (T,): special tokens included."""
    lengths: tuple[int, ...]
    """P token counts, special tokens included."""
    rows: Tensor
    """int64, shape (R,): where in the packed batch each stored row is computed."""
    leading: Tensor
    """int64, shape (N,): where each sequence's (first) leading special token is."""
    counts: tuple[int, ...]
    """N counts of stored rows."""


@dataclass(frozen=True, eq=False)
class DeviceResult:
    """What `collect` turns into an `Embedded`: host tensors that a GPU may still be filling."""

    tokens: Tensor
    mean: Tensor
    cls: Tensor | None
    finite: Tensor
    counts: tuple[int, ...]
    ready: torch.cuda.Event | None
    """Recorded after the last copy; None: nothing to wait for."""


class ModelBackbone:
    """Runs a packed model and keeps what the store keeps."""

    def __init__(
        self,
        spec: BackboneSpec,
        tokenizer: Tokenizer,
        model: PackedEncoder,
        *,
        layer: int = -1,
        store_dtype: torch.dtype = torch.float16,
        reading: Reading = WHOLE,
    ) -> None:
        self.spec, self.tokenizer, self.model = spec, tokenizer, model.eval()
        self.layer, self.store_dtype, self.reading = layer, store_dtype, reading
        self.width = int(model.model.config.hidden_size)
        self.has_cls = len(tokenizer.prefix) > 0
        self._copies: torch.cuda.Stream | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def embed(self, views: Sequence[str]) -> Embedded:
        """Embed view texts in one packed batch; the order is kept."""
        return self.collect(self.forward(self.tokenize(views)))

    def tokenize(self, views: Sequence[str]) -> TokenBatch:
        """Token ids of view texts, cut or in windows as the long-sequence policy says.

        Raises
        ------
        BadInput
            A view is empty, or holds a letter that the backbone does not know.
        TooLong
            A view is longer than is read at once, and the policy neither cuts nor slides.
        """
        before = np.array(self.tokenizer.prefix, np.int64)
        after = np.array(self.tokenizer.suffix, np.int64)
        ids: list[NDArray[np.int64]] = []
        rows: list[NDArray[np.int64]] = []
        lengths: list[int] = []
        leading: list[int] = []
        counts: list[int] = []
        at = 0
        for view in views:
            encoded = self.tokenizer.encode(view)
            self._check(view, encoded)
            passes = self.reading.windows(len(encoded))
            leading.append(at)
            counts.append(passes[-1].keep_stop)
            for start, stop, first, last in passes:
                ids += [before, encoded[start:stop], after]
                rows.append(np.arange(first, last) + (at + len(before) - start))
                lengths.append(len(before) + stop - start + len(after))
                at += lengths[-1]
        return TokenBatch(
            ids=self._pinned(np.concatenate(ids)),
            lengths=tuple(lengths),
            rows=self._pinned(np.concatenate(rows)),
            leading=self._pinned(np.array(leading, np.int64)),
            counts=tuple(counts),
        )

    @torch.inference_mode()
    def forward(self, batch: TokenBatch) -> DeviceResult:
        """Run a batch. On a GPU this only queues work, and never waits for any.

        Special tokens and the rows that overlapping windows give twice are left out by index,
        since a boolean mask would make the host wait for its count.
        """
        device = self.device
        kept = Packing.of(batch.counts, device)
        states = self.states(batch)
        tokens = self.stored_rows(states, batch).to(self.store_dtype)
        bad = (~tokens.isfinite().all(dim=1)).float()
        wrong = torch.zeros(len(batch.counts), device=device).index_add(0, kept.owner, bad)
        cls = None
        if self.has_cls:
            cls = states.index_select(0, send(batch.leading, device)).float()
            wrong = wrong + (~cls.isfinite().all(dim=1)).float()
        mean = mean_rows(tokens, kept)  # a sum of float32 rows may overflow, where no row does
        finite = (wrong == 0) & mean.isfinite().all(dim=1)
        made = [tokens, mean, finite, *([] if cls is None else [cls])]
        host, ready = self._to_host(made)
        return DeviceResult(
            tokens=host[0],
            mean=host[1],
            cls=None if cls is None else host[3],
            finite=host[2],
            counts=batch.counts,
            ready=ready,
        )

    def states(self, batch: TokenBatch) -> Tensor:
        """States of every token of a batch, special tokens included, in float32: (T, D)."""
        packing = Packing.of(batch.lengths, self.device)
        states: Tensor = self.model(send(batch.ids, self.device), packing, self.layer)
        return states

    def stored_rows(self, states: Tensor, batch: TokenBatch) -> Tensor:
        """Those of a batch's states that are stored, sequences end to end: (R, D)."""
        return states.index_select(0, send(batch.rows, self.device))

    def collect(self, result: DeviceResult) -> Embedded:
        """Wait until a batch is on the host."""
        if result.ready is not None:
            result.ready.synchronize()
        return Embedded(
            tokens=result.tokens.numpy(),
            lengths=np.array(result.counts, np.int64),
            mean=result.mean.numpy(),
            cls=None if result.cls is None else result.cls.numpy(),
            finite=result.finite.numpy(),
        )

    def _check(self, view: str, encoded: NDArray[np.int64]) -> None:
        if len(encoded) == 0:
            raise BadInput(
                f"A {self.spec.view} view of {len(view)} letters gives no token.",
                "Leave empty sequences out.",
            )
        if encoded.min() < 0:
            unknown = sorted(set(view) - set(self.tokenizer.letters))
            raise BadInput(
                f"{self.spec.name} cannot read {', '.join(map(repr, unknown))} in a "
                f"{self.spec.view} view.",
                f"It knows {self.tokenizer.letters}.",
            )

    def _pinned(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _to_host(self, made: list[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Host copies: on a GPU into pinned memory, on a stream beside the next batch's."""
        if self.device.type != "cuda":
            return made, None
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        host = []
        with torch.cuda.stream(self._copies):
            for tensor in made:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                host.append(copy.copy_(tensor, non_blocking=True))
                tensor.record_stream(self._copies)  # its memory is not for reuse before that
            ready = torch.cuda.Event()
            ready.record(self._copies)
        return host, ready


def mean_rows(tokens: Tensor, packing: Packing) -> Tensor:
    """Average of each sequence's rows: (T, D) in, float32 (N, D) out."""
    parts = [
        tokens[at : at + count * length].view(count, length, -1).mean(dim=1, dtype=torch.float32)
        for at, count, length in packing.runs()
    ]
    return torch.cat(parts)
