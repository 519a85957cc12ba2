"""The table's figures are those of the models it names."""

import json

import pytest
import torch

from embedstore.backbones.load import family_of
from embedstore.backbones.specs import SPECS, find_spec
from embedstore.dogma import VIEWS
from embedstore.errors import UnknownBackbone

TRAINED = [spec for spec in SPECS.values() if spec.needs_weights]


def published_config(spec):
    """A config of the published sizes."""
    rotary = spec.family in ("esm2", "nt-v2", "codon-mini")
    rows = spec.max_tokens + (0 if spec.family == "splicebert" else 2)
    return {
        "model_type": {"splicebert": "bert", "rna-fm": "rna-fm"}.get(spec.family, "esm"),
        "vocab_size": spec.vocabulary,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.feed_forward,
        "max_position_embeddings": rows,
        "position_embedding_type": "rotary" if rotary else "absolute",
        "layer_norm_eps": 1e-5,
        "emb_layer_norm_before": spec.family == "rna-fm",
        "token_dropout": False,
        "pad_token_id": 1,
        "mask_token_id": 2,
        "add_bias_fnn": False,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
    }


@pytest.mark.parametrize("spec", TRAINED, ids=lambda spec: spec.name)
def test_figures_are_those_of_a_model_of_the_published_sizes(spec):
    family, config = family_of(spec), published_config(spec)
    with torch.device("meta"):
        model = family.skeleton(config)
    assert sum(each.numel() for each in model.parameters()) == spec.parameters
    assert model.layers == spec.layers and model.model.config.hidden_size == spec.width
    tokenizer = family.tokenizer()
    assert spec.special_tokens == len(tokenizer.prefix) + len(tokenizer.suffix)
    assert family.longest(config) in (None, spec.max_tokens)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_every_row_is_complete(spec):
    assert spec.view in VIEWS and spec.licence and spec.width > 0
    assert spec.residues_per_token in (1, 3, 6)
    if spec.needs_weights:
        assert spec.hub_id or spec.source or spec.shipped
        assert spec.max_tokens and spec.layers and spec.heads and spec.feed_forward
        assert find_spec(spec.hub_id or spec.name) is spec


def test_the_nucleotide_transformer_is_not_for_commercial_use():
    restricted = {spec.name for spec in SPECS.values() if not spec.commercial_use}
    assert len(restricted) == 8 and all(name.startswith("nt-") for name in restricted)


def test_sizes_are_worked_out():
    # by hand: 1,000 residues x 320 numbers x 2 bytes; 167 6-mers x 512 x 2; 2 and 4 bytes a weight
    assert find_spec("esm2-8m").stored_bytes() == 640_000
    assert find_spec("nt-v2-100m").stored_bytes() == 167 * 512 * 2
    assert find_spec("nt-v2-100m").stored_bytes(12, "float32") == 2 * 512 * 4
    assert find_spec("esm2-15b").weight_bytes("bfloat16") == pytest.approx(30.2e9, rel=1e-2)
    assert find_spec("esm2-8m").weight_bytes() == 7_408_960 * 4


def test_a_row_for_the_command_line_is_plain_values():
    rows = [spec.as_row() for spec in SPECS.values()]
    assert len({tuple(row) for row in rows}) == 1 and json.loads(json.dumps(rows)) == rows
    assert find_spec("nt-v1-500m-1000g").as_row()["commercial_use"] is False
    assert find_spec("rna-fm").as_row()["weights"].startswith("RNA-FM_pretrained.pth")


def test_longest_inputs_are_the_published_ones():
    longest = {name: spec.max_residues for name, spec in SPECS.items()}
    assert longest["esm2-650m"] == 1022 and longest["rna-fm"] == 1022
    assert longest["nt-v2-500m"] == 12_282 and longest["nt-v1-2.5b-1000g"] == 5_994
    assert longest["splicebert"] == 1024 and longest["one-hot-mrna"] is None


def test_a_name_that_is_nearly_right_gets_a_hint():
    with pytest.raises(UnknownBackbone, match="Did you mean 'nt-v2-100m'"):
        find_spec("nt-v2-100")
    name = "InstaDeepAI/nucleotide-transformer-v2-100m-multi-species"
    assert find_spec(name).name == "nt-v2-100m"
