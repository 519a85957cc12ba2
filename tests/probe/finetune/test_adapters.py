"""Adapters sit where the table says, in every family, with the rank and alpha that were asked."""

import pytest
import torch

from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.specs import SPECS
from probe.finetune.adapters import TARGETS, merge, prepare_to_learn
from probe.finetune.method import FinetuneConfig

from ...embedstore.backbones.published import publish_all

VIEWS = {"protein": ["MKTAYIAKQR", "MV"], "dna": ["ATGATGCCCGGGTA", "ACGTAC"]}
VIEWS |= {"mrna": ["AUGGCUAACC", "U"], "cds": ["AUGGCUUAA", "AUGUAA"]}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish_all(tmp_path_factory.mktemp("published"))


def opened(published, family):
    checkpoint = published[family]
    config = BackboneConfig(backbone=checkpoint.backbone, weights=checkpoint.weights, device="cpu")
    return prepare(config).load_trainable()


def test_the_table_names_every_family_with_weights():
    assert TARGETS.keys() == {spec.family for spec in SPECS.values() if spec.needs_weights}


@pytest.mark.parametrize("family", sorted(TARGETS.keys() - {"codon-mini"}))
def test_every_block_of_every_family_gets_its_adapters(published, family):
    backbone = opened(published, family)
    views = VIEWS[backbone.spec.view]
    with torch.no_grad():
        before = backbone.states(backbone.tokenize(views))
    config = FinetuneConfig(method="lora", rank=3, alpha=1.5)
    prepare_to_learn(backbone.model, family, config)
    learning = {name for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert learning == {
        f"model.encoder.layer.{block}.{target}.lora_{half}.default.weight"
        for block in range(backbone.model.layers)
        for target in TARGETS[family]
        for half in "AB"
    }
    layer = backbone.model.blocks[1].attention.self.key
    assert layer.lora_A["default"].weight.shape == (3, 16)
    assert layer.lora_B["default"].weight.shape == (16, 3)
    assert layer.scaling["default"] == 0.5
    adapter = backbone.model.model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (3, 1.5, 0.0)
    states = backbone.states(backbone.tokenize(views))  # B is zero: nothing has changed yet
    torch.testing.assert_close(states, before, rtol=0, atol=0)
    states.square().sum().backward()  # every adapter has a part in the result
    assert all(
        p.grad.abs().max() > 0 for n, p in backbone.model.named_parameters() if ".lora_B." in n
    )


def test_merging_gives_the_states_of_the_adapted_model(published):
    backbone = opened(published, "esm2")
    names = set(backbone.model.state_dict())
    prepare_to_learn(backbone.model, "esm2", FinetuneConfig(method="lora", rank=2, alpha=4.0))
    rng = torch.Generator().manual_seed(0)
    for name, p in backbone.model.named_parameters():
        if ".lora_B." in name:
            p.data.normal_(generator=rng)
    batch = backbone.tokenize(VIEWS["protein"])
    with torch.no_grad():
        adapted = backbone.states(batch)
        merge(backbone.model)
        torch.testing.assert_close(backbone.states(batch), adapted, rtol=1e-4, atol=1e-5)
    assert set(backbone.model.state_dict()) == names


def test_the_seed_decides_the_start_and_the_global_generator_is_left_alone(published):
    drawn = []
    for seed in (1, 1, 2):
        backbone = opened(published, "esm2")
        state = torch.get_rng_state()
        config = FinetuneConfig(method="lora", rank=2, alpha=2.0, seed=seed)
        prepare_to_learn(backbone.model, "esm2", config)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(backbone.model.blocks[0].attention.self.query.lora_A["default"].weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
