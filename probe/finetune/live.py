"""Tokens through the live backbone in the place of stored ones: views in, a head's outputs out.

Shape letters: K distinct views, N rows, F features of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedstore.backbones.model import ModelBackbone
from embedstore.build.plan import Item, cut_batches
from probe.bank import Head, run_heads


@dataclass(frozen=True, eq=False)
class LiveViews:
    """What N rows read, K <= N distinct views: the counterpart of `embedstore.loaders.Features`."""

    items: tuple[Item, ...]
    """The K distinct views."""
    rows: NDArray[np.int64]
    """Shape (N,): which view each row reads."""

    def cost(self, rows: NDArray[np.int64]) -> int:
        """Tokens run through the model for these rows, special tokens included."""
        return sum(self.items[view].cost for view in self.rows[rows].tolist())

    def cut(self, views: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
        """Places in `views`, in packed batches as a build cuts them: longest first."""
        order = sorted(range(len(views)), key=lambda at: (-self.items[views[at]].cost, at))
        held = cut_batches([self.items[views[at]] for at in order], batch_tokens)
        place = iter(order)
        for batch in held:
            yield [next(place) for _ in batch]

    def texts(self, views: Sequence[int]) -> list[str]:
        """What those views say."""
        return [self.items[view].text for view in views]


class LiveModel(nn.Module):
    """A backbone that learns and the head on its last layer."""

    def __init__(self, backbone: ModelBackbone, head: Head, compute_dtype: str = "float32") -> None:
        """Take over both.

        Parameters
        ----------
        backbone : with float32 values, as `PreparedBackbone.load_trainable` gives it
        compute_dtype : of the backbone's linear layers and attention; the head's is float32
        """
        super().__init__()
        self.live, self.compute_dtype = backbone, getattr(torch, compute_dtype)
        self.backbone, self.head = backbone.model, head.to(backbone.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.live.device

    def forward(self, texts: Sequence[str], noise: Tensor | None = None) -> Tensor:
        """The head's outputs for some views in one packed batch.

        Parameters
        ----------
        noise : shape (N, F), as in `run_heads`

        Returns
        -------
        float32, shape (N, outputs)
        """
        batch = self.live.tokenize(texts)
        kind = self.device.type
        # values stay float32; only products are made in the compute dtype
        with torch.autocast(kind, self.compute_dtype, self.compute_dtype != torch.float32):
            states = self.live.states(batch)
        tokens = self.live.stored_rows(states, batch)  # special tokens left out, as in the store
        lengths = torch.tensor(batch.counts, device=self.device)
        outputs = run_heads([self.head], tokens, lengths, None if noise is None else noise[None])
        return outputs[0]

    def learning(self) -> dict[str, nn.Parameter]:
        """What training changes, by name; of the backbone first, then of the head."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def trained_parameters(self) -> int:
        """Numbers that training changes, in backbone and head."""
        return sum(p.numel() for p in self.learning().values())

    def values(self) -> dict[str, Tensor]:
        """Copies on the host of what training changes."""
        copied = {}
        for name, p in self.learning().items():
            copied[name] = p.detach().to("cpu", copy=True).contiguous()
        return copied

    def restore(self, values: dict[str, Tensor]) -> None:
        """Put values back that `values` gave, in place.

        Raises
        ------
        ValueError
            They are of another configuration.
        """
        own = self.learning()
        if {name: p.shape for name, p in own.items()} != {n: v.shape for n, v in values.items()}:
            raise ValueError("the values are of another configuration")
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(values[name])
