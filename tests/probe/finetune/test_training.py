"""Fine-tuning is probing where the backbone rests; memory changes no step; both methods learn."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import BadInput
from embedstore.loaders import load_features
from embedstore.records import Record, Records
from embedstore.store import create_store
from probe.bank import Bank
from probe.finetune.live import LiveModel
from probe.finetune.plan import plan_finetuning
from probe.finetune.search import make_model
from probe.finetune.training import make_head
from probe.tasks import Task
from probe.training import train_head

from ..conftest import one_swap
from .conftest import in_float64


@pytest.fixture(scope="module")
def stored(plan_of, tiny_esm, tmp_path_factory):
    """Features of the plan's rows, read from a store that does not round."""
    plan = plan_of("full")
    prepared = prepare(
        BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu", store_dtype="float32")
    )
    records = Records(list(plan.rows), pa.table({"row": np.arange(len(plan.rows))}), 0, [])
    opened = create_store(tmp_path_factory.mktemp("exact") / "store")
    build(opened, records, prepared, BuildConfig(collection="genes", quiet=True))
    return load_features(opened.recipe("esm2-8m"), plan.keys[plan.name])


def flat(module):
    return torch.cat([value.detach().flatten() for value in module.parameters()]).clone()


def values_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "dropout", "size"), [("textcnn", 0.0, 16), ("textcnn", 0.2, 16), ("lstm", 0.0, 2)]
)
def test_with_a_resting_backbone_it_is_probing_step_for_step(
    plan_of, tuning_of, stored, kind, dropout, size
):
    plan = dataclasses.replace(plan_of("full"), head=kind)
    tuning = tuning_of(plan=plan, frozen=True, dropout=dropout)
    config = dataclasses.replace(plan.grid.configurations()[0], dropout=dropout)
    head, generator = make_head(kind, 16, 1, config.seed)
    bank, train = Bank([head], [config], generator), plan.examples("train")
    values = torch.from_numpy(plan.objective.training_values(train.targets))
    order = np.random.Generator(np.random.PCG64(5))
    start = flat(head)
    for _ in range(4):
        batch = order.permutation(len(train.rows))[:size]
        keys = stored.rows[train.rows[batch]]
        ((_, *taken),) = stored.passes(keys, 1 << 30)
        (expected,) = bank.step([0], *taken, values[batch])
        assert tuning.step(batch) == pytest.approx(expected, rel=1e-5)
        # together, since AdamW moves a weight whose gradient is all rounding as far as any other
        apart = (flat(tuning.model.head) - flat(head)).norm()
        assert apart < 1e-3 * (flat(head) - start).norm()


