"""Changed weights come back from the exported folder, in every family's own layout."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from embedstore.backbones.export import save_checkpoint
from embedstore.backbones.load import BackboneConfig, config_of, family_of, prepare

from .conftest import FAMILIES, VIEWS


def prepared_from(checkpoint, weights):
    config = BackboneConfig(
        backbone=checkpoint.backbone, weights=weights, device="cpu", store_dtype="float32"
    )
    return prepare(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_model_is_read_back_bit_for_bit(published, family, tmp_path):
    source = prepared_from(published[family], published[family].weights)
    trained = source.load_trainable()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
    trained.model.settle()  # RNA-FM has a row that is always zero
    rename = family_of(source.config.spec).rename
    save_checkpoint(tmp_path, trained.model.state_dict(), source.checkpoint, rename)
    again = prepared_from(published[family], tmp_path)
    assert again.recipe.weights != source.recipe.weights
    loaded = again.load_trainable().model.state_dict()
    assert loaded.keys() == trained.model.state_dict().keys()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    views = VIEWS[family]
    mine, theirs = again.load().embed(views), trained.embed(views)
    np.testing.assert_allclose(mine.tokens, theirs.tokens, rtol=1e-4, atol=1e-5)
    assert not np.allclose(mine.tokens, source.load().embed(views).tokens, atol=1e-2)


def test_prediction_heads_are_left_out_and_published_names_kept(published, tmp_path):
    source = prepared_from(published["esm2"], published["esm2"].weights)
    model = source.load_trainable().model
    rename = family_of(source.config.spec).rename
    save_checkpoint(tmp_path, model.state_dict(), source.checkpoint, rename)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    before = {name for name, _ in source.checkpoint.tensors()}
    assert names < before
    left_out = {name.split(".")[0] for name in before - names}
    assert left_out == {"lm_head", "esm"}  # of esm, the position table that rotary never reads
    assert "esm.contact_head.regression.weight" in names


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_published_in_half_are_exported_and_loaded_in_float32(published, tmp_path, key):
    from transformers import EsmModel

    held = published["esm2"]
    halves = tmp_path / "halves"
    halves.mkdir()
    config = {name: value for name, value in held.config.items() if "dtype" not in name}
    (halves / "config.json").write_text(json.dumps(config | {key: "float16"}))
    half = {name: torch.from_numpy(each).half() for name, each in held.tensors.items()}
    save_file(half, halves / "model.safetensors")
    source = prepared_from(held, halves)
    model = source.load_trainable().model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-5)  # less than float16 can tell beside one
    rename = family_of(source.config.spec).rename
    save_checkpoint(tmp_path / "out", model.state_dict(), source.checkpoint, rename)
    loaded = EsmModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    name = "encoder.layer.1.attention.LayerNorm.weight"
    assert torch.equal(loaded.state_dict()[name], model.state_dict()[f"model.{name}"])


@pytest.mark.parametrize("long", ["skip", "truncate", "window"])
def test_a_recipe_tells_the_options_that_gave_it(published, long):
    weights = published["esm2"].weights
    asked = {} if long == "skip" else {"max_tokens": 50}
    config = BackboneConfig(
        backbone="esm2-8m", weights=weights, device="cpu", long=long, store_dtype="float32", **asked
    )
    recipe = prepare(config).recipe
    assert prepare(config_of(recipe, weights, "cpu")).recipe == recipe
