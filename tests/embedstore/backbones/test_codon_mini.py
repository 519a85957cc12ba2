"""The codon model that comes with the package is the one its row in the table describes."""

from pathlib import Path

import pytest

from embedstore.backbones import codons
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.specs import find_spec

if not Path(codons.__file__).with_name("codon_mini").joinpath("config.json").is_file():
    pytest.skip("embedstore/backbones/codon_mini has no weights yet", allow_module_level=True)


def test_the_shipped_weights_are_what_the_table_says():
    spec = find_spec("codon-mini")
    prepared = prepare(BackboneConfig(backbone="codon-mini", device="cpu"))
    backbone = prepared.load()
    assert sum(each.numel() for each in backbone.model.parameters()) == spec.parameters
    assert backbone.width == prepared.recipe.width == spec.width
    assert backbone.model.layers == spec.layers
    embedded = backbone.embed(["AUGGCUUAA", "AUGNNNGCUUAA"])
    assert embedded.lengths.tolist() == [3, 4] and embedded.finite.all()
