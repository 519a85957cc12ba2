"""Configs as they are published, and as transformers saves them again; what the digest takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from embedstore.backbones.identify import family_in
from embedstore.backbones.load import BackboneConfig, family_of, prepare
from embedstore.backbones.specs import SPECS
from embedstore.errors import BadWeights

from .conftest import VIEWS, by_equations, open_backbone, whole_ids
from .published import ESM2, NT_V1, NT_V2, SPLICEBERT, esm_tensors, publish

# InstaDeepAI/nucleotide-transformer-v2-100m-multi-species, config.json as downloaded: these keys
# and values, and no model_type.
NT_V2_100M = {
    "add_bias_fnn": False,
    "architectures": ["EsmForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {"AutoConfig": "esm_config.EsmConfig"},
    "emb_layer_norm_before": False,
    "esmfold_config": None,
    "hidden_dropout_prob": 0.0,
    "hidden_size": 512,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "is_folding_model": False,
    "layer_norm_eps": 1e-12,
    "mask_token_id": 2,
    "max_position_embeddings": 2050,
    "num_attention_heads": 16,
    "num_hidden_layers": 22,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "tie_word_embeddings": False,
    "token_dropout": False,
    "torch_dtype": "float32",
    "transformers_version": "4.32.0.dev0",
    "use_cache": False,
    "vocab_list": None,
    "vocab_size": 4107,
}
FAMILY_CONFIGS = {"esm2": ESM2, "nt-v1": NT_V1, "nt-v2": NT_V2, "splicebert": SPLICEBERT}


def published_config(name: str) -> dict:
    """A config of the hub, verbatim."""
    folder = os.environ.get("EMBEDSTORE_PUBLISHED")
    if not folder and os.environ.get("EMBEDSTORE_DATA"):
        folder = str(Path(os.environ["EMBEDSTORE_DATA"]).parent / "published")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip("EMBEDSTORE_PUBLISHED is not set, and names no folder of published configs")
    return json.loads((Path(folder) / name).read_text())


def prepared_of(made, **settings):
    config = BackboneConfig(backbone=made.backbone, weights=made.weights, device="cpu", **settings)
    return prepare(config)


def small(config: dict) -> dict:
    """A published config of a model small enough for a test."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**config, **{key: NT_V2[key] for key in sizes}}


@pytest.mark.parametrize("name", ["nt-v2-100m.config.json", "nt-v2-500m-saved-again.config.json"])
def test_nt_v2_loads_with_its_config_verbatim(tmp_path, name):
    config = published_config(name)
    assert family_in(config) == "nt-v2"
    with torch.device("meta"):
        model = family_of(SPECS["nt-v2-100m"]).skeleton(config)
    spec = SPECS["nt-v2-100m" if "100m" in name else "nt-v2-500m"]
    assert sum(each.numel() for each in model.parameters()) == spec.parameters
    config = small(config)
    made = publish(tmp_path, spec.name, config, esm_tensors(config))
    backbone = open_backbone(made)
    view = VIEWS["nt-v2"][0]
    states = by_equations(made, whole_ids(backbone.tokenizer, view))
    np.testing.assert_allclose(backbone.embed([view]).tokens, states[1:], rtol=1e-4, atol=2e-5)


def test_nt_v2_is_known_without_a_model_type(tmp_path):
    assert "model_type" not in NT_V2_100M
    assert family_in(NT_V2_100M) == family_in({**NT_V2_100M, "model_type": "esm"}) == "nt-v2"
    config = small(NT_V2_100M)
    made = publish(tmp_path, "nt-v2-100m", config, esm_tensors(config))
    assert open_backbone(made).embed(VIEWS["nt-v2"]).finite.all()


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize("key", ["model_type", "position_embedding_type"])
def test_a_missing_key_is_no_contradiction_and_a_different_one_is(family, key):
    config = FAMILY_CONFIGS[family]
    without = {name: value for name, value in config.items() if name != key}
    assert family_in(without) == family_in({**without, key: None}) == family
    assert family_in({**without, key: "other"}) is None
    assert family_in({**config, "vocab_size": 34}) is None
    assert (
        family_in({name: value for name, value in config.items() if name != "vocab_size"}) is None
    )


def test_rna_fm_as_others_pack_it_is_refused_by_name(tmp_path):
    config = published_config("rna-fm-multimolecule.config.json")
    publish(tmp_path, "rna-fm", config, {"x": np.ones(1, np.float32)})
    words = "'rnafm' model with absolute positions and 26 tokens: RNA-FM as others have packed it"
    with pytest.raises(BadWeights, match=words):
        prepare(BackboneConfig(backbone="rna-fm", weights=tmp_path, device="cpu"))
    for name in ("esm2-8m", "splicebert"):
        with pytest.raises(BadWeights, match="'rnafm' model"):
            prepare(BackboneConfig(backbone=name, weights=tmp_path, device="cpu"))


