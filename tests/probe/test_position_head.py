"""The per-position head equals torch's own convolutions that keep the length."""

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from embedstore.errors import BadInput
from embedstore.loaders import Features
from probe.bank import Bank
from probe.batches import bank_outputs
from probe.heads import PositionTextCNN
from probe.objective import Objective
from probe.position_labels import (
    HALO,
    check_reach,
    first_positions,
    matrix_of_lists,
    tokens_needed,
    values_of_tokens,
)
from probe.stream import predict_rows
from probe.tasks import Task
from probe.training import Examples, TrainingConfig, train_head, train_heads

from .conftest import assert_trained_alike

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)
UNTIMED = settings(deadline=None, max_examples=30)
TASK = Task(collection="c", label="l", kind="per-position")


class Folding(PositionTextCNN):
    """A small head in float64 that folds when told, not when it pays."""

    def __init__(self, width, fold):
        super().__init__(width, 1, projection=7, channels=6)
        self.fold = fold
        self.double().eval()

    def folds(self, tokens):
        return self.fold


def fresh(width, fold):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return Folding(width, fold)


def packed(width, lengths):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(sum(lengths), width, dtype=torch.float64, generator=generator)
    return tokens, torch.tensor(lengths)


def plain(head, tokens, lengths):
    """Sequence by sequence: zero tokens at the ends, as `padding="same"` splits them, Conv1d."""
    rows = []
    for part in tokens.split(lengths.tolist()):
        scores = []
        for conv, k in zip(head.convs, head.kernels, strict=True):
            before = (k - 1) // 2
            padded = functional.pad(part, (0, 0, before, k - 1 - before))
            scores.append(conv(head.proj(padded).t()[None])[0].t())  # (L, C)
        rows.append(functional.relu(torch.cat(scores, 1)))
    return head.fc(head.dropout(torch.cat(rows)))


@pytest.mark.parametrize("k", [3, 4, 5])
def test_windows_stand_as_torch_puts_them_to_keep_the_length(k):
    states = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(3))
    taps = torch.randn(4, 2, k, generator=torch.Generator().manual_seed(4))
    before = (k - 1) // 2
    by_hand = functional.conv1d(functional.pad(states, (before, k - 1 - before)), taps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it copies the input where k is even
        same = functional.conv1d(states, taps, padding="same")
    torch.testing.assert_close(same, by_hand)


@pytest.mark.parametrize("fold", [False, True])
@UNTIMED
@given(lengths=LENGTHS, width=st.sampled_from([4, 40]))
def test_values_and_gradients_equal_plain_convolutions(fold, lengths, width):
    head = fresh(width, fold)
    tokens, counts = packed(width, lengths)
    weights = torch.arange(sum(lengths), dtype=torch.float64)[:, None] - 1.5
    found = []
    for outputs in (head(tokens, counts), plain(head, tokens, counts)):
        assert outputs.shape == (sum(lengths), 1)
        found.append(torch.autograd.grad((outputs * weights).sum(), [*head.parameters()]))
    torch.testing.assert_close(
        head(tokens, counts), plain(head, tokens, counts), rtol=1e-10, atol=1e-12
    )
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@UNTIMED
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=5), reach=st.integers(1, 9))
def test_tokens_behind_the_halo_change_no_labelled_position(lengths, reach):
    head = fresh(4, True).float()
    tokens = packed(4, lengths)[0].numpy().astype(np.float32)
    counts = np.array(lengths)
    starts = np.cumsum(counts) - counts
    inputs = np.arange(len(counts))
    features = Features(tokens, starts, counts, inputs)
    whole = bank_outputs([head], features, inputs)
    cut = bank_outputs([head], features, inputs, np.full(len(counts), reach + HALO))
    there = np.arange(reach) < counts[:, None]
    mine, theirs = (first_positions(each[0], reach)[there] for each in (cut, whole))
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_halo_is_what_the_widest_kernel_reads_behind_a_token():
    with torch.device("meta"):
        assert max(PositionTextCNN(4, 1).kernels) // 2 == HALO


def test_values_of_tokens_follow_the_cut_sequences():
    nan = np.nan
    values = np.array([[1, nan, 3, nan], [4, 5, nan, nan], [nan] * 4], np.float32)
    needed = tokens_needed(values)
    assert needed.tolist() == [5, 4, 2]  # to the third and the second label, and the halo
    packed_values = values_of_tokens(values, np.minimum(needed, [9, 3, 9]))
    np.testing.assert_array_equal(packed_values[:, 0], [1, nan, 3, nan, nan, 4, 5, nan, nan, nan])


