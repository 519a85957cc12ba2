"""The LSTM head: packed tokens in, one row of outputs a sequence out.

Shape letters: N sequences, T tokens in all, D width of a token, E hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from probe.bank import Head
from probe.windows import pad_short


class LSTM(Head):
    """One LSTM layer read from left to right, max over time, dropout, linear.

    With the 640 hidden units of the paper this project follows: 3.3 million parameters at D = 640
    (the paper says about 1.2 million, which does not fit its 640). `torch.nn.LSTM` holds the
    weights; the recurrence runs here, on sequences without padding. An empty sequence gets one
    zero token.
    """

    kind = "lstm"
    stacks = False

    def __init__(self, width: int, outputs: int, hidden: int = 640, dropout: float = 0.2) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, outputs)

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that make a head of this shape again."""
        return {
            "width": self.rnn.input_size,
            "outputs": self.fc.out_features,
            "hidden": self.rnn.hidden_size,
            "dropout": self.dropout.p,
        }

    @classmethod
    def features(cls, heads: Sequence[Self], tokens: Tensor, lengths: Tensor) -> Tensor:
        """The largest value of every hidden unit: shape (H, N, E)."""
        tokens, lengths = pad_short(tokens, lengths, 1)
        rows, counts = by_time(lengths)
        ordered, back = tokens[rows], rows.argsort()
        sizes = lengths.tolist()
        maxima = []
        for head in heads:
            states = scan(ordered, counts, *head.rnn.parameters())[back]
            maxima.append(torch.stack([part.max(0).values for part in states.split(sizes)]))
        return torch.stack(maxima)


def by_time(lengths: Tensor) -> tuple[Tensor, list[int]]:
    """The order in which a recurrence reads packed tokens: all first tokens, all second ones, ...

    Parameters
    ----------
    lengths : int64, shape (N,)
        Each at least 1.

    Returns
    -------
    rows, counts
        int64, shape (T,): rows of the packed tokens, within a step by falling length; and how
        many sequences each step reads.
    """
    order = lengths.argsort(descending=True, stable=True)
    starts = (lengths.cumsum(0) - lengths)[order]  # (N,)
    steps = torch.arange(int(lengths.max()), device=lengths.device)[:, None]
    going = steps < lengths[order]  # (steps, N)
    counts: list[int] = going.sum(1).tolist()
    return (starts + steps)[going], counts


def scan(
    tokens: Tensor,
    counts: Sequence[int],
    weight_in: Tensor,
    weight_back: Tensor,
    bias_in: Tensor,
    bias_back: Tensor,
) -> Tensor:
    """Hidden states of one LSTM layer that starts from zeros.

    Parameters
    ----------
    tokens, counts : as `by_time` orders them, shape (T, D)
    weight_in, weight_back, bias_in, bias_back
        As in `torch.nn.LSTM`: shapes (4 * E, D), (4 * E, E), (4 * E,), (4 * E,).

    Returns
    -------
    shape (T, E), in the order of the tokens
    """
    states: Tensor = _Scan.apply(tokens, counts, weight_in, weight_back, bias_in + bias_back)
    return states


class _Scan(torch.autograd.Function):
    """One product for all weight gradients after the loop, instead of one a step."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        counts: Sequence[int],
        weight_in: Tensor,
        weight_back: Tensor,
        bias: Tensor,
    ) -> Tensor:
        gates = torch.addmm(bias, tokens, weight_in.t())  # (T, 4 * E)
        states = tokens.new_empty(len(tokens), weight_back.shape[1])
        cells = torch.empty_like(states)
        first = before = 0  # rows of this step and of the step before begin here
        for step, count in enumerate(counts):
            own, cell = gates[first : first + count], cells[first : first + count]
            if step:  # the sequences that go on stand in front
                own.addmm_(states[before : before + count], weight_back.t())
            enter, forget, new, leave = own.chunk(4, 1)
            own[:, : 2 * cells.shape[1]].sigmoid_()  # enter and forget
            new.tanh_()
            leave.sigmoid_()
            cell.copy_(enter * new)
            if step:
                cell.addcmul_(forget, cells[before : before + count])
            states[first : first + count] = leave * cell.tanh()
            before, first = first, first + count
        ctx.save_for_backward(tokens, gates, states, cells, weight_in, weight_back)
        ctx.counts = counts
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, gates, states, cells, weight_in, weight_back = ctx.saved_tensors
        counts = ctx.counts
        grad_gates = torch.empty_like(gates)
        grad_states = grad.clone()  # grows by what later steps ask of a state
        grad_cells = torch.zeros_like(cells[: counts[0]])  # of the step at hand
        first = len(tokens)
        for step in reversed(range(len(counts))):
            count = counts[step]
            first -= count
            here = slice(first, first + count)
            enter, forget, new, leave = gates[here].chunk(4, 1)
            to_enter, to_forget, to_new, to_leave = grad_gates[here].chunk(4, 1)
            squashed, state, cell = cells[here].tanh(), grad_states[here], grad_cells[:count]
            cell.add_(state * leave * (1 - squashed * squashed))
            to_leave.copy_(state * squashed * leave * (1 - leave))
            to_enter.copy_(cell * new * enter * (1 - enter))
            to_new.copy_(cell * enter * (1 - new * new))
            if step:
                earlier = slice(first - counts[step - 1], first - counts[step - 1] + count)
                to_forget.copy_(cell * cells[earlier] * forget * (1 - forget))
                grad_states[earlier].addmm_(grad_gates[here], weight_back)
                cell.mul_(forget)
            else:
                to_forget.zero_()
        steps = torch.tensor(counts, device=tokens.device)
        later = torch.arange(counts[0], len(tokens), device=tokens.device)
        previous = states[later - steps[:-1].repeat_interleave(steps[1:])]
        return (
            grad_gates @ weight_in if ctx.needs_input_grad[0] else None,
            None,
            grad_gates.t() @ tokens,
            grad_gates[counts[0] :].t() @ previous,
            grad_gates.sum(0),
        )
