"""What every packed encoder shares: a transformers model's own layers, run on packed tokens.

The residual stream and the norms are float32 whatever the compute dtype; the linear layers and
attention run in the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from embedstore.backbones.packed import Packing, attend, rotate


class PackedEncoder(nn.Module):
    """A transformers encoder on packed tokens.

    The modules stay the model's own, so adapters put on them take part. Subclasses give `forward`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.fused: list[tuple[Tensor, Tensor]] | None = None
        self.checkpointing = False
        """Whether training computes a layer's inner values again instead of keeping them."""

    @property
    def blocks(self) -> Iterable[Any]:
        """The model's transformer layers, in order."""
        layers: Iterable[Any] = self.model.encoder.layer
        return layers

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return len(self.model.encoder.layer)

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: that of the linear layers."""
        dtype: torch.dtype = self.model.encoder.layer[0].attention.self.query.weight.dtype
        return dtype

    def fuse(self) -> PackedEncoder:
        """Make one product of query, key and value, for inference; takes no more memory."""
        self.fused = []
        for block in self.blocks:
            own = block.attention.self
            three = (own.query, own.key, own.value)
            weight = torch.cat([part.weight.detach() for part in three])
            bias = torch.cat([part.bias.detach() for part in three])
            rows = zip(three, weight.chunk(3), bias.chunk(3), strict=True)
            for part, weight_rows, bias_rows in rows:  # the parts become views of the whole
                part.weight = nn.Parameter(weight_rows, requires_grad=False)
                part.bias = nn.Parameter(bias_rows, requires_grad=False)
            self.fused.append((weight, bias))
        return self

    def settle(self) -> None:
        """Whatever the reference loader does to the weights once they are in; mostly nothing."""

    def depth(self, layer: int) -> int:
        """Layers to run for an index into transformers' `hidden_states`, which may be negative."""
        return layer if layer >= 0 else self.layers + 1 + layer

    def through(self, layer: Callable[..., Tensor], states: Tensor, *others: Any) -> Tensor:
        """Run one layer: (T, D) in and out. With `checkpointing` only its input is kept."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return layer(states, *others)
        from torch.utils.checkpoint import checkpoint

        # no layer draws random numbers, so there is no generator to wind back
        made: Tensor = checkpoint(
            layer, states, *others, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def mix(
        self,
        number: int,
        block: Any,
        states: Tensor,
        packing: Packing,
        angles: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Mixed values of one layer's heads: compute dtype, (T, D) in, (T, D) out."""
        own = block.attention.self
        if self.fused is not None:
            q, k, v = linear(states, *self.fused[number]).chunk(3, dim=-1)
        else:
            q, k, v = own.query(states), own.key(states), own.value(states)
        heads = (len(states), own.num_attention_heads, own.attention_head_size)
        q, k, v = q.reshape(heads), k.reshape(heads), v.reshape(heads)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        return attend(q, k, v, packing).flatten(1)


def norm(module: nn.LayerNorm, states: Tensor) -> Tensor:
    """Layer norm in the dtype of the states, whatever dtype its two vectors are kept in."""
    weight, bias = module.weight.to(states.dtype), module.bias.to(states.dtype)
    return layer_norm(states, module.normalized_shape, weight, bias, module.eps)


def exact(tensor: Tensor) -> Tensor:
    """At least float32: what the residual stream is kept in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
