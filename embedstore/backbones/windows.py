"""Sequences longer than a backbone reads: token count in, the windows that are read out.

Positions are tokens of one sequence, special tokens left out, 0-based and half-open.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from embedstore.errors import BadInput, TooLong

POLICIES = ("error", "truncate", "skip", "window")
"""What `--long` takes."""


class Window(NamedTuple):
    """One pass of the model over part of a sequence, and the rows that are kept of it."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def windows(count: int, limit: int, overlap: int) -> list[Window]:
    """Cover a sequence with windows, stitched at the middle of each overlap.

    A longer sequence is covered by as few windows as overlap at least that much, all `limit`
    tokens long and evenly spread, so that every kept token sees at least `overlap // 2` tokens on
    the side of a cut. Token i of the stitched matrix comes from the one window with
    `keep_start <= i < keep_stop`, at its row `i - start`.

    Parameters
    ----------
    count : tokens of the sequence
    limit : tokens of one window
    overlap : tokens that neighbours share at least, from 0 to limit - 1

    Returns
    -------
    windows in order; one, when the sequence fits
    """
    if count <= limit:
        return [Window(0, count, 0, count)]
    steps = -(-(count - limit) // (limit - overlap))
    starts = [step * (count - limit) // steps for step in range(steps + 1)]
    # neighbours share [next start, start + limit); they meet in its middle
    cuts = [(after + before + limit) // 2 for before, after in pairwise(starts)]
    kept = zip(starts, [0, *cuts], [*cuts, count], strict=True)
    return [Window(start, start + limit, first, last) for start, first, last in kept]


@dataclass(frozen=True)
class Reading:
    """How a backbone reads sequences of any length: `--long` with its numbers settled."""

    policy: str
    """`error`, `truncate`, `skip` or `window`."""
    limit: int | None
    """Most tokens read at once, special tokens left out; None: no limit."""
    overlap: int = 0
    """Tokens that neighbouring windows share at least."""

    def __post_init__(self) -> None:
        if self.policy == "window" and self.limit is not None and self.overlap >= self.limit:
            raise BadInput(
                f"--window-overlap {self.overlap} leaves a window of {self.limit} tokens no step.",
                f"Give at most {self.limit - 1}.",
            )

    @property
    def recipe(self) -> str:
        """How it stands in a recipe: `whole`, `truncate:LIMIT` or `window:LIMIT:OVERLAP`."""
        if self.limit is None or self.policy in ("error", "skip"):
            return "whole"  # what would be longer is never stored
        if self.policy == "truncate":
            return f"truncate:{self.limit}"
        return f"window:{self.limit}:{self.overlap}"

    def fits(self, count: int) -> bool:
        """True where a sequence of that many tokens is read whole, at once."""
        return self.limit is None or count <= self.limit

    def stored_count(self, count: int) -> int:
        """Token rows stored for a sequence of `count` tokens."""
        if self.limit is not None and self.policy == "truncate":
            return min(count, self.limit)
        return count

    def windows(self, count: int) -> list[Window]:
        """What is read of a sequence of `count` tokens.

        Raises
        ------
        TooLong
            It does not fit, and the policy neither cuts nor slides.
        """
        if self.limit is None or count <= self.limit:
            return [Window(0, count, 0, count)]
        if self.policy == "truncate":
            return [Window(0, self.limit, 0, self.limit)]
        if self.policy == "window":
            return windows(count, self.limit, self.overlap)
        raise TooLong(
            f"A sequence of {count} tokens is longer than the {self.limit} this backbone reads.",
            "Use --long truncate, window or skip.",
        )

    def forward_cost(self, count: int, special_tokens: int) -> int:
        """Tokens run through the model for a sequence of `count` tokens.

        Special tokens and overlaps are counted; what does not fit and is not cut counts whole.
        """
        if self.limit is None or count <= self.limit or self.policy in ("error", "skip"):
            return count + special_tokens
        if self.policy == "truncate":
            return self.limit + special_tokens
        passes = -(-(count - self.limit) // (self.limit - self.overlap)) + 1
        return passes * (self.limit + special_tokens)


WHOLE = Reading("error", None)
"""Sequences of every length are read whole."""
