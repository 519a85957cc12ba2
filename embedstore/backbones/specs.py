"""The table of every backbone: what it is, what it reads, how large it is. Names in, specs out.

Figures come from the published configs; where a checkpoint's own config differs, it wins.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from embedstore.errors import UnknownBackbone

WEIGHTLESS = ("one-hot", "composition")
"""Families that compute their rows from the letters alone."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of one number."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One frozen model, as published."""

    name: str
    """Short name, e.g. `esm2-8m`."""
    family: str
    """Which loader reads it, e.g. `esm2`, `nt-v2`, `one-hot`."""
    view: str
    """Which view of a record it reads: `mrna`, `dna`, `protein` or `cds`."""
    width: int
    """D, numbers per token."""
    licence: str
    """SPDX name of the licence of the weights, or of the authors' code where they name no other."""
    hub_id: str | None = None
    """Hub repository of the weights; None: they are published elsewhere, or there are none."""
    revision: str | None = None
    """Pinned commit of the hub repository, where known; else the resolved one is recorded."""
    source: str | None = None
    """Where weights that are on no hub can be had."""
    shipped: str | None = None
    """Folder of weights inside this package, for the small model that comes with it."""
    layers: int = 0
    heads: int = 0
    feed_forward: int = 0
    """Inner width of the feed-forward layers."""
    vocabulary: int = 0
    """Rows of the token table."""
    parameters: int = 0
    """Of the encoder, tables included, prediction heads left out."""
    special_tokens: int = 0
    """Put around each sequence; never stored in `tokens`."""
    max_tokens: int | None = None
    """Longest input, special tokens included; None: no limit."""
    residues_per_token: int = 1
    """View positions under one token: 1, 3 for codons, 6 for 6-mers."""

    @property
    def needs_weights(self) -> bool:
        """True for trained models, False for one-hot and composition."""
        return self.family not in WEIGHTLESS

    @property
    def commercial_use(self) -> bool:
        """False where the licence of the weights is for non-commercial use only."""
        return "-NC" not in self.licence

    @property
    def max_residues(self) -> int | None:
        """Longest view that is read whole, where no N breaks it up; None: no limit."""
        if self.max_tokens is None:
            return None
        return (self.max_tokens - self.special_tokens) * self.residues_per_token

    def stored_bytes(self, residues: int = 1000, store_dtype: str = "float16") -> int:
        """Bytes of `tokens` for that many view positions, rounded to whole tokens."""
        return round(residues / self.residues_per_token) * self.width * BYTES[store_dtype]

    def weight_bytes(self, compute_dtype: str = "float32") -> int:
        """Memory of the weights in that dtype (tables and norms stay float32: some per cent)."""
        return self.parameters * BYTES[compute_dtype]

    def as_row(self) -> dict[str, str | int | bool | None]:
        """What `embedstore backbones` prints of it, by column; sizes in bytes."""
        return {
            "name": self.name,
            "view": self.view,
            "width": self.width,
            "layers": self.layers,
            "parameters": self.parameters,
            "max_residues": self.max_residues,
            "special_tokens": self.special_tokens,
            "stored_per_1000_residues": self.stored_bytes(),
            "weights_float32": self.weight_bytes("float32"),
            "weights_bfloat16": self.weight_bytes("bfloat16"),
            "licence": self.licence,
            "commercial_use": self.commercial_use,
            "weights": self.hub_id or self.source or self.shipped,
            "revision": self.revision,
        }


def _esm2(
    size: str, layers: int, width: int, heads: int, parameters: int, revision: str
) -> BackboneSpec:
    return BackboneSpec(
        name=f"esm2-{size.lower()}",
        family="esm2",
        view="protein",
        width=width,
        licence="MIT",
        hub_id=f"facebook/esm2_t{layers}_{size}_UR50D",
        revision=revision,
        layers=layers,
        heads=heads,
        feed_forward=4 * width,
        vocabulary=33,
        parameters=parameters,
        special_tokens=2,
        max_tokens=1024,
    )


