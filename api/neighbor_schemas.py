"""What goes over the wire about neighbours, in and out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.coding import CodingRegion, CodingRules
from api.schemas import Text

MAX_NEIGHBORS = 1_000
"""The most that one request gets."""


class NeighborsRequest(CodingRules):
    """A backbone, and one of: a sequence, a key, a vector, or a record of a collection."""

    model_config = ConfigDict(extra="forbid")

    backbone: Text = Field(description="Or its recipe, where the store has several.")
    sequence: Text | None = None
    molecule: Literal["mrna", "dna", "protein"] | None = Field(
        None, description="Of the sequence. Default: told from the letters, as a build does."
    )
    coding_region: CodingRegion | None = Field(
        None, description="Of the sequence, a transcript with UTRs. Default: the whole."
    )
    key: Text | None = Field(None, description="Of a stored view: 32 hex digits.")
    vector: (
        Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)] | None
    ) = Field(None, description="An averaged embedding of this recipe.")
    collection: Text | None = Field(None, description="Of the id.")
    id: Text | None = None
    k: int = Field(10, ge=1, le=MAX_NEIGHBORS)
    metric: Literal["cosine", "l2"] = "cosine"
    exclude_self: bool | None = Field(
        None,
        description="Leave the query's own key out. Default: yes for a key or an id, else no.",
    )


class RecordName(BaseModel):
    """A record of the store."""

    collection: str
    id: str


class FoundNeighbor(BaseModel):
    """One of the nearest; of `score` and `distance` the one that the metric gives."""

    key: str
    score: float | None = Field(None, description="Cosine similarity, -1 to 1.")
    distance: float | None = Field(None, description="Euclidean.")
    records: list[RecordName] = Field(description="The first records with this view.")
    record_count: int = Field(description="All of them.")


class ExcludedSegment(BaseModel):
    """A damaged segment: none of its embeddings can be found."""

    segment: str
    problem: str


class NeighborsIndex(BaseModel):
    """What was searched."""

    kind: Literal["exact", "ivf"]
    vectors: int
    recall: float = Field(
        description="Part of the ten nearest that are found: 1 for exact, else measured against "
        "exact search when the index was made."
    )
    recall_queries: int | None = Field(description="Stored vectors it was measured with.")
    segments: str = Field(description="Digest of the list of segments in it.")
    stale: bool = Field(description="Segments have come or gone; a new index is being made.")
    excluded: list[ExcludedSegment]


class Neighbors(BaseModel):
    """The nearest of a query, the nearest first."""

    recipe: str
    metric: Literal["cosine", "l2"]
    key: str | None = Field(description="Of the query; null for a vector.")
    embedding: Literal["stored", "new", "given"] = Field(description="Where the query came from.")
    index: NeighborsIndex
    neighbors: list[FoundNeighbor]
