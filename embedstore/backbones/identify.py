"""Which family a checkpoint is of: its config in, the family's name or a refusal out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedstore.errors import BadWeights

FAMILIES = {
    "esm2": "ESM-2",
    "nt-v1": "Nucleotide Transformer v1",
    "nt-v2": "Nucleotide Transformer v2",
    "rna-fm": "RNA-FM",
    "splicebert": "SpliceBERT",
    "codon-mini": "codon-mini",
}
"""Families with weights, and what people call them."""

# What tells the families apart in their published configs: the vocabulary above all, since a
# tokenizer of another one would give every token the wrong row.
_MARKS = {
    "esm2": ("esm", "rotary", 33),
    "nt-v1": ("esm", "absolute", 4105),
    "nt-v2": ("esm", "rotary", 4107),
    "rna-fm": ("rna-fm", "absolute", 25),
    "splicebert": ("bert", "absolute", 10),
    "codon-mini": ("esm", "rotary", 69),
}


def family_in(config: dict[str, Any]) -> str | None:
    """The family whose published configs look like this one; None: none that we know."""
    # BERT configs of before 2020 leave their only kind of positions out
    positions = config.get("position_embedding_type", "absolute")
    found = (config.get("model_type"), positions, config.get("vocab_size"))
    return next((family for family, marks in _MARKS.items() if marks == found), None)


def expect_family(config: dict[str, Any], family: str) -> None:
    """Check that a config is of that family.

    Raises
    ------
    BadWeights
        It is of another one, which is named.
    """
    found = family_in(config)
    if found == family:
        return
    if found is not None:
        looks = f"look like {FAMILIES[found]}"
    else:
        looks = (
            f"are of a {config.get('model_type')!r} model with "
            f"{config.get('position_embedding_type', 'absolute')} positions and "
            f"{config.get('vocab_size')} tokens"
        )
    raise BadWeights(
        f"The weights {looks}, not like {FAMILIES[family]}."
        if found
        else f"The weights {looks}, which is not {FAMILIES[family]}.",
        f"Give the folder of a {FAMILIES[family]} checkpoint, or another --backbone.",
    )


def require(config: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Those settings of a config, none of them filled in by default.

    Raises
    ------
    BadWeights
        Names the first one that is not there.
    """
    for key in keys:
        if key not in config:
            raise BadWeights(
                f"config.json does not say {key!r}, and no default is safe.",
                "Download the folder again.",
            )
    return {key: config[key] for key in keys}
