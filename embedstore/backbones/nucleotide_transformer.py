"""The Nucleotide Transformer on packed tokens (Dalla-Torre et al. 2024, Nature Methods).

Version 1 is the ESM layout with learned positions; version 2 has rotary positions and gated
feed-forward layers without biases, for which transformers has no class.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import silu

from embedstore.backbones.config import NtV2Layout, require
from embedstore.backbones.esm import PackedEsm, esm_model
from embedstore.backbones.identify import expect_family


class GatedIntermediate(nn.Module):
    """First half of the gated feed-forward layer of version 2: `silu(x1) * x2`."""

    def __init__(self, width: int, inner: int, *, bias: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 2 * inner, bias=bias)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) in, (..., inner) out; the gate is the first half of the product."""
        both: Tensor = self.dense(states)
        gate, value = both.chunk(2, dim=-1)
        return silu(gate) * value


class PackedGatedEsm(PackedEsm):
    """The layout of the Nucleotide Transformer v2.

    The last layer is the state after `emb_layer_norm_after`, as the published code's
    `hidden_states[-1]` is.
    """

    def feed_forward(self, block: Any, normed: Tensor) -> Tensor:
        """Gated feed-forward layer, without the residual: (T, D) in and out."""
        out: Tensor = block.output.dense(block.intermediate(normed))
        return out


def nt_v1_skeleton(config: dict[str, Any]) -> PackedEsm:
    """A version 1 encoder without values; its last layer is the state after the final norm.

    Raises
    ------
    BadWeights
        The config is of another family.
    """
    expect_family(config, "nt-v1")
    return PackedEsm(esm_model(config))


def nt_v2_skeleton(config: dict[str, Any]) -> PackedGatedEsm:
    """A version 2 encoder without values: an `EsmModel` whose feed-forward layers are replaced.

    Raises
    ------
    BadWeights
        The config is of another family.
    """
    expect_family(config, "nt-v2")
    own = require(config, NtV2Layout)
    width, inner, bias = own["hidden_size"], own["intermediate_size"], own["add_bias_fnn"]
    model = esm_model(config)
    for block in model.encoder.layer:
        block.intermediate = GatedIntermediate(width, inner, bias=bias)
        block.output.dense = nn.Linear(inner, width, bias=bias)
    return PackedGatedEsm(model)
