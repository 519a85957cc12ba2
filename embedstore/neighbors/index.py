"""An index over averaged embeddings: vectors in, the keys of the nearest ones out.

N vectors in the index, Q queries, D wide. faiss searches, on one thread a call: one query is one
pass over memory, and a server has many at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput

Metric = Literal["cosine", "l2"]
METRICS: tuple[Metric, ...] = ("cosine", "l2")


class Searcher(Protocol):
    """What finds rows: exact, or in inverted lists."""

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """faiss's inner products or squared distances, and rows, -1 for none: both (Q, k)."""


@dataclass(frozen=True)
class Neighbor:
    """One of the nearest."""

    key: str
    value: float
    """Cosine similarity, or L2 distance."""


@dataclass(frozen=True)
class Excluded:
    """A segment whose embeddings are not in an index."""

    segment: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index is, and how well it finds."""

    recipe: str
    metric: Metric
    kind: Literal["exact", "ivf"]
    vectors: int
    width: int
    segments: str
    """Digest of the names of the segments whose embeddings are in it, 32 hex digits."""
    recall: float
    """Part of the ten nearest that are found: 1 for exact, else measured when it was built."""
    recall_queries: int | None = None
    """Stored vectors that the recall was measured with; None for exact."""
    probed_lists: int | None = None
    """Inverted lists that one search reads; None for exact."""
    excluded: tuple[Excluded, ...] = ()
    """Damaged segments."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


class NeighborIndex:
    """The averaged embeddings of one recipe, to be searched by one metric; threads may share it."""

    def __init__(self, info: IndexInfo, keys: NDArray[np.uint8], searcher: Searcher) -> None:
        """Search rows whose keys are known.

        Parameters
        ----------
        keys : uint8, shape (N, 16)
        """
        self.info, self.keys, self.searcher = info, keys, searcher

    def search(
        self, queries: NDArray[Any], k: int, *, without: Sequence[str | None] | None = None
    ) -> list[list[Neighbor]]:
        """The k nearest of each query, the nearest first; of equals the smaller key.

        Parameters
        ----------
        queries : shape (Q, D), finite; for cosine of any length but zero
        without : for each query a key to leave out, or None

        Returns
        -------
        Q lists of at most k; fewer where the index holds fewer, or where the inverted lists that
        were read do.

        Raises
        ------
        BadInput
            A query of another width, not finite, or, for cosine, without direction.
        """
        vectors = as_vectors(queries, self.info.metric, self.info.width)
        own = list(without) if without is not None else [None] * len(vectors)
        wanted = min(self.info.vectors, k + any(each is not None for each in own))
        if not len(vectors) or wanted < 1:
            return [[] for _ in vectors]
        values, rows = self.searcher.search(vectors, wanted)
        return [
            self._neighbors(near, at, k, left_out)
            for near, at, left_out in zip(values, rows, own, strict=True)
        ]

    def _neighbors(
        self,
        values: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
        left_out: str | None,
    ) -> list[Neighbor]:
        there = rows >= 0
        cosine = self.info.metric == "cosine"
        shown = np.clip(values, -1, 1) if cosine else np.sqrt(np.maximum(values, 0))
        found = [
            Neighbor(key.tobytes().hex(), value)
            for key, value in zip(self.keys[rows[there]], shown[there].tolist(), strict=True)
        ]
        found.sort(key=lambda each: (-each.value if cosine else each.value, each.key))
        return [each for each in found if each.key != left_out][:k]


