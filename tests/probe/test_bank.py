"""Heads trained together become what they become alone, and what plain PyTorch makes of them."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from embedstore.loaders import Features
from probe.bank import Bank, run_heads
from probe.heads import TextCNN
from probe.objective import Objective
from probe.stream import Stream
from probe.tasks import Task
from probe.training import Examples, TrainingConfig, train_head, train_heads

from .conftest import assert_trained_alike

RATES = (1e-4, 3e-4, 5e-4, 7e-4, 9e-4)
WIDTH = 40
STEPS = 12


def plain(head, tokens, lengths):
    """Pad, project, convolve with torch's own Conv1d, mask, ReLU, max, dropout, linear."""
    padded = torch.nn.utils.rnn.pad_sequence(tokens.split(lengths.tolist()), batch_first=True)
    states = head.proj(padded).transpose(1, 2)  # (N, P, L)
    pooled = []
    for conv, k in zip(head.convs, head.kernels, strict=True):
        scores = conv(states)  # (N, C, windows)
        beyond = torch.arange(scores.shape[2]) > (lengths - k)[:, None]
        pooled.append(functional.relu(scores.masked_fill(beyond[:, None], -torch.inf)).amax(2))
    return head.fc(head.dropout(torch.cat(pooled, 1)))


def batches(dtype):
    """A stream of batches whose targets a head can learn; every sequence fits the widest kernel."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        lengths = torch.randint(5, 30, (8,), generator=generator)
        tokens = torch.randn(int(lengths.sum()), WIDTH, generator=generator).to(dtype)
        values = torch.stack([part[:, :3].amax() for part in tokens.split(lengths.tolist())])
        yield tokens, lengths, values[:, None]


def bank_of(head, configs):
    heads = [copy.deepcopy(head) for _ in configs]
    return Bank(heads, configs, torch.Generator().manual_seed(9).get_state())


def train_plain(head, config, dtype):
    """An ordinary loop over `plain`, with dropout from torch's own generator."""
    head = copy.deepcopy(head).train()
    head.dropout.p = config.dropout
    optimizer = torch.optim.AdamW(
        head.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(9)
        for tokens, lengths, values in batches(dtype):
            loss = functional.mse_loss(plain(head, tokens, lengths), values)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, head


def fresh(dtype, projection, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return TextCNN(WIDTH, 1, projection=projection, **sizes).to(dtype)


@pytest.mark.parametrize("projection", [2, 640])  # the projection is kept apart, or folded
def test_a_bank_equals_ordinary_trainings_in_float64(projection):
    configs = [TrainingConfig(learning_rate=rate, dropout=0.2) for rate in RATES]
    configs.append(TrainingConfig(learning_rate=1e-3, dropout=0.5, weight_decay=0.1))
    configs.append(TrainingConfig(learning_rate=1e-3, dropout=0.0))
    start = fresh(torch.float64, projection, channels=20)
    assert start.folds(150) == (projection == 640)
    bank = bank_of(start, configs)
    losses = [bank.step(range(len(configs)), *batch) for batch in batches(torch.float64)]
    for number, config in enumerate(configs):
        expected, trained = train_plain(start, config, torch.float64)
        np.testing.assert_allclose([each[number] for each in losses], expected, rtol=1e-9)
        for mine, theirs in zip(bank.heads[number].parameters(), trained.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_a_bank_equals_ordinary_trainings_in_float32_within_rounding():
    configs = [TrainingConfig(learning_rate=rate) for rate in RATES]
    start = fresh(torch.float32, 640)
    bank = bank_of(start, configs)
    losses = [bank.step(range(len(configs)), *batch) for batch in batches(torch.float32)]
    for number, config in enumerate(configs):
        expected, _ = train_plain(start, config, torch.float32)
        np.testing.assert_allclose([each[number] for each in losses], expected, rtol=1e-4)


def test_a_head_that_is_left_out_of_a_step_stays_as_it_is():
    bank = bank_of(fresh(torch.float32, 7), [TrainingConfig(), TrainingConfig()])
    first, second, *_ = batches(torch.float32)
    bank.step([0, 1], *first)
    before = copy.deepcopy(bank.heads[0].state_dict())
    bank.step([1], *second)
    assert all(torch.equal(each, before[name]) for name, each in bank.heads[0].named_parameters())


def test_stacked_heads_give_what_each_gives_alone():
    heads = [fresh(torch.float64, 7) for _ in range(3)]
    for number, head in enumerate(heads):
        with torch.no_grad():
            head.fc.weight += number
    tokens, lengths, _ = next(batches(torch.float64))
    for row, head in zip(run_heads(heads, tokens, lengths), heads, strict=True):
        torch.testing.assert_close(row, head.eval()(tokens, lengths), rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def data():
    """Random tokens and labels: 60 rows to train on, 30 to validate."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, 90)
    tokens = rng.standard_normal((lengths.sum(), WIDTH)).astype(np.float16)
    starts = np.cumsum(lengths) - lengths
    features = Features(tokens, starts, lengths, np.arange(90))
    signal = [tokens[s : s + n, 0].max() for s, n in zip(starts, lengths, strict=True)]
    targets = np.array(signal, np.float64)
    rows = np.arange(90)
    train, validation = (Examples(part, targets[part]) for part in (rows[:60], rows[60:]))
    task = Task(collection="c", label="l", kind="regression")
    return features, train, validation, Objective.fit(task, (), train.targets)


def same(one, other):
    return all(
        torch.equal(*pair)
        for pair in zip(
            one.head.state_dict().values(), other.head.state_dict().values(), strict=True
        )
    )


def test_training_together_is_training_one_by_one(data):
    # heads stop at different epochs; seeds and batch sizes make streams of their own
    base = TrainingConfig(batch_size=16, epochs=6)
    configs = [
        dataclasses.replace(base, learning_rate=rate, patience=patience)
        for rate, patience in ((1e-4, 1), (9e-4, 2), (3e-3, 4))
    ]
    configs += [
        dataclasses.replace(base, learning_rate=9e-4, seed=1),
        dataclasses.replace(base, learning_rate=9e-4, dropout=0.5, epochs=3),
        dataclasses.replace(base, learning_rate=9e-4, batch_size=32),
    ]
    together = train_heads(*data, configs)
    assert [one.config for one in together] == configs
    assert len({len(one.curve) for one in together}) > 1
    for one in together:
        alone = train_head(*data, one.config)
        assert (one.best_epoch, len(one.curve)) == (alone.best_epoch, len(alone.curve))
        for mine, theirs in zip(one.curve, alone.curve, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
            assert mine.validation_score == pytest.approx(theirs.validation_score, abs=0.01)
        assert_trained_alike(one, alone)


def test_a_bank_is_the_same_from_run_to_run_bit_for_bit(data):
    configs = [TrainingConfig(batch_size=16, learning_rate=rate, epochs=2) for rate in RATES]
    first, again = (train_heads(*data, configs) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert same(one, other)
        assert one.curve == other.curve


def test_a_head_that_diverges_harms_no_other(data):
    sound = TrainingConfig(batch_size=16, learning_rate=3e-4, epochs=3)
    lost, kept = train_heads(*data, [dataclasses.replace(sound, learning_rate=1e30), sound])
    assert math.isnan(lost.curve[-1].validation_score)
    assert len(kept.curve) == 3
    alone = train_head(*data, sound)
    assert [one.train_loss for one in kept.curve] == pytest.approx(
        [one.train_loss for one in alone.curve], rel=1e-4
    )


def test_a_stream_that_pauses_goes_on_as_if_it_had_not(data):
    configs = [TrainingConfig(learning_rate=rate, epochs=4) for rate in (1e-4, 9e-4)]
    paused = Stream(*data, configs)
    paused.advance(1)
    assert [len(course.curve) for course in paused.courses] == [1, 1]
    torch.rand(3)
    paused.advance(3)
    paused.advance()
    for one, other in zip(paused.trained(), train_heads(*data, configs), strict=True):
        assert same(one, other)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_bank_of_classifiers_equals_ordinary_trainings(weighted):
    weights = torch.tensor([0.5, 3.0, 1.0]) if weighted else None
    configs = [TrainingConfig(learning_rate=rate) for rate in (1e-4, 9e-4)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        start = TextCNN(WIDTH, 3, projection=7, channels=20).double()
    generator = torch.Generator().manual_seed(9).get_state()
    bank = Bank([copy.deepcopy(start) for _ in configs], configs, generator, weights)
    stream = [
        (*each[:2], (3 * each[2][:, 0]).long().clamp(0, 2)) for each in batches(torch.float64)
    ]
    losses = np.array([bank.step([0, 1], *each) for each in stream])
    for number, config in enumerate(configs):
        head = copy.deepcopy(start).train()
        optimizer = torch.optim.AdamW(
            head.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(9)
            for step, (tokens, lengths, numbers) in enumerate(stream):
                each = functional.cross_entropy(
                    plain(head, tokens, lengths), numbers, reduction="none"
                )
                if weights is not None:
                    each = each * weights.double()[numbers]
                optimizer.zero_grad()
                each.mean().backward()
                optimizer.step()
                assert losses[step, number] == pytest.approx(each.mean().item(), rel=1e-9)


@pytest.mark.parametrize("kind", ["several", "balanced", "positions"])
def test_other_tasks_train_together_as_one_by_one_too(data, kind):
    features, train, validation, _ = data
    numbers = np.concatenate([train.targets, validation.targets])
    if kind == "balanced":
        task = Task(collection="c", label="l", kind="classification", balance=True,
                    scored_by="balanced-accuracy")  # fmt: skip
        classes, targets = ("a", "b"), (numbers > np.quantile(numbers, 0.8)).astype(np.int64)
    else:
        several = kind == "several"
        task = Task(collection="c", label="l,m" if several else "l",
                    kind="regression" if several else "per-position")  # fmt: skip
        classes, targets = (), np.stack([numbers, -100 * numbers], axis=1)
        if not several:
            targets[::3, 1] = np.nan
    train, validation = (Examples(part.rows, targets[part.rows]) for part in (train, validation))
    objective = Objective.fit(task, classes, train.targets)
    arguments = features, train, validation, objective
    base = TrainingConfig(batch_size=16, learning_rate=9e-4, epochs=2)
    configs = [base, dataclasses.replace(base, learning_rate=1e-4)]
    for one in train_heads(*arguments, configs):
        alone = train_head(*arguments, one.config)
        for mine, theirs in zip(one.curve, alone.curve, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert_trained_alike(one, alone)