def test_a_vocabulary_in_another_order_is_refused(tmp_path):
    made = publish(tmp_path, "esm2-8m", ESM2, esm_tensors(ESM2))
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>"]
    (tmp_path / "vocab.txt").write_text("\n".join([*tokens, "<mask>"]))
    before = prepared_of(made).recipe
    tokens[4:6] = ["A", "L"]
    (tmp_path / "vocab.txt").write_text("\n".join([*tokens, "<mask>"]))
    with pytest.raises(BadWeights, match="has 'A' at id 4; ESM-2 has it at 5"):
        prepared_of(made)
    (tmp_path / "vocab.txt").unlink()
    assert prepared_of(made).recipe == before


@pytest.mark.parametrize("head", ["EsmModel", "EsmForMaskedLM", "EsmForSequenceClassification"])
def test_esm2_saved_again_by_transformers_gives_the_same_numbers(tmp_path, published, head):
    import transformers

    made = published["esm2"]
    again = getattr(transformers, head).from_pretrained(made.weights)
    again.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["transformers_version"] and "dtype" in saved
    read = publish_path("esm2-8m", tmp_path, saved, made.tensors)
    expected = open_backbone(made).embed(VIEWS["esm2"]).tokens
    np.testing.assert_array_equal(open_backbone(read).embed(VIEWS["esm2"]).tokens, expected)
    settings = family_of(SPECS["esm2-8m"]).settings
    assert {key: saved[key] for key in settings} == {key: made.config[key] for key in settings}


@pytest.mark.parametrize("family", ["nt-v1", "splicebert"])
def test_other_families_saved_again_give_the_same_numbers(tmp_path, published, family):
    import transformers

    made = published[family]
    head = "EsmForMaskedLM" if family == "nt-v1" else "BertForMaskedLM"
    getattr(transformers, head).from_pretrained(made.weights).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    read = publish_path(made.backbone, tmp_path, saved, made.tensors)
    expected = open_backbone(made).embed(VIEWS[family]).tokens
    np.testing.assert_array_equal(open_backbone(read).embed(VIEWS[family]).tokens, expected)


def publish_path(backbone, folder, config, tensors):
    from .published import Published

    return Published(backbone, folder, config, tensors)


def test_the_digest_takes_what_changes_numbers_and_nothing_else(tmp_path):
    made = publish(tmp_path, "nt-v2-50m", NT_V2, esm_tensors(NT_V2))
    name = prepared_of(made).recipe.weights
    noise = {"transformers_version": "5.23.0", "dtype": "float16", "torch_dtype": "x"}
    noise |= {"architectures": ["Z"], "auto_map": {}, "id2label": {"0": "A"}, "use_cache": True}
    same = [
        {**NT_V2, **noise},
        {**NT_V2, "model_type": "esm"},
        {**NT_V2, "emb_layer_norm_before": None},
    ]
    same.append({**NT_V2, "hidden_size": 16.0, "layer_norm_eps": 0.000000000001})
    for config in same:
        (tmp_path / "config.json").write_text(json.dumps(config, indent=3))
        assert prepared_of(made).recipe.weights == name
    for key, value in {"layer_norm_eps": 1e-5, "num_attention_heads": 4}.items():
        (tmp_path / "config.json").write_text(json.dumps({**NT_V2, key: value}))
        assert prepared_of(made).recipe.weights != name
    (tmp_path / "config.json").write_text(json.dumps(NT_V2))
    made.rewrite(esm_tensors(NT_V2, seed=1))
    assert prepared_of(made).recipe.weights != name


class Noting(dict):
    """Notes which keys are read."""

    def __init__(self, values):
        super().__init__(values)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("backbone", ["esm2-8m", "nt-v1-500m-1000g", "nt-v2-50m", "splicebert"])
def test_the_skeleton_reads_the_declared_keys_and_no_other(backbone):
    family = family_of(SPECS[backbone])
    config = FAMILY_CONFIGS[SPECS[backbone].family]
    noted = Noting({key: config[key] for key in family.settings})
    with torch.device("meta"):
        family.skeleton(noted)  # with nothing else in it
    marks = {"model_type", "position_embedding_type", "vocab_size"}  # say which family it is
    assert noted.read - marks == set(family.settings) - marks
    for key in set(family.settings) - {"vocab_size"}:
        less = {name: value for name, value in config.items() if name != key}
        with pytest.raises(BadWeights, match=f"does not say '{key}'"):
            family.skeleton(less)


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", '{"hidden_size": "16"}', '{"vocab_size": 33, "token_dropout": 1}']
)
def test_a_config_that_is_no_config_is_refused_in_words(tmp_path, text):
    made = publish(tmp_path, "esm2-8m", ESM2, esm_tensors(ESM2))
    values = json.loads(text) if text.startswith("{") and len(text) > 1 else None
    (tmp_path / "config.json").write_text(json.dumps({**ESM2, **values}) if values else text)
    with pytest.raises(BadWeights):
        prepared_of(made)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../x"}}, {"weight_map": {"a": 3}}]
)
def test_an_index_that_lists_no_files_beside_it_is_refused(tmp_path, index):
    made = publish(tmp_path, "esm2-8m", ESM2, esm_tensors(ESM2))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadWeights, match="does not list files beside it"):
        prepared_of(made)
