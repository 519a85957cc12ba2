"""Making a neighbour index: the segments of a recipe in, an index with its measured recall out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DamagedSegment, MissingEmbedding, NewerFormat, StoreError
from embedstore.neighbors.index import (
    Exact,
    Excluded,
    IndexInfo,
    InvertedLists,
    Metric,
    NeighborIndex,
    faiss_metric,
    flat_index,
    to_unit_length,
)
from embedstore.store import Recipe, Store
from embedstore.store.index_upkeep import read_keys, was_published
from embedstore.store.published import Segment

log = logging.getLogger(__name__)

EXACT_MAX = 1_000_000
"""Vectors up to which every one is compared."""
RECALL_AT = 10
RECALL_QUERIES = 200
WANTED_RECALL = 0.95
"""Lists are read until this part of the ten nearest is found."""
POINTS_PER_LIST = 39
"""faiss wants at least so many to learn a centroid from."""


@dataclass(frozen=True, eq=False)
class Means:
    """The averaged embeddings of a recipe, each key once."""

    keys: NDArray[np.uint8]
    """Shape (N, 16)."""
    vectors: NDArray[np.float32]
    """Shape (N, D)."""
    segments: list[str]
    """Where they are from."""
    excluded: tuple[Excluded, ...]


def segments_digest(names: Sequence[str]) -> str:
    """Digest of a list of segments, in any order: 32 hex digits."""
    return hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=16).hexdigest()


def build_index(
    store: Store, recipe: Recipe, metric: Metric, *, exact_max: int = EXACT_MAX, threads: int = 1
) -> NeighborIndex:
    """Read the averages of a recipe and make them searchable; writes nothing.

    Beyond `exact_max` vectors they are put into inverted lists (faiss `IndexIVFFlat`), of which
    as many are read for a query as find 95 % of its ten nearest, measured on stored vectors. That
    takes twice the memory of the vectors while it is built.

    Parameters
    ----------
    threads : of faiss, to learn the centroids

    Raises
    ------
    MissingEmbedding
        The recipe has no embedding.
    DamagedSegment
        No segment can be read. Where some can, the others are named in `info.excluded`.
    """
    means = read_means(store, recipe)
    if metric == "cosine":
        to_unit_length(means.vectors)
    info: dict[str, Any] = {
        "recipe": recipe.name,
        "metric": metric,
        "vectors": len(means.keys),
        "width": recipe.width,
        "segments": segments_digest(means.segments),
        "excluded": means.excluded,
    }
    exact = Exact(means.vectors, metric)
    if len(means.keys) <= exact_max:
        return NeighborIndex(IndexInfo(kind="exact", recall=1.0, **info), means.keys, exact)
    lists = _fill_lists(means.vectors, metric, threads)
    queries, recall = _tune(lists, exact, threads)
    measured = {"recall": recall, "recall_queries": queries, "probed_lists": lists.index.nprobe}
    return NeighborIndex(IndexInfo(kind="ivf", **measured, **info), means.keys, lists)


def read_means(store: Store, recipe: Recipe) -> Means:
    """The averages in all segments that can be read.

    Raises
    ------
    MissingEmbedding, DamagedSegment
    """
    segments: list[Segment] = []
    counts: list[int] = []
    excluded: list[Excluded] = []
    for folder in store.segment_folders(recipe.name):
        segment = Segment(folder, recipe)
        if not was_published(segment):
            continue
        try:
            counts.append(segment.document.keys)
            segments.append(segment)
        except (DamagedSegment, NewerFormat) as error:
            excluded.append(_excluded(segment, error))
    keys = np.empty((sum(counts), 16), np.uint8)
    vectors = np.empty((sum(counts), recipe.width), np.float32)
    names: list[str] = []
    filled = 0
    for segment, count in zip(segments, counts, strict=True):
        part = slice(filled, filled + count)
        try:
            known = read_keys(segment)
            if known is None:  # it was set aside meanwhile
                continue
            keys[part] = known.keys
            vectors[part] = segment.mean
            if not np.isfinite(vectors[part]).all():
                raise segment.damaged("an average is not finite")
        except (DamagedSegment, NewerFormat) as error:
            excluded.append(_excluded(segment, error))
            continue
        finally:
            segment.forget()
        names.append(segment.name)
        filled += count
    if not filled and excluded:
        raise DamagedSegment(
            f"No segment of {recipe.name} can be read: {excluded[0].problem}.",
            "Run `embedstore repair` on the store, then build again.",
        )
    if not filled:
        raise MissingEmbedding(
            f"{recipe.name} has no embedding.",
            f"Run `embedstore build` with --backbone {recipe.backbone}.",
        )
    keys, vectors = keys[:filled], vectors[:filled]
    _, first = np.unique(keys.view("V16"), return_index=True)
    if len(first) < filled:  # a key in two segments
        first.sort()
        keys, vectors = keys[first], vectors[first]
    return Means(keys, vectors, names, tuple(excluded))


def _excluded(segment: Segment, error: StoreError) -> Excluded:
    log.error("Left out of the neighbours of %s: %s", segment.recipe.name, error)
    return Excluded(segment.name, error.problem.rstrip("."))


def _fill_lists(vectors: NDArray[np.float32], metric: Metric, threads: int) -> InvertedLists:
    import faiss

    faiss.omp_set_num_threads(threads)
    count, width = vectors.shape
    lists = max(1, min(int(4 * count**0.5), count // POINTS_PER_LIST))
    index = faiss.IndexIVFFlat(flat_index(width, metric), width, lists, faiss_metric(metric))
    index.cp.spherical = metric == "cosine"
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64  # recall is set by what is read
    index.cp.min_points_per_centroid = min(POINTS_PER_LIST, count)  # fewer: it would say so
    index.train(vectors)
    index.add(vectors)
    return InvertedLists(index)


def _tune(lists: InvertedLists, exact: Exact, threads: int) -> tuple[int, float]:
    """Set how many lists a search reads; how many queries that was measured with, and the recall.

    A vector that was found counts where it is as near as the tenth nearest: of equals any will do.
    """
    import faiss

    count = len(exact.vectors)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(count, min(RECALL_QUERIES, count), replace=False))
    queries = np.ascontiguousarray(exact.vectors[rows])
    k = min(RECALL_AT + 1, count)  # the first is the query itself
    faiss.omp_set_num_threads(threads)
    best, _ = faiss.knn(queries, exact.vectors, k, metric=faiss_metric(exact.metric))
    sign = 1 if exact.metric == "cosine" else -1
    near_enough = sign * best[:, -1:] - 1e-5 * np.abs(best[:, -1:]) - 1e-6
    probed, recall = 1, 0.0
    while True:
        lists.index.nprobe = min(probed, lists.index.nlist)
        faiss.omp_set_num_threads(threads)
        values, found = lists.index.search(queries, k)
        right = (found >= 0) & (found != rows[:, None]) & (sign * values >= near_enough)
        wanted = max(1, k - 1)
        recall = float(np.minimum(right.sum(axis=1), wanted).mean() / wanted) if k > 1 else 1.0
        if recall >= WANTED_RECALL or lists.index.nprobe == lists.index.nlist:
            return len(rows), round(recall, 4)
        probed *= 2
