"""What goes over the wire as JSON, in and out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.coding import CodingRegion, CodingRules


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
    left_out: int = Field(description="Segments that cannot be read; none of their keys counts.")


class DamagedPart(BaseModel):
    """A collection, a recipe, or a segment of a recipe that cannot be read."""

    name: str
    problem: str


class Info(BaseModel):
    """What the server has."""

    collections: list[CollectionInfo]
    recipes: list[RecipeInfo]
    probes: list[str]
    damaged: list[DamagedPart] = Field(description="What is left out, for it cannot be read.")
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


class Model(BaseModel):
    """A backbone or recipe that embeddings can be asked of."""

    id: str = Field(description="What `model` takes.", examples=["esm2-8m-3f9c2a1b7d"])
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "embedstore"
    backbone: str
    view: str = Field(description="What is read: mrna, dna, protein or cds.")
    width: int = Field(description="Numbers per token.")
    stored: int = Field(description="Distinct views in the store.")
    on_demand: bool = Field(
        description="Whether the server has weights, or needs none, to embed other sequences."
    )


class ModelList(BaseModel):
    """All models, and what is stored but cannot be read."""

    object: Literal["list"] = "list"
    data: list[Model]
    damaged: list[DamagedPart] = Field(
        default_factory=list, description="Recipes and segments that cannot be read, and why."
    )


class _Sequences(CodingRules):
    model_config = ConfigDict(extra="forbid")

    model: Text = Field(description="A backbone, or a recipe's folder name.")
    input: Text | list[Text] = Field(description="One sequence or several.")
    molecule: Literal["mrna", "dna", "protein"] | None = Field(
        None, description="Of every sequence; default: told from the letters, as a build does."
    )
    coding_region: CodingRegion | list[CodingRegion | None] | None = Field(
        None, description="Of every sequence, or a list with one for each, null where whole."
    )

    @property
    def sequences(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def regions(self) -> list[CodingRegion | None]:
        """The coding region of each sequence; a list of another length stays as it is."""
        if isinstance(self.coding_region, list):
            return self.coding_region
        return [self.coding_region] * len(self.sequences)


class EmbeddingsRequest(_Sequences):
    """OpenAI's embeddings call, for biological sequences; `molecule` is ours."""

    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian float32."
    )
    dimensions: int | None = Field(None, description="If given, the model's width.")
    user: Text | None = Field(None, description="Taken and not used.")


class TokenEmbeddingsRequest(_Sequences):
    """Sequences to embed per token."""


class PooledEmbedding(BaseModel):
    """The average of one input's embedding over its tokens."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place in the input.")
    embedding: list[float] | str = Field(description="Numbers, or base64 of float32.")
    key: str = Field(description="Of the view that the model read.")
    source: Literal["stored", "computed"]


class Usage(BaseModel):
    """Token rows of all inputs together."""

    prompt_tokens: int
    total_tokens: int


class PooledEmbeddings(BaseModel):
    """What OpenAI's embeddings call answers, with the recipe's name as model."""

    object: Literal["list"] = "list"
    data: list[PooledEmbedding]
    model: str = Field(description="The recipe.")
    usage: Usage


class TokenEmbeddingItem(BaseModel):
    """One input per token, or why it has no embedding."""

    index: int = Field(description="Place in the input.")
    key: str | None
    source: Literal["stored", "computed"] | None
    embedding: list[list[float]] | None = Field(description="Shape (L, D).")
    error: Problem | None = None


class TokenEmbeddings(BaseModel):
    """One entry for each input, in their order."""

    model: str = Field(description="The recipe.")
    dtype: str = Field(description="Of the numbers before they were written: float16 or float32.")
    data: list[TokenEmbeddingItem]
    usage: Usage


class LookupRequest(BaseModel):
    """Stored embeddings of ids of a collection, or of keys."""

    model_config = ConfigDict(extra="forbid")

    backbone: Text = Field(description="Backbone, or recipe where there are several.")
    collection: Text | None = Field(None, description="Of the ids.")
    ids: list[Text] | None = None
    keys: list[Text] | None = Field(None, description="Keys of views: 32 hex digits each.")
    pooled: bool = Field(False, description="Averages over tokens instead of every token.")


class LookupItem(BaseModel):
    """One of what was asked for."""

    id: str | None
    key: str | None = Field(description="Null where the id is unknown or has no such view.")
    status: Literal["present", "absent"]
    reason: str | None = Field(description="Why it is absent, as the code of an error.")
    embedding: list[list[float]] | list[float] | None = Field(
        description="Shape (L, D), or (D,) if pooled; null where absent."
    )


class Lookup(BaseModel):
    """One entry for each id or key, in the order of the request."""

    recipe: str
    pooled: bool
    dtype: str
    items: list[LookupItem]


class Readiness(BaseModel):
    """The server takes requests."""

    status: Literal["ready"] = "ready"


class ScoreInterval(BaseModel):
    """A bootstrap interval over the test items."""

    low: float
    high: float
    confidence: float = Field(examples=[0.95])


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
    interval: ScoreInterval | None = Field(
        None, description="Of the test score; null where the run has none."
    )


class DamagedProbeSummary(BaseModel):
    """A folder that should hold a probe and does not."""

    name: str
    problem: str


class ProbeList(BaseModel):
    """All saved probes."""

    probes: list[ProbeSummary]
    damaged: list[DamagedProbeSummary]


class NewSequence(CodingRules):
    """A sequence to predict for."""

    model_config = ConfigDict(extra="forbid")

    sequence: Text
    id: Text | None = Field(None, description="Comes back with the answer.")
    molecule: Literal["mrna", "dna", "protein"] | None = Field(
        None, description="Default: told from the letters, as a build does."
    )
    coding_region: CodingRegion | None = Field(
        None, description="Of a transcript with UTRs. Default: the whole sequence."
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


class Digests(BaseModel):
    """What exactly predicted."""

    probe: str = Field(description="BLAKE2b-128 of the head's weights.")
    recipe: str = Field(description="BLAKE2b-40 of the recipe, the end of its name.")
    model: str | None = Field(
        description="Of the backbone's weights, sha256; null where it has none."
    )


class Predictions(BaseModel):
    """One entry for each sequence or id, in the order of the request."""

    probe: str
    recipe: str
    unit: str
    digests: Digests
    predictions: list[Prediction | Unpredicted]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request cannot be answered."},
    "5XX": {"model": Problem, "description": "The server cannot answer."},
}
"""For the OpenAPI document: what every route may answer besides its own."""
