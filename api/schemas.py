"""What goes over the wire as JSON, in and out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    """Refuse lone surrogates, which JSON can write and no answer could repeat."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not Unicode text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Problem(BaseModel):
    """The body of every error."""

    code: str = Field(description="Stable word to match on.", examples=["missing-embedding"])
    problem: str = Field(description="What is wrong.")
    fix: str = Field(description="What to do about it.")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class CollectionInfo(BaseModel):
    """A table of records."""

    name: str
    records: int


class RecipeInfo(BaseModel):
    """Embeddings that were made in one way."""

    recipe: str = Field(description="Its folder name.", examples=["esm2-8m-3f9c2a1b7d"])
    backbone: str
    view: str = Field(description="What is read: mrna, dna, protein or cds.")
    width: int = Field(description="Numbers per token.")
    keys: int = Field(description="Distinct views embedded.")
    tokens: int
    segments: int
    bytes: int


class Info(BaseModel):
    """What the server has."""

    collections: list[CollectionInfo]
    recipes: list[RecipeInfo]
    probes: list[str]
    versions: dict[str, str]


class TokenEmbedding(BaseModel):
    """A per-token embedding, or some of its rows."""

    recipe: str
    key: str
    dtype: str = Field(description="As stored: float16 or float32.")
    rows: tuple[int, int] = Field(description="Rows that follow, 0-based, half-open.")
    shape: tuple[int, int] = Field(description="Of what follows: rows, width.")
    embedding: list[list[float]]


class MeanEmbedding(BaseModel):
    """The average of an embedding over its tokens."""

    recipe: str
    key: str
    dtype: str = "float32"
    shape: tuple[int]
    mean: list[float]


class ProbeSummary(BaseModel):
    """A saved probe."""

    name: str
    recipe: str = Field(description="Of the embeddings that it reads.")
    backbone: str
    view: str
    kind: Literal["regression", "classification", "per-position"]
    collection: str = Field(description="Trained on.")
    label: str
    unit: str = Field(description="Of the predictions.", examples=["log2(halflife)"])
    classes: list[str] = Field(description="Of a classification, else empty.")
    head: str
    metrics: dict[str, dict[str, float | int | None]]


class DamagedProbeSummary(BaseModel):
    """A folder that should hold a probe and does not."""

    name: str
    problem: str


class ProbeList(BaseModel):
    """All saved probes."""

    probes: list[ProbeSummary]
    damaged: list[DamagedProbeSummary]


class NewSequence(BaseModel):
    """A sequence to predict for."""

    model_config = ConfigDict(extra="forbid")

    sequence: Text
    id: Text | None = Field(None, description="Comes back with the answer.")
    molecule: Literal["mrna", "dna", "protein"] | None = Field(
        None, description="Default: told from the letters, as a build does."
    )


class PredictRequest(BaseModel):
    """Either new sequences, or ids of records in a collection."""

    model_config = ConfigDict(extra="forbid")

    sequences: list[NewSequence] | None = None
    ids: list[Text] | None = None
    collection: Text | None = Field(None, description="Of the ids.")


class Prediction(BaseModel):
    """What the probe says of one sequence."""

    id: str | None
    molecule: str = Field(description="How the sequence was read.")
    key: str = Field(description="Of the view that the backbone read.")
    embedding: Literal["stored", "new"] = Field(description="Where it came from.")
    prediction: float | str | list[float] = Field(
        description="In the probe's unit, or a class; a list of several outputs or positions."
    )
    probabilities: dict[str, float] | None = Field(
        description="By class; null for numbers.",
    )


class Unpredicted(BaseModel):
    """Why there is no prediction for one sequence."""

    id: str | None
    error: Problem


class Predictions(BaseModel):
    """One entry for each sequence or id, in the order of the request."""

    probe: str
    recipe: str
    unit: str
    predictions: list[Prediction | Unpredicted]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request cannot be answered."},
    "5XX": {"model": Problem, "description": "The server cannot answer."},
}
"""For the OpenAPI document: what every route may answer besides its own."""
