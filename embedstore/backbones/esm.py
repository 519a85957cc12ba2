"""The ESM layout on packed tokens: a transformers `EsmModel` in, last-layer states out.

ESM-2, codon-mini and both versions of the Nucleotide Transformer share it, and RNA-FM (ESM-1b).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from embedstore.backbones.config import EsmLayout, require
from embedstore.backbones.encoder import PackedEncoder, exact, norm
from embedstore.backbones.identify import expect_family
from embedstore.backbones.packed import Packing, rotary_angles

if TYPE_CHECKING:
    from transformers import EsmModel

# Share of masked tokens in ESM pre-training: 15 % chosen, 80 % of those replaced by <mask>.
TRAINED_MASK_RATIO = 0.15 * 0.8


class PackedEsm(PackedEncoder):
    """Runs the layers of a transformers `EsmModel` on a packed batch.

    The last layer is the state after `emb_layer_norm_after`, as `EsmModel.last_hidden_state` and
    fair-esm's `representations` of the last layer return it.
    """

    def forward(self, ids: Tensor, packing: Packing, layer: int = -1) -> Tensor:
        """States of every token after one layer, special tokens included.

        Parameters
        ----------
        ids : int64, shape (T,)
        layer : index into transformers' `hidden_states`: 0 the embeddings, -1 the last layer

        Returns
        -------
        float32 (float64 for a float64 model), shape (T, D)
        """
        states = self.embed(ids, packing)
        depth, angles = self.depth(layer), None
        if self.model.rotary_embeddings is not None:
            angles = rotary_angles(self.model.rotary_embeddings.inv_freq, packing)
        for number, block in zip(range(depth), self.blocks, strict=False):
            states = self.through(self._block, states, number, block, packing, angles)
        if depth < self.layers:
            return states
        return norm(self.model.encoder.emb_layer_norm_after, states)

    def _block(
        self,
        states: Tensor,
        number: int,
        block: Any,
        packing: Packing,
        angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """One layer, norms before its two halves: (T, D) in and out."""
        dtype = self.dtype
        normed = norm(block.attention.LayerNorm, states).to(dtype)
        mixed = self.mix(number, block, normed, packing, angles)
        states = states + block.attention.output.dense(mixed)
        return states + self.feed_forward(block, norm(block.LayerNorm, states).to(dtype))

    def embed(self, ids: Tensor, packing: Packing) -> Tensor:
        """Token embeddings as the layers want them: token dropout, positions, norm."""
        own = self.model.embeddings
        states = exact(own.word_embeddings(ids))
        if own.token_dropout:
            masked = ids == own.mask_token_id
            count = torch.zeros(len(packing.lengths), device=ids.device, dtype=states.dtype)
            share = count.index_add(0, packing.owner, masked.to(count)) / packing.bounds.diff()
            scale = (1 - TRAINED_MASK_RATIO) / (1 - share)  # per sequence, never per batch
            states = states.masked_fill(masked[:, None], 0) * scale[packing.owner, None]
        if own.position_embedding_type == "absolute":
            states = states + own.position_embeddings(packing.positions + own.padding_idx + 1)
        if own.layer_norm is not None:
            states = norm(own.layer_norm, states)
        return states

    def feed_forward(self, block: Any, normed: Tensor) -> Tensor:
        """Exact-erf GELU between two linear layers, without the residual: (T, D) in and out."""
        out: Tensor = block.output.dense(gelu(block.intermediate.dense(normed)))
        return out


def esm_model(config: dict[str, Any]) -> EsmModel:
    """An `EsmModel` of a config's own sizes, without the parts that are never read.

    Raises
    ------
    BadWeights
        The config leaves a size or a switch out, or one is out of range.
    """
    from transformers import EsmConfig, EsmModel

    model = EsmModel(EsmConfig(**require(config, EsmLayout)), add_pooling_layer=False)
    del model.contact_head  # reads attention maps, which are never made here
    del model.embeddings.position_ids  # counts positions in a padded batch
    return model


def esm2_skeleton(config: dict[str, Any]) -> PackedEsm:
    """An ESM-2 encoder of the checkpoint's own sizes, without values; call under the meta device.

    Raises
    ------
    BadWeights
        The config is of another family.
    """
    expect_family(config, "esm2")
    return PackedEsm(esm_model(config))


def codon_mini_skeleton(config: dict[str, Any]) -> PackedEsm:
    """A codon-mini encoder, without values; the layout of ESM-2 with codons as tokens.

    Raises
    ------
    BadWeights
        The config is of another family.
    """
    expect_family(config, "codon-mini")
    return PackedEsm(esm_model(config))


def rotary_rename(published: str) -> str | None:
    """Name of a published tensor in `PackedEsm`; None for heads and tables that it never reads.

    For models with rotary positions: their files may hold a position table, which nothing reads.
    """
    name = published.removeprefix("esm.")
    if name == "embeddings.position_embeddings.weight":
        return None
    if name.endswith(".rotary_embeddings.inv_freq"):
        return "model.rotary_embeddings.inv_freq"  # one copy a layer in old files
    return absolute_rename(published)


def absolute_rename(published: str) -> str | None:
    """Name of a published tensor in `PackedEsm` with learned positions; None for heads."""
    name = published.removeprefix("esm.")
    if name.startswith(("lm_head.", "classifier.", "pooler.", "contact_head.")):
        return None
    if name == "embeddings.position_ids":
        return None
    return f"model.{name}"