def _nucleotide_transformer(
    version: int,
    name: str,
    width: int,
    layers: int,
    heads: int,
    parameters: int,
    revision: str | None = None,
) -> BackboneSpec:
    prefix = "v2-" if version == 2 else ""
    return BackboneSpec(
        name=f"nt-v{version}-{name.removesuffix('-multi-species') if version == 2 else name}",
        family=f"nt-v{version}",
        view="dna",
        width=width,
        licence="CC-BY-NC-SA-4.0",
        hub_id=f"InstaDeepAI/nucleotide-transformer-{prefix}{name}",
        revision=revision,
        layers=layers,
        heads=heads,
        feed_forward=4 * width,
        vocabulary=4107 if version == 2 else 4105,
        parameters=parameters,
        special_tokens=1,
        max_tokens=2048 if version == 2 else 1000,
        residues_per_token=6,
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


# Commits of `main`, as public caches and lock files of several projects show them; the two that are
# named nowhere are not pinned, and the resolved commit is recorded.
_TABLE = (
    _esm2("8M", 6, 320, 20, 7_408_960, revision="c731040fcd8d73dceaa04b0a8e6329b345b0f5df"),
    _esm2("35M", 12, 480, 20, 33_269_280, revision="6fbf070e65b0b7291e7bbcd451118c216cff79d8"),
    _esm2("150M", 30, 640, 20, 147_728_000, revision="a695f6045e2e32885fa60af20c13cb35398ce30c"),
    _esm2("650M", 33, 1280, 20, 649_400_320, revision="08e4846e537177426273712802403f7ba8261b6c"),
    _esm2("3B", 36, 2560, 40, 2_832_442_880, revision="476b639933c8baad5ad09a60ac1a87f987b656fc"),
    _esm2("15B", 48, 5120, 40, 15_102_868_480, revision="5fbca39631164edc1d402a5aa369f982f72ee282"),
    _nucleotide_transformer(
        2,
        "50m-multi-species",
        512,
        12,
        16,
        52_484_608,
        revision="81b29e5786726d891dbf929404ef20adca5b36f1",
    ),
    _nucleotide_transformer(
        2,
        "100m-multi-species",
        512,
        22,
        16,
        94_468_608,
        revision="f34324c6fde36a4f635f0f1f06cac5d25acd6798",
    ),
    _nucleotide_transformer(
        2,
        "250m-multi-species",
        768,
        24,
        16,
        229_795_584,
        revision="c0f0359229f36ff6bc3a021247eefe0a9c344bd1",
    ),
    _nucleotide_transformer(
        2,
        "500m-multi-species",
        1024,
        29,
        16,
        490_984_448,
        revision="06615c1660c892fc199840c18123f8385b3542a8",
    ),
    _nucleotide_transformer(1, "500m-human-ref", 1280, 24, 20, 478_798_080),
    _nucleotide_transformer(1, "500m-1000g", 1280, 24, 20, 478_798_080),
    _nucleotide_transformer(
        1,
        "2.5b-1000g",
        2560,
        32,
        20,
        2_530_726_400,
        revision="c13cfe481c2f6a2b1cabbb2b80e0ad1fbf32e45a",
    ),
    _nucleotide_transformer(
        1,
        "2.5b-multi-species",
        2560,
        32,
        20,
        2_530_726_400,
        revision="b746b125aacd1b0970c05a32fd71ba726754542e",
    ),
    BackboneSpec(
        name="rna-fm",
        family="rna-fm",
        view="mrna",
        width=640,
        licence="MIT",
        source="RNA-FM_pretrained.pth, named in github.com/ml4bio/RNA-FM",
        layers=12,
        heads=20,
        feed_forward=5120,
        vocabulary=25,
        parameters=99_109_760,
        special_tokens=2,
        max_tokens=1024,
    ),
    BackboneSpec(
        name="splicebert",
        family="splicebert",
        view="dna",
        width=512,
        licence="BSD-3-Clause",
        source="SpliceBERT.1024nt of zenodo.org/records/7995778",
        layers=6,
        heads=16,
        feed_forward=2048,
        vocabulary=10,
        parameters=19_446_784,
        special_tokens=2,
        max_tokens=1026,
    ),
    BackboneSpec(
        name="codon-mini",
        family="codon-mini",
        view="cds",
        width=128,
        licence="Apache-2.0",
        shipped="codon_mini",
        layers=5,
        heads=4,
        feed_forward=512,
        vocabulary=69,
        parameters=1_000_448,
        special_tokens=2,
        max_tokens=1024,
        residues_per_token=3,
    ),
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
