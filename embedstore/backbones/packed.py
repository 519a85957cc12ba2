"""Sequences packed end to end without padding, and attention that keeps them apart.

Shape letters: N sequences, T tokens in all, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, eq=False)
class Packing:
    """Where each sequence of a packed batch lies."""

    lengths: tuple[int, ...]
    """Tokens of each sequence, special tokens included; on the host."""
    bounds: Tensor
    """int32, shape (N + 1,): start of each sequence and the end of the last; on the device."""
    positions: Tensor
    """int64, shape (T,): 0-based position of each token in its own sequence."""
    owner: Tensor
    """int64, shape (T,): which sequence each token belongs to."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Packing:
        """Packing of sequences with these token counts, in this order."""
        counts = torch.tensor(lengths, dtype=torch.int64)
        starts = torch.cumsum(counts, 0) - counts
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
        positions = torch.arange(int(counts.sum())) - starts[owner]
        bounds = torch.cat([starts, counts.sum()[None]]).to(torch.int32)
        whole = tuple(int(length) for length in lengths)
        return cls(whole, bounds, positions, owner).to(device)

    def to(self, device: torch.device | str) -> Packing:
        """The same packing on a device; the host never waits for a copy to a GPU."""
        if torch.device(device).type == "cpu":
            return self
        return Packing(
            self.lengths,
            send(self.bounds, device),
            send(self.positions, device),
            send(self.owner, device),
        )

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(first token, sequences, tokens each) of every run of neighbours of equal length."""
        at = 0
        for length, group in groupby(self.lengths):
            count = sum(1 for _ in group)
            yield at, count, length
            at += count * length

    @property
    def starts(self) -> list[int]:
        """First token of each sequence."""
        return list(accumulate(self.lengths, initial=0))[:-1]


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A host tensor on a device, without waiting.

    CUDA copies from pinned memory beside the host's work; before any other copy it waits.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Softmax attention within each sequence of a packed batch, scaled by 1/sqrt(d).

    Parameters
    ----------
    q, k, v : shape (T, H, d), one dtype and device

    Returns
    -------
    shape (T, H, d)
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(packing.lengths)
        bounds = packing.bounds
        # one split, whatever the longest neighbour: the same bits in every batch
        made = varlen_attn(q, k, v, bounds, bounds, longest, longest, num_splits=1)
        assert isinstance(made, Tensor)  # a pair only where more was asked for
        return made
    if q.is_cuda and q.requires_grad:  # training may round by its batch; one launch, not many
        return attend_padded(q, k, v, packing)
    # elsewhere one call per run of equal lengths, which length-sorted batches make few
    parts = []
    for at, count, length in packing.runs():
        rows = slice(at, at + count * length)
        shape = (count, length, *q.shape[1:])
        q1, k1, v1 = (x[rows].view(shape).transpose(1, 2) for x in (q, k, v))
        mixed = scaled_dot_product_attention(q1, k1, v1)  # (count, H, length, d)
        parts.append(mixed.transpose(1, 2).reshape(count * length, *q.shape[1:]))
    return torch.cat(parts)


def attend_padded(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """What `attend` gives, by one masked call on sequences padded to the longest.

    For training on a GPU in a dtype for which there is no packed attention.
    """
    count, longest = len(packing.lengths), max(packing.lengths)
    place = packing.owner * longest + packing.positions  # (T,)

    def spread(x: Tensor) -> Tensor:
        held = x.new_zeros(count * longest, *x.shape[1:]).index_copy(0, place, x)
        return held.view(count, longest, *x.shape[1:]).transpose(1, 2)

    there = torch.arange(longest, device=q.device) < packing.bounds.diff()[:, None]  # (N, L)
    mask = there[:, None, None]  # (N, 1, 1, L)
    mixed = scaled_dot_product_attention(spread(q), spread(k), spread(v), attn_mask=mask)
    return mixed.transpose(1, 2).flatten(0, 1).index_select(0, place)


def rotary_angles(inv_freq: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    Positions restart at every sequence, so a token's angle never grows with its batch.

    Parameters
    ----------
    inv_freq : float, shape (d / 2,)
        Inverse frequencies, from the checkpoint.

    Returns
    -------
    two float32 of shape (T, 1, d / 2)
    """
    angles = packing.positions[:, None].float() * inv_freq.float()
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head against each other: shape (T, H, d) in and out.

    Computed in float32 at least, and rounded once, to the dtype of `x`.
    """
    first, second = x.chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    return torch.cat(turned, dim=-1).to(x.dtype)
