"""The models of a run's documents: `run.json`, `results.json`, `split.json`, and of `sweep.json`.

Fields that only some versions or kinds of runs write have a default; none is ever of another type.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from embedstore.documents import Count, Digest, Document
from embedstore.errors import BadInput
from probe.documents import (
    RESTORE,
    AtLeastOne,
    Facts,
    Name,
    NotNegative,
    Positive,
    ProbeDocument,
    Score,
    Seed,
    Share,
    Text,
    read_json,
)
from probe.metrics import Metric
from probe.probe_document import Dropout, TaskDocument
from probe.training import HeadKind

RUN, RESULTS, SPLIT, SWEEP = "run.json", "results.json", "split.json", "sweep.json"

Method = Literal["probe", "lora", "full"]
SearchRule = Literal["full", "halving"]
Losses = tuple[Score, ...]


class Parts(Document):
    """Rows of each part of a split."""

    train: Count
    validation: Count
    test: Count


class GridDocument(Document):
    """What was tried."""

    batch_sizes: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)]
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    epochs: AtLeastOne
    patience: AtLeastOne
    seed: Seed
    seeds: AtLeastOne = 1
    dropout: Dropout = 0.2
    method: Method = "probe"
    backbone_learning_rate: Positive | None = None
    ranks: tuple[AtLeastOne, ...] = ()
    alphas: tuple[Positive, ...] = ()


class RowsDocument(Document):
    """The rows of a run."""

    collection: Count
    used: Count
    dropped: dict[Text, Count]
    digest: Digest


class SplitOfRun(Document):
    """The split of a run, without its ids."""

    rule: Text
    seed: Seed
    digest: Digest
    n: Parts


class BaseDocument(Document):
    """What fine-tuning started from."""

    backbone: Text
    weights: Text | None


class LikeDocument(Document):
    """The run that a fine-tuning is compared with."""

    split: Digest
    rows: Digest


class RunDocument(ProbeDocument):
    """`run.json`: what was asked for."""

    KIND: ClassVar[str] = "run"
    NEWEST: ClassVar[int] = 2
    SEALED_FROM: ClassVar[int] = 2
    MOST: ClassVar[int] = 64 << 20

    task: TaskDocument
    unit: Text
    classes: tuple[Text, ...] = ()
    head: HeadKind = "textcnn"
    search: SearchRule = "full"
    grid: GridDocument
    penalties: tuple[Positive, ...] | None = None
    backbones: Annotated[dict[Name, Name], Field(min_length=1)]
    """Recipe by name in the run."""
    rows: RowsDocument
    split: SplitOfRun
    joined: Facts = Field(default_factory=dict)
    method: Method | None = None
    base: BaseDocument | None = None
    recipe: Facts | None = None
    like: LikeDocument | None = None
    targets: tuple[Text, ...] = ()
    warnings: tuple[Text, ...] = ()
    versions: dict[Text, Text] = Field(default_factory=dict)
    command: Text | None = None

    @model_validator(mode="after")
    def _agrees(self) -> RunDocument:
        n = self.split.n
        if self.rows.used != n.train + n.validation + n.test:
            raise ValueError(f"it uses {self.rows.used} rows and splits another number")
        if (self.task.kind == "classification") != bool(self.classes):
            raise ValueError(f"it has {len(self.classes)} classes for a {self.task.kind} task")
        return self


class Curve(Document):
    """A learning curve, an entry an epoch."""

    train_loss: Losses
    validation_score: Losses

    @model_validator(mode="after")
    def _agrees(self) -> Curve:
        if len(self.train_loss) != len(self.validation_score):
            raise ValueError("its curve has more of one than of the other")
        return self


class Configuration(Document):
    """One configuration that was tried, and what it came to."""

    batch_size: AtLeastOne | None = None
    learning_rate: Positive | None = None
    penalty: Positive | None = None
    seed: Seed | None = None
    backbone_learning_rate: Positive | None = None
    rank: AtLeastOne | None = None
    alpha: Positive | None = None
    validation_score: Score
    best_epoch: Count | None = None
    seconds: NotNegative | None = None
    parameters_trained: Count | None = None
    peak_bytes: Count | None = None
    curve: Curve | None = None
    diverged: bool = False


class Chosen(Document):
    """The configuration that was chosen."""

    batch_size: AtLeastOne | None = None
    learning_rate: Positive | None = None
    epochs: AtLeastOne | None = None
    patience: AtLeastOne | None = None
    seed: Seed | None = None
    dropout: Dropout | None = None
    weight_decay: NotNegative | None = None
    penalty: Positive | None = None
    method: Method | None = None
    backbone_learning_rate: Positive | None = None
    rank: AtLeastOne | None = None
    alpha: Positive | None = None


class SeedResult(Document):
    """What the chosen configuration came to with one seed."""

    seed: Seed
    best_epoch: Count | None
    validation_score: Score
    test_score: Score
    seconds: NotNegative | None = None


class BackboneResult(Document):
    """What became of one backbone."""

    recipe: Name
    recipes: tuple[Name, ...] = ()
    align: Literal["codon", "nucleotide", "pooled"] | None = None
    method: Method | None = None
    view: Text | None = None
    width: AtLeastOne | None = None
    parameters: Count | None = None
    parameters_trained: Count | None = None
    chosen: Chosen
    best_epoch: Count | None = None
    validation_score: Score
    test_score: Score
    seeds: tuple[SeedResult, ...] = ()
    per_output: dict[Text, Score] = Field(default_factory=dict)
    n: Parts | None = None
    seconds: NotNegative | None = None
    configurations: tuple[Configuration, ...] = ()
    peak_bytes: Count | None = None
    shuffled_labels_test_score: Score = None
    shuffled_labels_diverged: bool = False
    memory: Facts | None = None
    features: Facts | None = None
    """Of runs before `memory`."""


class BaselineResult(Document):
    """What became of a predictor without a trained representation."""

    chosen: Chosen
    validation_score: Score
    test_score: Score


class LostBackbone(Document):
    """A backbone on which training diverged."""

    recipe: Name
    view: Text
    problem: Text
    fix: Text


class Pair(Document):
    """Two predictors compared."""

    first: Name
    second: Name
    difference: Score
    low: Score
    high: Score
    p: Share | None
    p_holm: Share | None
    smallest_detectable: NotNegative | None = None
    verdict: Text


class Comparisons(Document):
    """Intervals and verdicts."""

    resamples: AtLeastOne
    level: Annotated[float, Field(gt=0, lt=1)]
    power: Share | None = None
    rows: Count | None = None
    groups: Count | None = None
    resampled: Text | None = None
    intervals: dict[Name, tuple[Score, Score]]
    pairs: tuple[Pair, ...]

    @model_validator(mode="after")
    def _agrees(self) -> Comparisons:
        for name, (low, high) in self.intervals.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"the interval of {name} ends before it begins")
        return self


class Constant(Document):
    """The answer that needs no sequence."""

    prediction: float | str | tuple[float, ...]
    validation_score: Score
    test_score: Score


class CeilingDocument(Document):
    """The best score of a head that sees one view."""

    metric: Literal["r2", "spearman", "accuracy"]
    bound: Score
    expected: Score = None


class ViewDocument(Document):
    """What one view shows of the rows."""

    view: Text
    rows: Count
    distinct: Count
    repeated: Count
    largest: Count
    ceilings: tuple[CeilingDocument, ...]
    test: Count
    test_in_train: Count


class OutliersDocument(Document):
    """Labels far from the others."""

    count: Count
    furthest: str
    score: Score


class AuditDocument(Document):
    """What the rows allow."""

    rows: Count
    parts: Parts
    views: tuple[ViewDocument, ...]
    outliers: OutliersDocument | None = None
    majority: Share | None = None
    classes: dict[Text, Parts] | None = None
    smallest_detectable: Score = None
    warnings: tuple[Text, ...] = ()
    refusals: tuple[Text, ...] = ()


class ResultsDocument(ProbeDocument):
    """`results.json`: what came of a run."""

    KIND: ClassVar[str] = "results"
    NEWEST: ClassVar[int] = 2
    SEALED_FROM: ClassVar[int] = 2
    MOST: ClassVar[int] = 256 << 20

    metric: Metric
    unit: Text | None = None
    audit: AuditDocument | None = None
    constant: Constant
    baselines: dict[Name, BaselineResult] = Field(default_factory=dict)
    skipped_baselines: dict[Name, Text] = Field(default_factory=dict)
    backbones: dict[Name, BackboneResult]
    diverged: dict[Name, LostBackbone] = Field(default_factory=dict)
    comparisons: Comparisons | None = None


class SplitDocument(ProbeDocument):
    """`split.json`: the ids of each part."""

    KIND: ClassVar[str] = "split"
    NEWEST: ClassVar[int] = 2
    SEALED_FROM: ClassVar[int] = 2
    MOST: ClassVar[int] = 256 << 20

    rule: Text
    seed: Seed
    digest: Digest
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> SplitDocument:
        if digest_of_parts(self.parts) != self.digest:
            raise ValueError("it was changed: its parts have another digest")
        if len(self.ids) < sum(map(len, self.parts.values())):
            raise ValueError("an id stands in it twice")
        return self

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Ids by part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def ids(self) -> frozenset[str]:
        """Of all parts."""
        return frozenset().union(*self.parts.values())


class PlannedRun(Document):
    """One run of a sweep."""

    name: Name
    collection: Text
    label: Text
    head: HeadKind
    split: Text
    seed: Seed
    backbones: tuple[Name, ...]
    configurations: Count
    state: Literal["done", "begun", "to do", "cannot run", "in use"]
    problem: Text | None
    command: Text | None


class SweepDocument(ProbeDocument):
    """`sweep.json`: the runs of a sweep and how far each is."""

    KIND: ClassVar[str] = "sweep"
    NEWEST: ClassVar[int] = 2
    SEALED_FROM: ClassVar[int] = 2
    MOST: ClassVar[int] = 64 << 20

    file: Text
    digest: Digest
    store: Text
    versions: dict[Text, Text]
    runs: tuple[PlannedRun, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> SweepDocument:
        if len({each.name for each in self.runs}) < len(self.runs):
            raise ValueError("two of its runs have one name")
        return self


def digest_of_parts(parts: Mapping[str, Sequence[str]]) -> str:
    """32 hex digits of which id is in which part; the order of ids does not enter."""
    ordered = {part: sorted(members) for part, members in parts.items()}
    text = json.dumps(ordered, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_run_document(folder: Path) -> RunDocument:
    """What was asked for, of a run or its draft.

    Raises
    ------
    BadInput, NewerFormat
        As by `read_json`.
    """
    return read_json(folder / RUN, RunDocument, within=folder)


def read_results(folder: Path) -> ResultsDocument:
    """What came of a run, or of its draft so far.

    Raises
    ------
    BadInput, NewerFormat
        As by `read_json`.
    """
    return read_json(folder / RESULTS, ResultsDocument, within=folder)


def read_split(folder: Path) -> SplitDocument:
    """The split of a run.

    Raises
    ------
    BadInput, NewerFormat
        As by `read_json`.
    """
    return read_json(folder / SPLIT, SplitDocument, within=folder)


def read_sweep_document(folder: Path) -> SweepDocument:
    """The runs of a sweep.

    Raises
    ------
    BadInput, NewerFormat
        As by `read_json`.
    """
    return read_json(folder / SWEEP, SweepDocument, within=folder)


def read_both(folder: Path) -> tuple[RunDocument, ResultsDocument]:
    """What was asked for and what came of it, which belong together.

    Raises
    ------
    BadInput
        As by `read_json`, or the two are not of one run.
    NewerFormat
    """
    run, results = read_run_document(folder), read_results(folder)
    if results.metric != run.task.metric:
        raise BadInput(
            f"{str(folder / RESULTS)!r} belongs to another run: its metric is {results.metric}, "
            f"and not {run.task.metric}.",
            RESTORE,
        )
    return run, results
