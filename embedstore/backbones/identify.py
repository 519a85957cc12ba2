"""Which family a checkpoint is of: its config and its vocabulary in, an error by name out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedstore.backbones.config import marks_of
from embedstore.backbones.folder import ANEW, read_small, stands
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

MOST_VOCABULARY = 1 << 20
"""Largest list of tokens that is read, in bytes; that of the 6-mers has 29 kB."""

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


def expect_family(
    config: Mapping[str, Any], family: str, where: Path | str = "config.json"
) -> None:
    """Check that a config is of that family.

    Parameters
    ----------
    where : the file, for errors

    Raises
    ------
    BadWeights
        It is of another one, which is named, or what tells of its family is of another type.
    """
    config = marks_of(config, where).model_dump()
    found = family_in(config)
    if found == family:
        return
    name, kind = FAMILIES[family], config.get("model_type")
    fix = f"Give the folder of a {name} checkpoint, or another --backbone."
    if found is not None:
        raise BadWeights(f"{where}: the weights look like {FAMILIES[found]}, not like {name}.", fix)
    typed = f"of a {kind!r} model" if kind is not None else "of a model without a model_type"
    looks = (
        f"{where}: the weights are {typed} with "
        f"{config.get('position_embedding_type') or 'absolute'} positions and "
        f"{config.get('vocab_size')} tokens"
    )
    if kind in _REPACKED and _REPACKED[kind] == family:
        raise BadWeights(
            f"{looks}: {name} as others have packed it anew, with its tokens in another order. "
            f"That layout is not read yet.",
            f"Give the authors' own {name} checkpoint.",
        )
    why = "; ".join(contradictions(config, family)) or "its vocab_size is missing"
    raise BadWeights(f"{looks}, which is not {name}: {why}.", fix)


def expect_vocabulary(file: Path, tokenizer: Tokenizer, family: str, size: int) -> None:
    """Check that the vocabulary beside some weights, where there is one, is that of the family.

    Parameters
    ----------
    file : `vocab.txt`, one token a line
    size : tokens that the config says there are

    Raises
    ------
    BadWeights
        A token has another id there than here, so rows of the token table would be mixed up; or it
        is no list of that many different tokens.
    """
    if not stands(file):
        return
    try:
        tokens = [line.strip() for line in read_small(file, MOST_VOCABULARY).decode().split("\n")]
    except UnicodeDecodeError:
        raise BadWeights(f"{file} is no text in UTF-8.", ANEW) from None
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if not token:
            continue
        if token in seen:
            raise BadWeights(
                f"{file} has {token[:20]!r} at id {seen[token]} and at id {number}.", ANEW
            )
        if number >= size:
            raise BadWeights(
                f"{file} has {token[:20]!r} at id {number}, and the vocabulary {size} tokens.", ANEW
            )
        seen[token] = number
        if not token or not set(token) <= set(tokenizer.letters):
            continue  # special tokens, and what no view holds
        widths = tokenizer.spans(token)[1].tolist()
        if widths == [len(token)] and tokenizer.encode(token).tolist() != [number]:
            raise BadWeights(
                f"{file} has {token!r} at id {number}; {FAMILIES[family]} has it at "
                f"{int(tokenizer.encode(token)[0])}.",
                f"Give the folder of a {FAMILIES[family]} checkpoint, or another --backbone.",
            )