def test_with_a_resting_backbone_the_learning_curve_is_that_of_a_probe(plan_of, tuning_of, stored):
    plan, tuning = plan_of("full", epochs=3), tuning_of("full", frozen=True, epochs=3)
    while not tuning.course.stopped:
        tuning.one_epoch()
    parts = plan.examples("train"), plan.examples("validation")
    probed = train_head(stored, *parts, plan.objective, plan.grid.configurations()[0])
    assert len(probed.curve) == len(tuning.course.curve) == 3
    for mine, theirs in zip(tuning.course.curve, probed.curve, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        # two neighbours may swap ranks where a machine rounds the one way or the other
        rows = len(plan.split.validation)
        assert mine.validation_score == pytest.approx(theirs.validation_score, abs=one_swap(rows))
    assert tuning.course.best == probed.best_epoch


def test_lora_leaves_every_pretrained_weight_as_it_was_bit_for_bit(tuning_of, base):
    tuning = tuning_of("lora", backbone_learning_rate=1e-2)
    before = values_of(tuning.model)
    tuning.one_epoch()
    learning = tuning.model.learning().keys()
    for name, value in values_of(tuning.model).items():
        assert torch.equal(value, before[name]) == (name not in learning), name
    pretrained = base.load_trainable().model.state_dict()
    now = {
        name.replace(".base_layer", ""): value
        for name, value in tuning.model.backbone.state_dict().items()
        if ".lora_" not in name
    }
    assert now.keys() == pretrained.keys()
    assert all(torch.equal(now[name], pretrained[name]) for name in now)


def test_full_fine_tuning_changes_every_layer_and_counts_what_it_trains(tuning_of):
    tuning = tuning_of("full")
    before = values_of(tuning.model)
    tuning.one_epoch()
    still = {n for n, v in values_of(tuning.model).items() if torch.equal(v, before[n])}
    assert still == {"backbone.model.rotary_embeddings.inv_freq"}
    assert tuning.model.trained_parameters() == sum(p.numel() for p in tuning.model.parameters())


def test_the_two_learning_rates_reach_their_own_parameters(tuning_of):
    tuning = tuning_of("full", learning_rate=1e-9, backbone_learning_rate=1e-2)
    before = values_of(tuning.model)
    tuning.step(np.arange(8))
    moved = {n: float((v - before[n]).abs().max()) for n, v in values_of(tuning.model).items()}
    assert max(move for name, move in moved.items() if name.startswith("head.")) < 1e-6
    assert max(move for name, move in moved.items() if name.startswith("backbone.")) > 1e-3


def assert_same_gradients(one, other):
    """Of two trainings in float64, which differ by the order of sums alone.

    Gradients, not parameters after a step: AdamW divides by the size of a gradient, so one that
    is all rounding moves its weight as far as any other, in a direction that depends on the
    machine. Each tensor is compared as a whole, within far more than float64 rounds and far less
    than a lost part of a batch changes.
    """
    mine, theirs = one.model.learning(), other.model.learning()
    assert mine.keys() == theirs.keys()
    for name, p in mine.items():
        apart = (p.grad - theirs[name].grad).norm()
        assert p.grad.dtype == torch.float64
        assert apart <= 1e-9 * theirs[name].grad.norm() + 1e-15, name


def test_small_passes_add_up_to_the_whole_batch(tuning_of):
    whole, parts = (in_float64(tuning_of("full", batch_tokens=n)) for n in (8_192, 100))
    passes = []
    parts.model.register_forward_hook(lambda *_: passes.append(1))
    for batch in (np.arange(16), np.arange(16, 29)):
        before = len(passes)
        assert parts.step(batch) == pytest.approx(whole.step(batch), rel=1e-9)
        assert len(passes) - before > 1
        assert_same_gradients(parts, whole)
        parts.model.load_state_dict(whole.model.state_dict())  # both go on from one place


def test_out_of_memory_halves_the_passes_and_keeps_the_batch(tuning_of, monkeypatch):
    calm, pressed = (in_float64(tuning_of("lora", batch_tokens=n)) for n in (8_192, 4_000))
    forward, sizes = LiveModel.forward, []

    def limited(model, texts, noise=None):
        outputs = forward(model, texts, noise)
        if model is pressed.model:
            sizes.append(len(texts))
            if sum(map(len, texts)) > 600:  # some parts of a batch fit before one does not
                raise torch.OutOfMemoryError("injected")
        return outputs

    monkeypatch.setattr(LiveModel, "forward", limited)
    for batch in (np.arange(16), np.arange(16, 32)):
        assert pressed.step(batch) == pytest.approx(calm.step(batch), rel=1e-9)
        assert_same_gradients(pressed, calm)
        pressed.model.load_state_dict(calm.model.state_dict())
    assert max(sizes) > 1
    assert pressed.state()["batch_tokens"] == 500  # of 4,000; remembered
    np.testing.assert_allclose(
        pressed.predict(np.arange(20)),
        calm.predict(np.arange(20)),
        rtol=1e-5,  # outputs are float32
        atol=1e-6,
    )


def test_an_optimiser_that_does_not_fit_is_an_error_that_says_so(tuning_of, monkeypatch):
    def full(optimizer, closure=None):
        raise torch.OutOfMemoryError("injected")

    tuning = tuning_of("full")
    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(BadInput, match=r"no memory for the optimiser.* --method lora"):
        tuning.step(np.arange(4))


def test_a_sequence_that_does_not_fit_alone_is_an_error_that_says_so(tuning_of, monkeypatch):
    def full(model, texts, noise=None):
        raise torch.OutOfMemoryError("injected")

    tuning = tuning_of("lora")
    monkeypatch.setattr(LiveModel, "forward", full)
    with pytest.raises(BadInput, match=r"no memory for a sequence of .* --checkpointing"):
        tuning.step(np.arange(4))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpointing_changes_no_step(plan_of, tuning_of, method):
    plain = tuning_of(method)
    spared = tuning_of(plan=dataclasses.replace(plan_of(method), checkpointing=True))
    assert spared.model.backbone.checkpointing
    for tuning in (plain, spared):
        tuning.step(np.arange(12))
    for one, other in zip(plain.model.parameters(), spared.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_products_keep_float32_weights(plan_of, base):
    recipe = dataclasses.replace(base.recipe, compute_dtype="bfloat16")
    plan = dataclasses.replace(plan_of("full"), prepared=dataclasses.replace(base, recipe=recipe))
    model, _ = make_model(plan, plan.grid.tunings()[0])
    exact, _ = make_model(plan_of("full"), plan.grid.tunings()[0])
    texts = plan.views.texts([0, 1, 2])
    rounded, outputs = model(texts), exact(texts)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, outputs)
    torch.testing.assert_close(rounded, outputs, rtol=0.1, atol=0.05)
    rounded.sum().backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.fixture(scope="module")
def planted(tmp_path_factory, base):
    """Proteins whose class is whether they hold a motif."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(80):
        text = rng.choice(list("ADEGKLST"), rng.integers(10, 20))
        if number % 2:
            text[4:8] = list("WCWH")
        rows.append(Record(f"p{number}", "".join(text), "protein"))
    label = ["with" if number % 2 else "without" for number in range(80)]
    store = create_store(tmp_path_factory.mktemp("planted") / "store")
    records = Records(rows, pa.table({"label": label}), 0, [])
    letters = prepare(BackboneConfig(backbone="one-hot-protein"))
    build(store, records, letters, BuildConfig(collection="planted", quiet=True))
    return store


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_planted_signal_is_learnt(planted, base, tuning_of, method):
    from .conftest import grid_of

    task = Task(collection="planted", label="label", kind="classification")
    grid = grid_of(method, epochs=8, backbone_learning_rate=1e-3, batch_sizes=(8,))
    tuning = tuning_of(plan=plan_finetuning(planted, task, base, grid))
    while not tuning.course.stopped:
        tuning.one_epoch()
    assert tuning.course.score > 0.9
    assert tuning.course.curve[-1].train_loss < 0.5 * tuning.course.curve[0].train_loss