class Exact:
    """Every vector is compared."""

    def __init__(self, vectors: NDArray[np.float32], metric: Metric) -> None:
        """Search vectors of shape (N, D), of unit length for cosine."""
        self.vectors, self.metric = vectors, metric

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest of all."""
        import faiss

        faiss.omp_set_num_threads(1)
        values, rows = faiss.knn(queries, self.vectors, k, metric=faiss_metric(self.metric))
        return values, rows


class InvertedLists:
    """Vectors in the lists of their nearest centroids; the lists nearest to a query are read."""

    def __init__(self, index: Any) -> None:
        """Search a trained `faiss.IndexIVFFlat`, with its own `nprobe`."""
        self.index = index

    @classmethod
    def empty(cls, centroids: NDArray[np.float32], metric: Metric) -> InvertedLists:
        """Lists that are to be filled.

        Parameters
        ----------
        centroids : float32, shape (lists, D)
        """
        import faiss

        lists, width = centroids.shape
        quantizer = flat_index(width, metric)
        quantizer.add(centroids)
        index = faiss.IndexIVFFlat(quantizer, width, lists, faiss_metric(metric))
        index.is_trained = True
        return cls(index)

    @property
    def count(self) -> int:
        """Vectors in all lists."""
        return int(self.index.ntotal)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.index.d)

    def centroids(self) -> NDArray[np.float32]:
        """float32, shape (lists, D)."""
        found: NDArray[np.float32] = self.index.quantizer.reconstruct_n(0, self.index.nlist)
        return found

    def sizes(self) -> NDArray[np.int64]:
        """Vectors in each list: shape (lists,)."""
        held = self.index.invlists
        return np.array([held.list_size(n) for n in range(self.index.nlist)], np.int64)

    def lists(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Rows and vectors of each list: (n,) and (n, D), valid until the lists change."""
        import faiss

        held = self.index.invlists
        for number, size in enumerate(self.sizes().tolist()):
            if size:
                rows = faiss.rev_swig_ptr(held.get_ids(number), size)
                codes = faiss.rev_swig_ptr(held.get_codes(number), size * held.code_size)
                yield rows, codes.view(np.float32).reshape(size, self.width)

    def fill(self, number: int, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Put vectors into one list.

        Parameters
        ----------
        rows : int64, shape (n,): what a search names them by
        vectors : float32, shape (n, D)
        """
        import faiss

        if len(rows):
            codes = np.ascontiguousarray(vectors, np.float32).reshape(-1).view(np.uint8)
            self.index.invlists.add_entries(
                number,
                len(rows),
                faiss.swig_ptr(np.ascontiguousarray(rows, np.int64)),
                faiss.swig_ptr(codes),
            )
            self.index.ntotal += len(rows)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest in the lists that are read."""
        import faiss

        faiss.omp_set_num_threads(1)
        values, rows = self.index.search(queries, k)
        return values, rows


def as_vectors(queries: NDArray[Any], metric: Metric, width: int) -> NDArray[np.float32]:
    """Queries as faiss wants them: float32, shape (Q, D), of unit length for cosine.

    Raises
    ------
    BadInput
    """
    if queries.ndim != 2 or queries.shape[1] != width:
        raise BadInput(
            f"The query has {queries.shape[-1] if queries.ndim else 0} numbers; the recipe is "
            f"{width} wide.",
            "Send an averaged embedding of this very recipe.",
        )
    with np.errstate(over="ignore"):
        vectors = np.array(queries, np.float32, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        usable = np.isfinite(np.einsum("ij,ij->i", vectors, vectors))
    if not usable.all():
        raise BadInput(
            "The query holds numbers that are not finite, or too large.",
            "Send an averaged embedding of this very recipe.",
        )
    if metric == "cosine" and not to_unit_length(vectors).all():
        raise BadInput(
            "The query is all zeros, which has no direction.", "Ask for the metric l2 instead."
        )
    return vectors


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Scale rows to unit length, in place; all zeros stay. Which have a direction: shape (N,)."""
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)  # squares of less would vanish
    pointing = largest[:, 0] > 0
    vectors /= np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    return np.asarray(pointing)


def flat_index(width: int, metric: Metric) -> Any:
    """faiss's index that compares every vector."""
    import faiss

    return (faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2)(width)


def faiss_metric(metric: Metric) -> int:
    """faiss's number of a metric: cosine is the inner product of unit vectors."""
    import faiss

    return int(faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2)
