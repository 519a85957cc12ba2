"""The ESM family on packed tokens: a transformers `EsmModel` in, last-layer states out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from embedstore.backbones.packed import Packing, attend, rotary_angles, rotate
from embedstore.errors import BadWeights

if TYPE_CHECKING:
    from transformers import EsmModel

# Share of masked tokens in ESM pre-training: 15 % chosen, 80 % of those replaced by <mask>.
TRAINED_MASK_RATIO = 0.15 * 0.8


class PackedEsm(nn.Module):
    """Runs the layers of a transformers `EsmModel` on a packed batch.

    The modules stay the model's own, so adapters put on them take part. The last layer is the
    state after `emb_layer_norm_after`, as `EsmModel.last_hidden_state` and fair-esm return it.
    """

    def __init__(self, model: EsmModel) -> None:
        super().__init__()
        self.model = model
        self.fused: list[tuple[Tensor, Tensor]] | None = None

    def fuse(self) -> PackedEsm:
        """Make one product of query, key and value, for inference; takes no more memory."""
        self.fused = []
        for layer in self.model.encoder.layer:
            own = layer.attention.self
            three = (own.query, own.key, own.value)
            weight = torch.cat([part.weight.detach() for part in three])
            bias = torch.cat([part.bias.detach() for part in three])
            rows = zip(three, weight.chunk(3), bias.chunk(3), strict=True)
            for part, weight_rows, bias_rows in rows:  # the parts become views of the whole
                part.weight = nn.Parameter(weight_rows, requires_grad=False)
                part.bias = nn.Parameter(bias_rows, requires_grad=False)
            self.fused.append((weight, bias))
        return self

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return len(self.model.encoder.layer)

    def forward(self, ids: Tensor, packing: Packing, layer: int = -1) -> Tensor:
        """States of every token after one layer, special tokens included.

        Parameters
        ----------
        ids : int64, shape (T,)
        layer : index into transformers' `hidden_states`: 0 the embeddings, -1 the last layer

        Returns
        -------
        the model's dtype, shape (T, D)
        """
        states = self.embed(ids, packing)
        depth = layer if layer >= 0 else self.layers + 1 + layer
        angles = None
        if self.model.rotary_embeddings is not None:
            angles = rotary_angles(self.model.rotary_embeddings.inv_freq, packing, states.dtype)
        for number, block in enumerate(self.model.encoder.layer[:depth]):
            mixed = self.attention(number, block, states, packing, angles)
            states = states + block.attention.output.dense(mixed)
            states = states + self.feed_forward(block, block.LayerNorm(states))
        if depth < self.layers:
            return states
        after: Tensor = self.model.encoder.emb_layer_norm_after(states)
        return after

    def embed(self, ids: Tensor, packing: Packing) -> Tensor:
        """Token embeddings as the layers want them: token dropout, positions, norm."""
        own = self.model.embeddings
        states: Tensor = own.word_embeddings(ids)
        if own.token_dropout:
            masked = ids == own.mask_token_id
            count = torch.zeros(len(packing.lengths), device=ids.device, dtype=torch.float32)
            share = count.index_add(0, packing.owner, masked.float()) / packing.bounds.diff()
            scale = (1 - TRAINED_MASK_RATIO) / (1 - share)  # per sequence, never per batch
            states = states.masked_fill(masked[:, None], 0) * scale[packing.owner, None]
            states = states.to(own.word_embeddings.weight.dtype)
        if own.position_embedding_type == "absolute":
            states = states + own.position_embeddings(packing.positions + own.padding_idx + 1)
        if own.layer_norm is not None:
            states = own.layer_norm(states)
        return states

    def attention(
        self,
        number: int,
        block: nn.Module,
        states: Tensor,
        packing: Packing,
        angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Mixed values of one layer's heads: (T, D) in, (T, D) out."""
        own = block.attention.self
        normed = block.attention.LayerNorm(states)
        if self.fused is not None:
            q, k, v = linear(normed, *self.fused[number]).chunk(3, dim=-1)
        else:
            q, k, v = own.query(normed), own.key(normed), own.value(normed)
        heads = (len(states), own.num_attention_heads, own.attention_head_size)
        q, k, v = q.reshape(heads), k.reshape(heads), v.reshape(heads)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        return attend(q, k, v, packing).flatten(1)

    def feed_forward(self, block: nn.Module, normed: Tensor) -> Tensor:
        """Exact-erf GELU between two linear layers, without the residual: (T, D) in and out."""
        out: Tensor = block.output.dense(gelu(block.intermediate.dense(normed)))
        return out


def esm2_skeleton(config: dict[str, Any]) -> PackedEsm:
    """An ESM-2 encoder of the checkpoint's own sizes, without values; call under the meta device.

    Raises
    ------
    BadWeights
        The config is of another family.
    """
    from transformers import EsmConfig, EsmModel

    kind = config.get("model_type")
    if kind != "esm" or config.get("position_embedding_type") != "rotary":
        raise BadWeights(
            f"The weights are of a {kind!r} model, not of ESM-2.",
            "Give the folder of an ESM-2 checkpoint, or another --backbone.",
        )
    model = EsmModel(EsmConfig(**config), add_pooling_layer=False)
    del model.contact_head  # reads attention maps, which are never made here
    return PackedEsm(model)


def esm2_rename(published: str) -> str | None:
    """Name of a published tensor in `PackedEsm`; None for heads and tables that it never reads."""
    name = published.removeprefix("esm.")
    if name.startswith(("lm_head.", "classifier.", "pooler.", "contact_head.")):
        return None
    if name in ("embeddings.position_ids", "embeddings.position_embeddings.weight"):
        return None  # left in the published files, never read: positions are rotary
    if name.endswith(".rotary_embeddings.inv_freq"):
        name = "rotary_embeddings.inv_freq"  # one copy a layer in old files
    return f"model.{name}"
