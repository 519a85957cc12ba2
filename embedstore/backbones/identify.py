"""Which family a checkpoint is of, and what its config says: the config in, checked values out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedstore.backbones.tokenize import Tokenizer
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
_MARKS: dict[str, dict[str, Any]] = {
    "esm2": {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "vocab_size": 33,
    },
    "nt-v1": {
        "model_type": "esm",
        "position_embedding_type": "absolute",
        "vocab_size": 4105,
    },
    "nt-v2": {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "vocab_size": 4107,
    },
    "rna-fm": {
        "model_type": "rna-fm",
        "position_embedding_type": "absolute",
        "vocab_size": 25,
    },
    "splicebert": {
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "vocab_size": 10,
    },
    "codon-mini": {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "vocab_size": 69,
    },
}

# Families that others have packed anew under a type of their own, with their tokens in another
# order: rows of the token table would be those of other letters.
_REPACKED = {"rnafm": "rna-fm", "splicebert": "splicebert"}

Settings = Mapping[str, type]
"""Keys of a config that change the numbers of a family, and the types of their values."""


def family_in(config: Mapping[str, Any]) -> str | None:
    """The family whose published configs look like this one; None: none that we know.

    A key that is missing or null contradicts nothing: the Nucleotide Transformer v2 is published
    without `model_type`, and newer versions of transformers leave the positions of BERT out. One
    that is there and differs does. The size of the vocabulary has to be there.
    """
    if config.get("vocab_size") is None:
        return None
    return next((family for family in _MARKS if not contradictions(config, family)), None)


def contradictions(config: Mapping[str, Any], family: str) -> list[str]:
    """What a config says that no checkpoint of a family says, in words."""
    return [
        f"{key} {config[key]!r} instead of {wanted!r}"
        for key, wanted in _MARKS[family].items()
        if config.get(key) is not None and config[key] != wanted
    ]


def expect_family(config: Mapping[str, Any], family: str) -> None:
    """Check that a config is of that family.

    Raises
    ------
    BadWeights
        It is of another one, which is named.
    """
    found = family_in(config)
    if found == family:
        return
    name, kind = FAMILIES[family], config.get("model_type")
    fix = f"Give the folder of a {name} checkpoint, or another --backbone."
    if found is not None:
        raise BadWeights(f"The weights look like {FAMILIES[found]}, not like {name}.", fix)
    typed = f"of a {kind!r} model" if kind is not None else "of a model without a model_type"
    looks = (
        f"The weights are {typed} with {config.get('position_embedding_type') or 'absolute'} "
        f"positions and {config.get('vocab_size')} tokens"
    )
    if kind in _REPACKED and _REPACKED[kind] == family:
        raise BadWeights(
            f"{looks}: {name} as others have packed it anew, with its tokens in another order. "
            f"That layout is not read yet.",
            f"Give the authors' own {name} checkpoint.",
        )
    why = "; ".join(contradictions(config, family)) or "its vocab_size is missing"
    raise BadWeights(f"{looks}, which is not {name}: {why}.", fix)


def expect_vocabulary(file: Path, tokenizer: Tokenizer, family: str) -> None:
    """Check that the vocabulary beside some weights, where there is one, is that of the family.

    Parameters
    ----------
    file : `vocab.txt`, one token a line

    Raises
    ------
    BadWeights
        A token has another id there than here, so rows of the token table would be mixed up.
    """
    try:
        tokens = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return
    for number, token in enumerate(map(str.strip, tokens)):
        if not token or not set(token) <= set(tokenizer.letters):
            continue  # special tokens, and what no view holds
        widths = tokenizer.spans(token)[1].tolist()
        if widths == [len(token)] and tokenizer.encode(token).tolist() != [number]:
            raise BadWeights(
                f"{file.name} has {token!r} at id {number}; {FAMILIES[family]} has it at "
                f"{int(tokenizer.encode(token)[0])}.",
                f"Give the folder of a {FAMILIES[family]} checkpoint, or another --backbone.",
            )


def require(config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Those settings of a config in one form, none of them filled in by default.

    Whole numbers become int, others float; a null switch is off, as transformers takes it, and a
    null id stays None.

    Raises
    ------
    BadWeights
        Names the first one that is not there, or whose value is of another type.
    """
    found: dict[str, Any] = {}
    for key, kind in settings.items():
        if key not in config:
            raise BadWeights(
                f"config.json does not say {key!r}, and no default is safe.",
                "Download the folder again.",
            )
        found[key] = _in_form(key, config[key], kind)
    return found


def _in_form(key: str, value: Any, kind: type) -> Any:
    if value is None and kind is bool:
        return False
    if value is None and key.endswith("_token_id"):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and number and value == int(value):
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise BadWeights(
        f"config.json says {key} is {value!r}, which is no {kind.__name__}.",
        "Download the folder again.",
    )
