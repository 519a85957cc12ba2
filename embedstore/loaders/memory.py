"""Where features go: what they need and what there is in, resident or streamed, said, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embedstore.backbones.devices import resolve_device
from embedstore.errors import BadInput
from embedstore.loaders.available import available_memory
from embedstore.loaders.device import load_to_device
from embedstore.loaders.features import EmbeddingReader, FeatureSet, load_features, number_inputs
from embedstore.loaders.streamed import StreamedFeatures

SHARE = 0.5
"""Of the memory that is free, what features may take; heads, batches and other work have the
rest."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How features are loaded; changes the speed, and where they stream the order of rows."""

    memory: float | None = None
    """GB (10^9 bytes) that features may take on the host; None: half of what is free."""
    device: str = "cpu"
    """Where heads are trained: `auto`, `cpu`, `cuda` or `cuda:N`."""

    def __post_init__(self) -> None:
        if self.memory is not None and not self.memory > 0:
            raise BadInput(f"--memory is {self.memory:g} GB.", "Give more than 0.")


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What one backbone's features need, and where they will be."""

    inputs: int
    """Distinct embeddings."""
    tokens: int
    bytes: int
    """Of all tokens as stored."""
    dtype: str
    """Of a stored token: float16 or float32."""
    budget: int
    """Bytes that features may take on the host."""
    device: str
    """Where heads are trained."""
    on_device: bool
    """The features stay on that device, a GPU."""
    streamed: bool
    """They are read from the store again for every pass."""
    window_bytes: int | None
    """Of each of the two windows of a stream."""
    why: str
    """In words."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.inputs:,} distinct embeddings, {self.tokens:,} tokens, "
            f"{_size(self.bytes)} in {self.dtype}: {self.why}"
        )


def plan_memory(reader: EmbeddingReader, keys: Sequence[str], loading: Loading) -> MemoryPlan:
    """Decide where features will be; reads no embedding.

    They stay on a GPU where they fit into half of its free memory, else in host memory where they
    fit into the budget, else they are streamed through two windows of half the budget.

    Raises
    ------
    MissingEmbedding
        A key was never written.
    BadInput
        The device is not on this machine.
    """
    device = resolve_device(loading.device)
    distinct, _ = number_inputs(keys)
    tokens = int(reader.lengths(distinct).sum())
    dtype = reader.recipe.store_dtype
    size = tokens * reader.recipe.width * np.dtype(dtype).itemsize
    if loading.memory is None:
        free = available_memory()
        budget = int(SHARE * free)
        limit = f"{_size(budget)}, half of the {_size(free)} that are free"
    else:
        budget = int(loading.memory * 1e9)
        limit = f"the {_size(budget)} of --memory"
    on_device = device != "cpu" and size <= SHARE * _free_on(device)
    streamed = not on_device and size > budget
    if on_device:
        why = f"they stay on {device}"
    elif streamed:
        why = f"more than {limit}, so they are streamed, two windows of {_size(budget // 2)}"
    else:
        why = f"within {limit}, so they are read into memory once"
    if device != "cpu" and not on_device:
        why += f", and copied to {device} batch by batch"
    return MemoryPlan(
        inputs=len(distinct),
        tokens=tokens,
        bytes=size,
        dtype=dtype,
        budget=budget,
        device=device,
        on_device=on_device,
        streamed=streamed,
        window_bytes=budget // 2 if streamed else None,
        why=why,
    )


def open_features(reader: EmbeddingReader, keys: Sequence[str], plan: MemoryPlan) -> FeatureSet:
    """Features of rows, where their plan says.

    Raises
    ------
    MissingEmbedding
        A key was never written.
    DamagedSegment
        Stored bytes do not match their checksum.
    BadInput
        The memory given does not hold two of the longest embeddings.
    """
    if plan.on_device:
        return load_to_device(reader, keys, plan.device)
    if plan.window_bytes is not None:
        return StreamedFeatures(reader, keys, window_bytes=plan.window_bytes, device=plan.device)
    return load_features(reader, keys, plan.device)


def _free_on(device: str) -> int:
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def _size(count: int) -> str:
    """Bytes as people read them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
