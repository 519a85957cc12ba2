"""RNA language models on packed tokens: RNA-FM (arXiv:2204.00300) and SpliceBERT."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import gelu

from embedstore.backbones.config import BertLayout, require
from embedstore.backbones.encoder import PackedEncoder, exact, norm
from embedstore.backbones.esm import PackedEsm, esm_model
from embedstore.backbones.identify import expect_family
from embedstore.backbones.packed import Packing
from embedstore.backbones.tensor_file import StoredTensor
from embedstore.errors import BadWeights

_PARTS = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
_TABLES = {
    "embed_tokens.weight": "embeddings.word_embeddings.weight",
    "embed_positions.weight": "embeddings.position_embeddings.weight",
    "emb_layer_norm_before.weight": "embeddings.layer_norm.weight",
    "emb_layer_norm_before.bias": "embeddings.layer_norm.bias",
    "emb_layer_norm_after.weight": "encoder.emb_layer_norm_after.weight",
    "emb_layer_norm_after.bias": "encoder.emb_layer_norm_after.bias",
}
_PAD, _MASK = 1, 24  # ids in RNA-FM's alphabet of 25


class PackedRnaFm(PackedEsm):
    """RNA-FM: the layout of ESM-1b, learned positions and a norm before and after the layers.

    The last layer is the state after `emb_layer_norm_after`, as in the authors' `representations`.
    """

    def settle(self) -> None:
        """Zero the row of <mask>, as the authors' loader does."""
        self.model.embeddings.word_embeddings.weight.data[_MASK] = 0


def rna_fm_skeleton(config: dict[str, Any]) -> PackedRnaFm:
    """An RNA-FM encoder without values; the config is that of `rna_fm_config`.

    Raises
    ------
    BadWeights
        The config is of another family.
    """
    expect_family(config, "rna-fm")
    return PackedRnaFm(esm_model(config))


def rna_fm_config(args: Any, tensors: Mapping[str, StoredTensor], file: Path) -> dict[str, Any]:
    """What the authors' file says about its own sizes: heads in `args`, all else in the tensors.

    Parameters
    ----------
    args : an `argparse.Namespace`
    file : for errors

    Raises
    ------
    BadWeights
        The file holds another architecture.
    """
    names = {_bare(published): tensor for published, tensor in tensors.items()}
    said = vars(args) if isinstance(args, Namespace) else {}
    arch = said.get("arch")
    heads = said.get("encoder_attention_heads", said.get("attention_heads"))
    shapes = []
    for name in ("embed_tokens.weight", "layers.0.fc1.weight", "embed_positions.weight"):
        if name not in names:
            raise BadWeights(
                f"{file} lacks {name!r}, which RNA-FM has.", "Give RNA-FM_pretrained.pth."
            )
        if len(names[name].shape) != 2:
            raise BadWeights(
                f"{file}: {name!r} has shape {names[name].shape}, and is no table.",
                "Give RNA-FM_pretrained.pth.",
            )
        shapes.append(names[name].shape)
    (vocabulary, width), (inner, _), (rows, _) = shapes
    if arch != "roberta_large" or heads is None:
        raise BadWeights(
            f"{file} says arch {str(arch)[:60]!r} and {str(heads)[:20]} attention heads; "
            "RNA-FM is 'roberta_large' and says how many.",
            "Give RNA-FM_pretrained.pth.",
        )
    return {
        "model_type": "rna-fm",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[1] for name in names if name[:7] == "layers."}),
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": rows,
        "position_embedding_type": "absolute",
        "layer_norm_eps": 1e-5,
        "emb_layer_norm_before": "emb_layer_norm_before.weight" in names,
        "token_dropout": bool(said.get("token_dropout", False)),  # as the authors read it
        "pad_token_id": _PAD,
        "mask_token_id": _MASK,
    }


def rna_fm_rename(published: str) -> str | None:
    """Name of one of the authors' tensors in `PackedRnaFm`; None for the heads."""
    name = _bare(published)
    if name.startswith(("lm_head.", "contact_head.")):
        return None
    if name in _TABLES:
        return f"model.{_TABLES[name]}"
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found and found[2] in _PARTS:
        return f"model.encoder.layer.{found[1]}.{_PARTS[found[2]]}.{found[3]}"
    return name  # no place for it: loading names it


def _bare(published: str) -> str:
    return published.removeprefix("encoder.").removeprefix("sentence_encoder.")


class PackedBert(PackedEncoder):
    """SpliceBERT: BERT, with its norms after each residual sum and none at the end.

    The last layer is `BertModel.last_hidden_state`: there is no final norm to come after it.
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
        own = self.model.embeddings
        states = exact(own.word_embeddings(ids)) + own.token_type_embeddings.weight[0]
        states = norm(own.LayerNorm, states + own.position_embeddings(packing.positions))
        for number, block in zip(range(self.depth(layer)), self.blocks, strict=False):
            states = self.through(self._block, states, number, block, packing)
        return states

    def _block(self, states: Tensor, number: int, block: Any, packing: Packing) -> Tensor:
        """One layer, norms after its two halves: (T, D) in and out."""
        mixed = self.mix(number, block, states.to(self.dtype), packing)
        after = block.attention.output
        states = norm(after.LayerNorm, states + after.dense(mixed))
        inner = gelu(block.intermediate.dense(states.to(self.dtype)))
        return norm(block.output.LayerNorm, states + block.output.dense(inner))


def splicebert_skeleton(config: dict[str, Any]) -> PackedBert:
    """A SpliceBERT encoder of the checkpoint's own sizes, without values.

    Raises
    ------
    BadWeights
        The config is of another family, or of an activation that SpliceBERT does not have.
    """
    from transformers import BertConfig, BertModel

    expect_family(config, "splicebert")
    own = require(config, BertLayout)
    if own["hidden_act"] != "gelu":
        raise BadWeights(
            f"The config asks for activation {own['hidden_act']!r}; SpliceBERT has 'gelu'.",
            "Give the folder SpliceBERT.1024nt as published.",
        )
    model = BertModel(BertConfig(**own), add_pooling_layer=False)
    del model.embeddings.position_ids, model.embeddings.token_type_ids  # for padded batches
    return PackedBert(model)


def splicebert_rename(published: str) -> str | None:
    """Name of a published tensor in `PackedBert`; None for heads."""
    name = published.removeprefix("bert.")
    if name.startswith(("cls.", "classifier.", "pooler.")):
        return None
    if name in ("embeddings.position_ids", "embeddings.token_type_ids"):
        return None
    return f"model.{name}"
