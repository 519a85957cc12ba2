"""A trained model as a backbone: packed forward pass on one device, float16 rows on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from embedstore.backbones.backbone import Embedded
from embedstore.backbones.packed import Packing
from embedstore.backbones.specs import BackboneSpec
from embedstore.backbones.tokenize import Tokenizer


class ModelBackbone:
    """Runs a packed model and keeps what the store keeps."""

    def __init__(
        self,
        spec: BackboneSpec,
        tokenizer: Tokenizer,
        model: nn.Module,
        *,
        layer: int = -1,
        store_dtype: torch.dtype = torch.float16,
    ) -> None:
        self.spec, self.tokenizer, self.model = spec, tokenizer, model.eval()
        self.layer, self.store_dtype = layer, store_dtype
        self.width = int(model.model.config.hidden_size)
        self.has_cls = len(tokenizer.prefix) > 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def embed(self, views: Sequence[str]) -> Embedded:
        """Embed view texts in one packed batch; the order is kept."""
        before, after = self.tokenizer.prefix, self.tokenizer.suffix
        encoded = [self.tokenizer.encode(view) for view in views]
        whole = [np.concatenate([before, ids, after]).astype(np.int64) for ids in encoded]
        counts = [len(ids) for ids in encoded]
        packing = Packing.of([len(ids) for ids in whole], self.device)
        ids = torch.from_numpy(np.concatenate(whole)).to(self.device)
        states: Tensor = self.model(ids, packing, self.layer)
        ends = packing.bounds[1:].long()[packing.owner] - packing.bounds[packing.owner].long()
        kept = (packing.positions >= len(before)) & (packing.positions < ends - len(after))
        tokens = states[kept].to(self.store_dtype)
        residues = Packing.of(counts, self.device)
        finite = torch.ones(len(views), dtype=torch.bool, device=self.device)
        finite[residues.owner[~tokens.isfinite().all(dim=1)]] = False
        cls = None
        if self.has_cls:
            cls = states[packing.bounds[:-1].long()].float()
            finite &= cls.isfinite().all(dim=1)
        return Embedded(
            tokens=tokens.cpu().numpy(),
            lengths=np.array(counts, np.int64),
            mean=mean_rows(tokens, residues).cpu().numpy(),
            cls=None if cls is None else cls.cpu().numpy(),
            finite=finite.cpu().numpy(),
        )


def mean_rows(tokens: Tensor, packing: Packing) -> Tensor:
    """Average of each sequence's rows: (T, D) in, float32 (N, D) out."""
    parts = [
        tokens[at : at + count * length].view(count, length, -1).mean(dim=1, dtype=torch.float32)
        for at, count, length in packing.runs()
    ]
    return torch.cat(parts)
