"""Opening the neighbour index of a recipe: the saved one where it fits, else a new one, kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedstore.errors import StoreError, Unreachable
from embedstore.neighbors.build import EXACT_MAX, build_index, segments_digest
from embedstore.neighbors.index import METRICS, Metric, NeighborIndex
from embedstore.neighbors.saved import (
    NewerIndex,
    UnusableIndex,
    discard_index,
    load_index,
    neighbors_folder,
    save_index,
    saved_indexes,
)
from embedstore.store import Store
from embedstore.store.objects import ObjectPath

log = logging.getLogger(__name__)


def open_neighbors(
    store: Store, backbone: str, metric: Metric = "cosine", *, exact_max: int = EXACT_MAX
) -> NeighborIndex:
    """The index of a recipe's averaged embeddings, as its segments are now.

    It is read where it was kept, else built and kept in the store; where the store may only be
    read, or lies in a bucket, it stays in memory. Of several processes on one machine one builds,
    and the others wait for it.

    Parameters
    ----------
    backbone : backbone, or recipe folder
    exact_max : vectors up to which every one is compared with a query

    Raises
    ------
    MissingRecipe, MissingEmbedding, DamagedSegment
    ValueError
        No such metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    recipe = store.find_recipe(backbone)
    found = load_current(store, recipe.name, metric, exact_max)
    if found is not None:
        return found
    folder = store.recipe_folder(recipe.name)
    threads = min(os.cpu_count() or 1, 16)
    if isinstance(folder, ObjectPath):
        return build_index(store, recipe, metric, exact_max=exact_max, threads=threads)
    with _one_at_a_time(folder):
        found = load_current(store, recipe.name, metric, exact_max)
        if found is not None:
            return found
        index = build_index(store, recipe, metric, exact_max=exact_max, threads=threads)
        return _keep(index, folder)


def load_current(
    store: Store, recipe: str, metric: Metric, exact_max: int = EXACT_MAX
) -> NeighborIndex | None:
    """The saved index over the very segments that there are now, if there is one."""
    digest = segments_digest(store.segment_names(recipe))
    for path in _saved(store, recipe, metric):
        if path.name.endswith(f"-{digest}"):
            index = _load(path)
            if index and (index.info.kind == "exact") == (index.info.vectors <= exact_max):
                return index
    return None


def load_latest(store: Store, recipe: str, metric: Metric) -> NeighborIndex | None:
    """The saved index that was made last, whatever segments there are now."""
    loaded = map(_load, _saved(store, recipe, metric))
    return next((index for index in loaded if index is not None), None)


def _saved(store: Store, recipe: str, metric: Metric) -> Iterator[Path]:
    folder = store.recipe_folder(recipe)
    return iter(()) if isinstance(folder, ObjectPath) else saved_indexes(folder, metric)


def _load(path: Path) -> NeighborIndex | None:
    try:
        return load_index(path)
    except UnusableIndex as error:
        log.warning("The neighbour index %s is made anew: %s.", path, error)
        discard_index(path)
    except NewerIndex as error:
        log.warning("The neighbour index %s is left alone: %s.", path, error)
    except Unreachable as error:
        log.warning("The neighbour index is not read: %s", error)
    return None


def _keep(index: NeighborIndex, folder: Path) -> NeighborIndex:
    """Save an index, and read it again: what was written is then known to be right."""
    try:
        path = save_index(index, folder)
    except StoreError as error:
        log.info("The neighbour index is kept in memory: %s", error)
        return index
    return _load(path) or index


@contextmanager
def _one_at_a_time(recipe_folder: Path) -> Iterator[None]:
    """Let one process build; without locks or a right to write, each does its own work."""
    folder = neighbors_folder(recipe_folder)
    handle = None
    try:
        import fcntl  # not on Windows

        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (OSError, ImportError) as error:
        log.debug("%s is not locked: %s", folder, error)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