def batch(dtype):
    """Sequences whose labels follow the token before; some positions have none."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(10):
        lengths = torch.randint(2, 20, (6,), generator=generator)
        tokens = torch.randn(int(lengths.sum()), 8, generator=generator).to(dtype)
        values = tokens[:, :1].roll(1).clone()
        values[torch.rand(len(values), generator=generator) < 0.3] = torch.nan
        yield tokens, lengths, values


@pytest.mark.parametrize("fold", [False, True])
def test_a_bank_equals_ordinary_trainings_on_the_positions_that_have_labels(fold):
    configs = [TrainingConfig(learning_rate=rate) for rate in (1e-4, 9e-4)]
    configs.append(TrainingConfig(learning_rate=9e-4, dropout=0.5))
    start = fresh(8, fold)
    bank = Bank(
        [copy.deepcopy(start) for _ in configs],
        configs,
        torch.Generator().manual_seed(9).get_state(),
    )
    losses = np.array([bank.step(range(3), *each) for each in batch(torch.float64)])
    for number, config in enumerate(configs):
        head = copy.deepcopy(start).train()
        head.dropout.p = config.dropout
        optimizer = torch.optim.AdamW(
            head.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(9)
            for step, (tokens, lengths, values) in enumerate(batch(torch.float64)):
                there = ~values.isnan()
                loss = functional.mse_loss(plain(head, tokens, lengths)[there], values[there])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                assert losses[step, number] == pytest.approx(loss.item(), rel=1e-9)
        for mine, theirs in zip(bank.heads[number].parameters(), head.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def data():
    """One-hot letters; the label of a position is 1 behind an A, for the first half alone."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 20, 60)
    letters = rng.integers(0, 4, lengths.sum())
    starts = np.cumsum(lengths) - lengths
    features = Features(np.eye(4, dtype=np.float16)[letters], starts, lengths, np.arange(60))
    targets = np.full((60, 10), np.nan)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        scored = length // 2
        own = letters[start : start + scored]
        targets[row, :scored] = np.r_[0, own[:-1] == 0] + 0.01 * rng.normal(size=scored)
    targets[3, 1] = np.nan
    rows = np.arange(60)
    train, validation = (Examples(part, targets[part]) for part in (rows[:40], rows[40:]))
    task = dataclasses.replace(TASK, scored_by="pearson")
    return features, train, validation, Objective.fit(task, (), train.targets, by_token=True)


def test_training_together_is_training_one_by_one(data):
    base = TrainingConfig(batch_size=16, learning_rate=9e-4, epochs=4)
    configs = [base, dataclasses.replace(base, learning_rate=1e-4, patience=1)]
    configs.append(dataclasses.replace(base, seed=1))
    for one in train_heads(*data, configs, "textcnn-position"):
        alone = train_head(*data, one.config, "textcnn-position")
        assert len(one.curve) == len(alone.curve)
        for mine, theirs in zip(one.curve, alone.curve, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert_trained_alike(one, alone, "textcnn-position")


def test_what_a_neighbour_decides_is_learnt_and_predicted_for_every_position(data):
    features, _, validation, objective = data
    config = TrainingConfig(batch_size=16, learning_rate=9e-4, epochs=12)
    trained = train_head(*data, config, "textcnn-position")
    assert trained.validation_score > 0.9
    predicted = predict_rows(trained.head, features, validation.rows, objective)
    assert predicted.shape == validation.targets.shape
    assert np.isfinite(predicted[~np.isnan(validation.targets)]).all()
    assert objective.score(predicted, validation.targets) == trained.validation_score


def test_labels_behind_the_last_token_are_refused(data):
    features, train, *_ = data
    short = dataclasses.replace(features, lengths=features.lengths // 3)
    with pytest.raises(BadInput, match="behind the last stored token"):
        check_reach(short, train)
    check_reach(features, train)


def test_lists_become_a_matrix_and_none_is_nan():
    matrix, lengths = matrix_of_lists([[1, None, 2.5], [], [3]], ["a", "b", "c"], np.array([3] * 3))
    np.testing.assert_array_equal(matrix, [[1, np.nan, 2.5], [np.nan] * 3, [3, np.nan, np.nan]])
    assert lengths.tolist() == [3, 0, 1]
    with pytest.raises(BadInput, match="b has 4 labels for 3 positions"):
        matrix_of_lists([[1], [1, 2, 3, 4]], ["a", "b"], np.array([3, 3]))
