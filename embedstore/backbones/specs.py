"""The table of every backbone: what it is, what it reads, how large it is. Names in, specs out.

Figures come from the published configs; where a checkpoint's own config differs, it wins.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from embedstore.errors import UnknownBackbone


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One frozen model, as published."""

    name: str
    """Short name, e.g. `esm2-8m`."""
    family: str
    """Which loader reads it: `esm2`, `one-hot`, `composition`."""
    view: str
    """Which view of a record it reads: `mrna`, `dna`, `protein` or `cds`."""
    width: int
    """D, numbers per token."""
    licence: str
    hub_id: str | None = None
    """Where the weights are published; None: there are no weights."""
    revision: str | None = None
    """Pinned commit of the hub repository, where known."""
    layers: int = 0
    parameters: int = 0
    """Of the encoder, in the published checkpoint."""
    special_tokens: int = 0
    """Put around each sequence; never stored in `tokens`."""
    max_tokens: int | None = None
    """Longest input, special tokens included; None: no limit."""
    residues_per_token: int = 1
    """View positions under one token: 1, 3 for codons, 6 for 6-mers."""

    @property
    def needs_weights(self) -> bool:
        """True for trained models, False for one-hot and composition."""
        return self.hub_id is not None


def _esm2(
    size: str, layers: int, width: int, parameters: float, licence: str = "MIT"
) -> BackboneSpec:
    return BackboneSpec(
        name=f"esm2-{size.lower()}",
        family="esm2",
        view="protein",
        width=width,
        licence=licence,
        hub_id=f"facebook/esm2_t{layers}_{size}_UR50D",
        layers=layers,
        parameters=int(parameters * 1e6),
        special_tokens=2,
        max_tokens=1024,
    )


def _weightless(name: str, family: str, view: str, width: int, residues: int = 1) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        family=family,
        view=view,
        width=width,
        licence="Apache-2.0",
        residues_per_token=residues,
    )


_TABLE = (
    _esm2("8M", 6, 320, 7.4),
    _esm2("35M", 12, 480, 33.3),
    _esm2("150M", 30, 640, 147.7),
    _esm2("650M", 33, 1280, 649),
    _esm2("3B", 36, 2560, 2_832),
    _esm2("15B", 48, 5120, 15_103),
    _weightless("one-hot-mrna", "one-hot", "mrna", 4),
    _weightless("one-hot-dna", "one-hot", "dna", 4),
    _weightless("one-hot-protein", "one-hot", "protein", 20),
    _weightless("codon-composition", "composition", "cds", 64, residues=3),
    _weightless("kmer-composition", "composition", "mrna", 64),
)

SPECS: dict[str, BackboneSpec] = {spec.name: spec for spec in _TABLE}
"""Every backbone by short name, in the order of `embedstore backbones`."""


def find_spec(name: str) -> BackboneSpec:
    """The backbone of a short name or a full hub id.

    Raises
    ------
    UnknownBackbone
        Names the closest known one and how to list them all.
    """
    if name in SPECS:
        return SPECS[name]
    for spec in _TABLE:
        if name == spec.hub_id:
            return spec
    close = difflib.get_close_matches(name, SPECS, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise UnknownBackbone(
        f"No backbone is named {name!r}.", f"{hint}`embedstore backbones` lists them all."
    )
