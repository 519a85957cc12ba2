"""Sizes that a config says against those of the tensors: before a module is made of either."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from embedstore.backbones.weights import Checkpoint, misshapen, modern
from embedstore.errors import BadWeights

_LAYER = re.compile(r"model\.encoder\.layer\.([0-9]{1,9})\.(.+)")
_FIRST_BIAS = "model.encoder.layer.0.intermediate.dense.bias"
_GATED = "add_bias_fnn"
"""Only configs of gated feed-forward layers have it."""


def expect_sizes(
    checkpoint: Checkpoint, settings: Mapping[str, Any], rename: Callable[[str], str | None]
) -> None:
    """Check that the tensors in the files are of the sizes that the config says.

    Only headers are read. Whatever else does not fit, such as a tensor that is missing, is found by
    the headers too when the model is loaded, and by then the model has the size of the file.

    Parameters
    ----------
    settings : from `config.require`
    rename : of the family: published name -> the model's

    Raises
    ------
    BadWeights
        Names the tensor or the field.
    """
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    outside = {
        "model.embeddings.word_embeddings.weight": (settings["vocab_size"], width),
        "model.embeddings.position_embeddings.weight": (
            settings["max_position_embeddings"],
            width,
        ),
        "model.embeddings.token_type_embeddings.weight": (settings.get("type_vocab_size"), width),
    }
    inside = {"intermediate.dense.weight": (inner * (2 if _GATED in settings else 1), width)}
    layers = set()
    for published, stored in checkpoint.held.items():
        name = rename(modern(published))
        found = _LAYER.fullmatch(name or "")
        if found:
            layers.add(int(found[1]))
        wanted = inside.get(found[2]) if found else outside.get(name or "")
        if wanted is not None and stored.shape != wanted:
            raise misshapen(checkpoint.folder, published, stored.shape, wanted)
    depth = settings["num_hidden_layers"]
    if layers != set(range(depth)):
        raise BadWeights(
            f"{checkpoint.described_in}: its field 'num_hidden_layers' is {depth}, and the weights "
            f"hold {len(layers)} layers.",
            "Config and weights belong to different models: download the folder again.",
        )


def completed(
    checkpoint: Checkpoint, family: str, rename: Callable[[str], str | None]
) -> Checkpoint:
    """The checkpoint with the one setting that its config may leave out, as its tensors have it.

    The Nucleotide Transformer v2's feed-forward layers have biases where `add_bias_fnn` is on or
    missing, says its published code; its published weights have none, and say so in the config.

    Raises
    ------
    BadWeights
        As by `Checkpoint.headers`.
    """
    if family != "nt-v2" or _GATED in checkpoint.config:
        return checkpoint
    biased = any(rename(modern(published)) == _FIRST_BIAS for published in checkpoint.held)
    return replace(checkpoint, config={**checkpoint.config, _GATED: biased})
