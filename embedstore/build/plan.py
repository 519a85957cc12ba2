"""What a build will do, fixed before any model runs: distinct views, the missing ones, segments.

Missing views are sorted longest first and cut into segments from the front; a segment closes as
soon as it is full. So taking whole finished segments away leaves the others as they were, and a
build that was killed goes on with the same batches and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones.load import PreparedBackbone
from embedstore.dogma import Unreadable
from embedstore.errors import TooLong
from embedstore.records import Record
from embedstore.store import key_of
from embedstore.store.failures import Failure
from embedstore.store.index import pack_keys, split_keys


@dataclass(slots=True)  # frozen ones take three times as long to make, and there are millions
class Item:
    """One distinct view to embed."""

    key: str
    text: str
    count: int
    """Token rows that will be stored."""
    cost: int
    """Tokens that will run through the model, special tokens and overlaps included."""


@dataclass(frozen=True)
class Plan:
    """The work of one build."""

    records: int
    distinct: int
    """Different views among the readable records."""
    present: int
    """Of those, how many the store has already."""
    segments: list[list[Item]]
    """Missing views, longest first."""
    failures: list[Failure]
    cuts: list[Failure]
    """Records of missing views that will be stored, but not whole."""
    ids: dict[str, list[str]]
    """Record ids of every key."""

    @property
    def items(self) -> Iterator[Item]:
        """Every missing view."""
        return (item for segment in self.segments for item in segment)

    @property
    def tokens(self) -> int:
        """Token rows that will be stored."""
        return sum(item.count for item in self.items)


def distinct_views(
    records: Sequence[Record], view: str
) -> tuple[dict[str, str], dict[str, list[str]], list[Failure]]:
    """Key to text of every different view, key to record ids, and what cannot be read."""
    texts: dict[str, str] = {}
    ids: dict[str, list[str]] = {}
    failures = []
    for record in records:
        try:
            text = record.view(view).text
        except Unreadable as error:
            failures.append(Failure(record.id, view, error.reason, error.detail))
            continue
        key = key_of(text)
        texts[key] = text
        ids.setdefault(key, []).append(record.id)
    return texts, ids, failures


def cut_segments(items: list[Item], row_bytes: int, segment_bytes: int) -> list[list[Item]]:
    """Sort longest first and cut into segments, each closed once it holds `segment_bytes`."""
    counts = np.fromiter((item.count for item in items), np.int64, len(items))
    high, low = split_keys(pack_keys([item.key for item in items]))
    # numbers are sorted, not items: millions of those lie scattered in memory
    order = np.lexsort((low, high, -counts))
    ends = np.cumsum(counts[order]) * row_bytes
    segments: list[list[Item]] = []
    first = 0
    while first < len(order):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + segment_bytes)) + 1
        segments.append([items[number] for number in order[first:last].tolist()])
        first = last
    return segments


def cut_batches(items: Sequence[Item], batch_tokens: int) -> Iterator[list[Item]]:
    """Neighbours of at most `batch_tokens` tokens together, one sequence at least."""
    batch: list[Item] = []
    held = 0
    for item in items:
        if batch and held + item.cost > batch_tokens:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += item.cost
    if batch:
        yield batch


def make_plan(
    records: Sequence[Record],
    prepared: PreparedBackbone,
    has: Callable[[list[str]], NDArray[np.bool_]],
    segment_bytes: int,
) -> Plan:
    """Settle what is to be embedded.

    Parameters
    ----------
    has : which of these keys the store holds already

    Raises
    ------
    TooLong
        A view is longer than the backbone reads and the policy is `error`; names the longest.
    """
    recipe, reading = prepared.recipe, prepared.reading
    texts, ids, failures = distinct_views(records, recipe.view)
    tokenizer = prepared.tokenizer()
    items = []
    cuts = []
    missing = [key for key, stored in zip(texts, has(list(texts)), strict=True) if not stored]
    too_long: list[tuple[int, str]] = []
    for key in missing:
        count = tokenizer.count(texts[key])
        if count == 0:
            detail = f"{len(texts[key])} letters make no whole token"
            failures += [Failure(name, recipe.view, "no-token", detail, key) for name in ids[key]]
        elif not reading.fits(count) and reading.policy in ("error", "skip"):
            detail = f"{count} tokens, of which {reading.limit} can be read"
            failures += [Failure(name, recipe.view, "too-long", detail, key) for name in ids[key]]
            too_long.append((count, ids[key][0]))
        else:
            cost, stored = prepared.forward_cost(count), prepared.stored_count(count)
            items.append(Item(key, texts[key], stored, cost))
            if stored < count:
                detail = f"the first {stored} of {count} tokens are stored"
                cuts += [Failure(name, recipe.view, "truncated", detail) for name in ids[key]]
    if too_long and reading.policy == "error":
        longest, name = max(too_long)
        raise TooLong(
            f"{len(too_long)} sequences are longer than the {reading.limit} tokens that "
            f"{recipe.backbone} reads; the longest is {name!r} with {longest}.",
            "Say --long window, truncate or skip, or raise --max-tokens.",
        )
    row_bytes = recipe.width * np.dtype(recipe.store_dtype).itemsize
    return Plan(
        records=len(records),
        distinct=len(texts),
        present=len(texts) - len(missing),
        segments=cut_segments(items, row_bytes, segment_bytes),
        failures=failures,
        cuts=cuts,
        ids=ids,
    )


def estimate_seconds(plan: Plan, parameters: int, width: int, layers: int, rate: float) -> float:
    """Time of the forward passes at a matrix-product rate, in seconds.

    Two operations a parameter and token, and four a width, layer and pair of tokens.

    Parameters
    ----------
    rate : floating-point operations a second that this device reaches on matrix products
    """
    operations = sum(
        item.cost * (2.0 * parameters + 4.0 * layers * width * item.cost) for item in plan.items
    )
    return operations / rate


def matrix_rate(device: str, dtype: str) -> float:
    """Floating-point operations a second on a product of two square matrices, measured now."""
    import time

    import torch

    kind = getattr(torch, dtype)
    side = 1024 if device == "cpu" else 8192
    left = torch.ones(side, side, dtype=kind, device=device)
    best = np.inf
    for _ in range(4):
        began = time.perf_counter()
        (left @ left).sum().item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return float(2 * side**3 / best)
