"""What goes over the wire for the page: coverage, test predictions, views."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.coding import CodingRegion, CodingRules
from api.schemas import Problem, Text


class CoverageRow(BaseModel):
    """How much of a collection a recipe covers."""

    collection: str
    recipe: str
    backbone: str | None
    view: str | None
    records: int | None = Field(description="All of the collection.")
    with_view: int | None = Field(description="Those that the backbone can read at all.")
    embedded: int | None
    problem: str | None = Field(description="Why nothing, or not everything, can be counted.")


class CoverageTable(BaseModel):
    """A row for each collection and recipe."""

    coverage: list[CoverageRow]


class TestPoint(BaseModel):
    """One test row."""

    __test__ = False  # no test case, whatever pytest makes of its name

    id: str
    true: float | str
    predicted: float | str


class TestPredictions(BaseModel):
    """How a probe did on the test rows of its run."""

    __test__ = False

    probe: str
    kind: Literal["regression", "classification"]
    unit: str
    metric: str
    score: float | None = Field(description="On the test rows; null where undefined.")
    interval: tuple[float, float] | None = Field(description="Bootstrap interval of the score.")
    level: float | None = Field(description="Outside of the interval, e.g. 0.05.")
    rows: int = Field(description="Test rows; 0 for a probe that is not in a run.")
    points: list[TestPoint] = Field(description="At most `limit` of them, drawn evenly.")


class ViewsRequest(CodingRules):
    """A sequence."""

    model_config = ConfigDict(extra="forbid")

    sequence: Text
    molecule: Literal["mrna", "dna", "protein"] | None = Field(
        None, description="Default: told from the letters, as a build does."
    )
    coding_region: CodingRegion | None = Field(
        None, description="Of a transcript with UTRs. Default: the whole sequence."
    )


class SequenceView(BaseModel):
    """What backbones of one kind read of a sequence, or why they cannot."""

    view: str = Field(description="mrna, dna, protein or cds.")
    text: str | None = None
    key: str | None = None
    start: int | None = Field(
        None, description="nt of the sequence at which the view begins, counted from 0."
    )
    step: int | None = Field(None, description="nt under a letter: 3 where translated.")
    error: Problem | None = None


class SequenceViews(BaseModel):
    """Every view of a sequence."""

    molecule: str = Field(description="How the sequence was read.")
    letters: int
    views: list[SequenceView]
