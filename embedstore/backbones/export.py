"""Changed weights as a checkpoint that others read: a model's tensors in, a folder out.

The folder has the layout of the checkpoint that the model was loaded from: the same config, but
for a dtype, which is float32, and the same published names, so whatever reads the one reads the
other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.backbones.folder import read_small, stands
from embedstore.backbones.weights import SINGLE_FILES, Checkpoint, modern
from embedstore.store.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MOST_TOKENIZER = 64 << 20
"""Largest tokenizer file that is copied, in bytes."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    source: Checkpoint,
    rename: Callable[[str], str | None],
) -> None:
    """Write `config.json`, `model.safetensors` and what tokenizer files the source has.

    Prediction heads of the source are left out: they were trained on its own states. A contact
    head is kept, since transformers makes a random one where it is missing.

    Parameters
    ----------
    tensors : by the model's names, as `PackedEncoder.state_dict` gives them
    source : what the model was loaded from
    rename : of the family: published name -> the model's

    Raises
    ------
    WriteFailed
    """
    from safetensors.torch import save

    held: dict[str, Tensor] = {}
    for published, tensor in source.tensors():
        name = rename(modern(published))
        if name is not None:
            # a copy: two names of one tensor cannot share memory in the file
            held[published] = tensors[name].detach().float().cpu().clone().contiguous()
        elif ".contact_head." in f".{published}":
            held[published] = tensor.clone()
    config = dict(source.config)
    for key in ("dtype", "torch_dtype"):
        if key in config:  # transformers loads in the dtype that is named here
            config[key] = "float32"
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")
    for name in TOKENIZER_FILES:
        file = source.files[0].parent / name
        if stands(file):
            write_atomically(folder / name, read_small(file, MOST_TOKENIZER))
    write_atomically(folder / SINGLE_FILES[0], save(held, metadata={"format": "pt"}))
