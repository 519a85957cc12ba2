"""What a store shows, compared with what it showed before anything was disturbed."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from embedstore import Store


def embeddings(store: Store, backbone: str) -> dict[str, NDArray[Any]]:
    """Every embedding that the store shows, by key."""
    reader = store.recipe(backbone)
    return {key: reader.get(key) for key in sorted(reader.keys())}


def segments(store: Store, backbone: str) -> list[str]:
    """Names of the published segments."""
    return store.segment_names(store.find_recipe(backbone).name)


def must(true: bool, lie: str) -> None:
    """End the script at the first lie; survives `python -O`."""
    if not true:
        raise SystemExit(f"torture found a lie: {lie}")
