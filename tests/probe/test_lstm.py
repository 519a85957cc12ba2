"""The LSTM on packed tokens equals torch.nn.LSTM on each sequence."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from embedstore.loaders import Features
from probe.bank import Bank
from probe.heads import HEADS
from probe.lstm import LSTM, by_time, scan
from probe.objective import Objective
from probe.tasks import Task
from probe.training import Examples, HeadKind, TrainingConfig, train_head, train_heads

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
UNTIMED = settings(deadline=None, max_examples=40)
WIDTH = 5


def make_head(hidden=6, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return LSTM(WIDTH, 2, hidden=hidden).to(dtype).eval()


def packed(lengths, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(sum(lengths), WIDTH, dtype=torch.float64, generator=generator)
    return tokens.to(dtype), torch.tensor(lengths)


def plain(head, tokens, lengths):
    """Each sequence alone through torch's own layer, then max, dropout and linear."""
    parts = tokens.split(lengths.tolist())
    pooled = torch.stack([head.rnn(part)[0].amax(0) for part in parts])
    return head.fc(head.dropout(pooled))


def gradients(head, outputs, tokens):
    weights = torch.arange(outputs.numel(), dtype=outputs.dtype).view_as(outputs) - 1.5
    return torch.autograd.grad((outputs * weights).sum(), [tokens, *head.parameters()])


@UNTIMED
@given(lengths=LENGTHS)
def test_values_and_gradients_equal_those_of_torch(lengths):
    head = make_head()
    tokens, counts = packed(lengths)
    tokens.requires_grad_()
    ours, reference = head(tokens, counts), plain(head, tokens, counts)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(
        gradients(head, ours, tokens), gradients(head, reference, tokens), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@UNTIMED
@given(lengths=LENGTHS)
def test_a_sequence_has_the_same_answer_alone_and_in_any_batch(lengths):
    head = make_head()
    tokens, counts = packed(lengths)
    together = head(tokens, counts)
    for row, part in enumerate(tokens.split(lengths)):
        alone = head(part, counts[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_scan_is_its_derivative():
    _, counts = by_time(torch.tensor([2, 4, 1]))
    weights = [each.detach().requires_grad_() for each in make_head(hidden=2).rnn.parameters()]
    tokens, _ = packed([7])
    assert torch.autograd.gradcheck(
        lambda x, *w: scan(x, counts, *w), (tokens.requires_grad_(), *weights)
    )


def test_steps_read_the_sequences_that_go_on_longest_first():
    rows, counts = by_time(torch.tensor([2, 4, 1]))
    assert counts == [3, 2, 1, 1]
    assert rows.tolist() == [2, 0, 6, 3, 1, 4, 5]


def test_an_empty_sequence_reads_one_zero_token():
    head = make_head()
    tokens, lengths = packed([3, 0, 2])
    zeros = torch.cat([tokens[:3], tokens.new_zeros(1, WIDTH), tokens[3:]])
    assert torch.equal(head(tokens, lengths), head(zeros, torch.tensor([3, 1, 2])))


def test_a_bank_of_lstms_equals_ordinary_trainings():
    configs = [TrainingConfig(learning_rate=rate) for rate in (1e-3, 3e-3)]
    start = make_head()
    bank = Bank(
        [copy.deepcopy(start) for _ in configs],
        configs,
        torch.Generator().manual_seed(9).get_state(),
    )
    tokens, lengths = packed([4, 7, 2])
    values = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    losses = [bank.step([0, 1], tokens, lengths, values) for _ in range(8)]
    for number, config in enumerate(configs):
        head = copy.deepcopy(start).train()
        optimizer = torch.optim.AdamW(head.parameters(), config.learning_rate, weight_decay=0.01)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(9)
            for step in losses:
                loss = functional.mse_loss(plain(head, tokens, lengths), values)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                assert step[number] == pytest.approx(loss.item(), rel=1e-10)
        for mine, theirs in zip(bank.heads[number].parameters(), head.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_training_together_is_training_one_by_one_bit_for_bit():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 30)
    tokens = rng.standard_normal((lengths.sum(), WIDTH)).astype(np.float16)
    features = Features(tokens, np.cumsum(lengths) - lengths, lengths, np.arange(30))
    targets, rows = rng.standard_normal(30), np.arange(30)
    train, validation = (Examples(part, targets[part]) for part in (rows[:20], rows[20:]))
    task = Task(collection="c", label="l", kind="regression")
    objective = Objective.fit(task, (), train.targets)
    configs = [TrainingConfig(batch_size=8, learning_rate=rate, epochs=2) for rate in (3e-4, 9e-4)]
    together = train_heads(features, train, validation, objective, configs, "lstm")
    for one in together:  # heads of an LSTM never share a product
        alone = train_head(features, train, validation, objective, one.config, "lstm")
        assert [each.train_loss for each in one.curve] == [each.train_loss for each in alone.curve]
        for mine, theirs in zip(one.head.parameters(), alone.head.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_the_default_sizes_are_those_of_the_paper():
    with torch.device("meta"):
        head = LSTM(640, 1)
    # four gates of 640 units: 640 inputs, 640 states, two biases; then Linear 640 -> 1
    assert sum(each.numel() for each in head.parameters()) == 4 * 640 * (640 + 640 + 2) + 641
    assert head.dropout.p == 0.2
    assert LSTM(**head.sizes).sizes == head.sizes


def test_every_kind_of_head_has_an_option():
    assert tuple(HEADS) == HeadKind.__args__
    assert all(HEADS[kind].kind == kind for kind in HEADS)
