"""Training one head: deterministic, learns what is there, keeps its best epoch."""

import math

import numpy as np
import pytest
import torch

from embedstore.loaders import Features
from probe.batches import head_outputs
from probe.objective import Objective
from probe.stream import predict_rows
from probe.tasks import Task
from probe.training import Examples, TrainingConfig, train_head

MOTIF = [0, 1, 2, 3]


def make_features(count=90, seed=0):
    """One-hot sequences; in the second half a motif is written into each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, count)
    texts = [rng.integers(0, 4, length) for length in lengths]
    has_motif = np.arange(count) % 2 == 1
    for text in [text for text, has in zip(texts, has_motif, strict=True) if has]:
        text[:4] = MOTIF[: len(text)]
    tokens = np.eye(4, dtype=np.float16)[np.concatenate(texts)]
    features = Features(tokens, np.cumsum(lengths) - lengths, lengths, np.arange(count))
    return features, has_motif


@pytest.fixture(scope="module")
def motif():
    """Features, training and validation rows, and the objective of a regression."""
    features, has_motif = make_features()
    targets = 5.0 + 2.0 * has_motif + np.linspace(0, 0.1, len(has_motif))
    rows = np.arange(len(targets))
    train, validation = (Examples(part, targets[part]) for part in (rows[:60], rows[60:]))
    task = Task(collection="c", label="l", kind="regression")
    return features, train, validation, Objective.fit(task, (), train.targets)


def config(**options):
    return TrainingConfig(**{"batch_size": 16, "learning_rate": 9e-4, "epochs": 3} | options)


def weights(trained):
    return torch.cat([value.flatten() for value in trained.head.state_dict().values()])


def test_a_planted_motif_is_learnt(motif):
    features, _, validation, objective = motif
    trained = train_head(*motif, config(epochs=12))
    assert trained.validation_score > 0.7
    predicted = predict_rows(trained.head, features, validation.rows, objective)
    # in the unit of the labels: 5 without the motif and 7 with it
    without, having = (predicted[validation.rows % 2 == side].mean() for side in (0, 1))
    assert predicted.dtype == np.float64
    assert 4.5 < without < having < 7.5
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss


def test_classes_are_learnt():
    features, has_motif = make_features()
    rows = np.arange(len(has_motif))
    targets = has_motif.astype(np.int64)
    task = Task(collection="c", label="l", kind="classification")
    objective = Objective.fit(task, ("no", "yes"), targets[:60])
    train, validation = (Examples(part, targets[part]) for part in (rows[:60], rows[60:]))
    trained = train_head(features, train, validation, objective, config(epochs=12))
    assert trained.validation_score > 0.9
    assert predict_rows(trained.head, features, rows, objective).dtype == np.int64


def test_the_same_seed_gives_the_same_weights_and_another_one_others(motif):
    first, again, other = (train_head(*motif, config(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert first.curve == again.curve
    assert not torch.equal(weights(first), weights(other))


def test_the_global_generators_are_left_alone(motif):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy()
    train_head(*motif, config(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.get_state()[1], before)


def test_what_was_drawn_before_does_not_matter(motif):
    torch.manual_seed(1)
    first = train_head(*motif, config(epochs=1))
    torch.rand(100)
    assert torch.equal(weights(first), weights(train_head(*motif, config(epochs=1))))


def test_the_best_epoch_is_kept(motif):
    features, _, validation, objective = motif
    trained = train_head(*motif, config(epochs=6, learning_rate=5e-3))
    scores = [epoch.validation_score for epoch in trained.curve]
    assert trained.validation_score == max(scores) == scores[trained.best_epoch - 1]
    predicted = predict_rows(trained.head, features, validation.rows, objective)
    assert objective.score(predicted, validation.targets) == trained.validation_score
    shorter = train_head(*motif, config(epochs=trained.best_epoch, learning_rate=5e-3))
    assert torch.equal(weights(shorter), weights(trained))


def test_training_stops_when_patience_runs_out(motif, monkeypatch):
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.45, 0.9])
    monkeypatch.setattr(Objective, "score", lambda *_: next(scores))
    trained = train_head(*motif, config(epochs=10, patience=3))
    # an equal score is no improvement: 0.5 at epoch 2 holds until epoch 5
    assert (trained.best_epoch, len(trained.curve)) == (2, 5)


def test_an_undefined_score_never_beats_a_defined_one(motif, monkeypatch):
    scores = iter([math.nan, -0.5, math.nan])
    monkeypatch.setattr(Objective, "score", lambda *_: next(scores))
    trained = train_head(*motif, config())
    assert (trained.best_epoch, trained.validation_score) == (2, -0.5)


def test_a_training_that_diverges_ends_with_an_undefined_score(motif):
    trained = train_head(*motif, config(learning_rate=1e30, epochs=9))
    assert math.isnan(trained.curve[-1].validation_score)
    assert len(trained.curve) < 9


def test_rows_that_share_an_embedding_share_their_prediction(motif):
    features, *_, objective = motif
    shared = Features(features.tokens, features.starts, features.lengths, np.array([4, 9, 4]))
    head = train_head(*motif, config(epochs=1)).head
    predicted = predict_rows(head, shared, np.arange(3), objective)
    assert predicted[0] == predicted[2] != predicted[1]


def test_taking_copies_the_asked_rows_end_to_end(motif):
    features = motif[0]
    at = np.array([5, 2])
    tokens, lengths = features.take(at)
    first, second = (
        features.tokens[start : start + length]
        for start, length in zip(features.starts[at], features.lengths[at], strict=True)
    )
    assert tokens.dtype == torch.float32
    assert np.array_equal(tokens.numpy(), np.concatenate([first, second]))
    assert lengths.tolist() == features.lengths[at].tolist()


def test_read_only_features_are_taken_without_a_warning(motif):
    features = motif[0]
    tokens = features.tokens.copy()
    tokens.flags.writeable = False
    Features(tokens, features.starts, features.lengths, features.rows).take(np.arange(2))


def test_long_runs_are_cut_into_passes_that_give_the_same(motif, monkeypatch):
    features = motif[0]
    head = train_head(*motif, config(epochs=1)).head
    arrays = features.tokens, features.starts, features.lengths
    whole = head_outputs(head, *arrays)
    monkeypatch.setattr("probe.batches.RUN_TOKENS", 10)
    np.testing.assert_allclose(head_outputs(head, *arrays), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"epochs": 0},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"dropout": 1.0},
        {"seed": -1},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        config(**options)
