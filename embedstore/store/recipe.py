"""The recipe: everything that changes the numbers, and the folder name it digests to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from embedstore.errors import DamagedSegment

IMPORTED = "import:"
"""Begins the digest of what was made elsewhere and brought in by `embedstore import`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What gave the embeddings. Device, batch size and attention kernel are not in it."""

    backbone: str
    """Short name."""
    view: str
    """`mrna`, `dna`, `protein` or `cds`: the string that was read."""
    width: int
    """D."""
    weights: str | None
    """`sha256:` digest of config and tensors; None for backbones without weights."""
    layer: int = -1
    """Index into the hidden states."""
    long: str = "whole"
    """`whole`: every stored sequence was read whole; `truncate:N`: its first N tokens;
    `window:N:M`: in windows of N tokens that share at least M."""
    compute_dtype: str = "float32"
    store_dtype: str = "float16"
    """dtype of `tokens`: `float16` or `float32`."""

    @cached_property
    def name(self) -> str:
        """Folder name: backbone and ten hex digits of the digest, e.g. `esm2-8m-3f9c2a1b7d`."""
        return f"{self.backbone}-{hashlib.blake2b(self.canonical(), digest_size=5).hexdigest()}"

    def canonical(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":")).encode()

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)

    @classmethod
    def parse(cls, text: bytes, folder: str) -> Recipe:
        """The recipe in `recipe.json`.

        Raises
        ------
        DamagedSegment
            The file is no recipe, or not the one its folder is named after.
        """
        try:
            values = json.loads(text)
            recipe = cls(**{field.name: values[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedSegment(
                f"recipes/{folder}/recipe.json is damaged: {error!r}.",
                "Restore the file from a copy, or remove the folder and build again.",
            ) from error
        if recipe.name != folder:
            raise DamagedSegment(
                f"recipes/{folder}/recipe.json describes {recipe.name}.",
                "Restore the file from a copy; recipe folders cannot be renamed.",
            )
        return recipe
