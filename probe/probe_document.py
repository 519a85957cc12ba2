"""The model of `probe.json`: its task, head, scale and training, each checked; no torch needed."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, JsonValue, RootModel, Tag, model_validator

from embedstore.documents import Digest, Document
from embedstore.errors import BadInput
from embedstore.loaders import Align, JoinedRecipe
from embedstore.store.recipe import Recipe
from probe.documents import (
    AtLeastOne,
    Name,
    NotNegative,
    Positive,
    ProbeDocument,
    Score,
    Seed,
    Text,
)
from probe.metrics import Metric
from probe.number_cells import DecimalMark
from probe.objective import Objective, Scale
from probe.tasks import Kind, Task, Transform
from probe.training import Config, LinearConfig, TrainingConfig

MOST_VALUES = 1 << 30
"""Weights that a head can have: 4 GiB."""

Size = Annotated[int, Field(ge=1, le=1 << 24)]
"""Of a layer."""
Shapes = dict[str, tuple[int, ...]]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class TaskDocument(Document):
    """A task, as runs and probes hold it."""

    collection: Text
    label: Text
    kind: Kind
    transform: Transform | None = None
    min_label: float | None = None
    max_letters: AtLeastOne | None = None
    balance: bool = False
    decimal: DecimalMark = "."
    metric: Metric

    @model_validator(mode="after")
    def _agrees(self) -> TaskDocument:
        self.task()
        return self

    def task(self) -> Task:
        """The task that it tells.

        Raises
        ------
        ValueError
            Its fields contradict one another.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        metric = values.pop("metric")
        try:
            return Task(**values, scored_by=metric)
        except BadInput as error:
            raise ValueError(error.problem.removesuffix(".")) from None


class TextCNNHead(Document):
    """Sizes of a TextCNN, for whole sequences or for each token."""

    kind: Literal["textcnn", "textcnn-position"]
    width: Size
    outputs: Size
    projection: Size
    channels: Size
    kernels: Annotated[tuple[Size, ...], Field(min_length=1, max_length=64)]
    dropout: Dropout

    def shapes(self) -> Shapes:
        """Of each tensor by name."""
        kernels = {
            name: shape
            for at, k in enumerate(self.kernels)
            for name, shape in (
                (f"convs.{at}.weight", (self.channels, self.projection, k)),
                (f"convs.{at}.bias", (self.channels,)),
            )
        }
        features = self.channels * len(self.kernels)
        return {
            "proj.weight": (self.projection, self.width),
            "proj.bias": (self.projection,),
            **kernels,
            "fc.weight": (self.outputs, features),
            "fc.bias": (self.outputs,),
        }


class LSTMHead(Document):
    """Sizes of an LSTM."""

    kind: Literal["lstm"]
    width: Size
    outputs: Size
    hidden: Size
    dropout: Dropout

    def shapes(self) -> Shapes:
        """Of each tensor by name."""
        return {
            "rnn.weight_ih_l0": (4 * self.hidden, self.width),
            "rnn.weight_hh_l0": (4 * self.hidden, self.hidden),
            "rnn.bias_ih_l0": (4 * self.hidden,),
            "rnn.bias_hh_l0": (4 * self.hidden,),
            "fc.weight": (self.outputs, self.hidden),
            "fc.bias": (self.outputs,),
        }


class LinearHead(Document):
    """Sizes of a ridge or logistic head."""

    kind: Literal["ridge", "logistic"]
    width: Size
    outputs: Size

    def shapes(self) -> Shapes:
        """Of each tensor by name."""
        return {
            "fc.weight": (self.outputs, self.width),
            "fc.bias": (self.outputs,),
            "centre": (self.width,),
            "spread": (self.width,),
        }


HeadDocument = Annotated[TextCNNHead | LSTMHead | LinearHead, Field(discriminator="kind")]


class _AnyHead(RootModel[HeadDocument]):
    model_config = ConfigDict(strict=True)


def head_shapes(values: dict[str, Any]) -> Shapes:
    """Shape of each tensor of a head, from its kind and sizes."""
    return _AnyHead.model_validate_json(json.dumps(values)).root.shapes()


class ScaleDocument(Document):
    """Mean and spread of the training labels: one for all, or one for each output."""

    mean: float | Annotated[tuple[float, ...], Field(min_length=1)]
    std: Positive | Annotated[tuple[Positive, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_usable(self) -> ScaleDocument:
        if not self.scale().is_usable:
            raise ValueError("its mean and std give no finite predictions")
        return self

    def scale(self) -> Scale:
        """What it tells."""
        return Scale(self.mean, self.std)


class HeadTraining(Document):
    """How a head alone was trained."""

    batch_size: AtLeastOne
    learning_rate: Positive
    epochs: AtLeastOne
    patience: AtLeastOne
    seed: Seed
    dropout: Dropout
    weight_decay: NotNegative

    def config(self) -> Config:
        """What it tells."""
        return TrainingConfig(**self.model_dump())


class FineTuning(HeadTraining):
    """How a head was trained together with its backbone."""

    method: Literal["lora", "full"]
    backbone_learning_rate: Positive
    rank: AtLeastOne | None
    alpha: Positive | None

    @model_validator(mode="after")
    def _has_its_adapter(self) -> FineTuning:
        self.config()
        return self

    def config(self) -> Config:
        """What it tells."""
        from probe.finetune.method import FinetuneConfig

        return FinetuneConfig(**self.model_dump())


class LinearTraining(Document):
    """How a linear head was fitted."""

    penalty: Positive

    def config(self) -> Config:
        """What it tells."""
        return LinearConfig(penalty=self.penalty)


def _way_of_training(values: Any) -> str:
    """Of a document, or of a model that becomes one again."""
    told = values if isinstance(values, dict) else getattr(values, "__dict__", {})
    if "penalty" in told:
        return "linear"
    return "finetuned" if "method" in told else "head"


TrainingDocument = Annotated[
    Annotated[HeadTraining, Tag("head")]
    | Annotated[FineTuning, Tag("finetuned")]
    | Annotated[LinearTraining, Tag("linear")],
    Discriminator(_way_of_training),
]


class JoinedDocument(Document):
    """Several recipes, joined."""

    recipes: Annotated[list[dict[str, JsonValue]], Field(min_length=2, max_length=1024)]
    align: Align
    factors: list[Positive]


class FinetunedDocument(Document):
    """What a fine-tuned probe came from."""

    method: Literal["lora", "full"]
    base: dict[str, JsonValue]
    """Recipe that training started from."""


class ProbeInfoDocument(ProbeDocument):
    """`probe.json`."""

    KIND: ClassVar[str] = "probe"
    NEWEST: ClassVar[int] = 3
    SEALED_FROM: ClassVar[int] = 3
    MOST: ClassVar[int] = 64 << 20

    head: HeadDocument
    task: TaskDocument
    classes: tuple[Text, ...]
    scale: ScaleDocument | None
    positions: AtLeastOne | None = None
    by_token: bool | None = None
    recipe_name: Name
    recipe: dict[str, JsonValue]
    """Its own parser checks it: see `read_recipe`."""
    view: Text | None = None
    split_digest: Digest
    metrics: dict[Literal["train", "validation", "test"], dict[Text, int | Score]]
    training: TrainingDocument
    versions: dict[Text, Text]
    weights_digest: Digest
    finetuned: FinetunedDocument | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ProbeInfoDocument:
        recipe, objective = self.read_recipe(), self.objective()
        classes = len(set(self.classes))
        if (objective.scale is None) != (self.task.kind == "classification"):
            raise ValueError(f"it has {'no' if objective.scale is None else 'a'} scale")
        if classes < len(self.classes) or (classes < 2) != (objective.scale is not None):
            raise ValueError(f"it has {classes} different classes of {len(self.classes)}")
        if (objective.positions is not None) != (self.task.kind == "per-position"):
            raise ValueError("positions belong to a per-position task")
        if recipe.name != self.recipe_name or self.view not in (None, recipe.view):
            raise ValueError(f"its recipe is {recipe.name}, of {recipe.view}")
        by_token = self.head.kind == "textcnn-position"
        if (self.head.width, self.head.outputs, by_token) != (
            recipe.width,
            objective.outputs,
            objective.by_token,
        ):
            raise ValueError("it contradicts itself about the sizes of its head")
        if sum(map(math.prod, self.head.shapes().values())) > MOST_VALUES:
            raise ValueError(f"its head has more than {MOST_VALUES} weights")
        if len(self.task.task().labels) > 1 and objective.outputs != len(self.task.task().labels):
            raise ValueError("it has another number of outputs than of labels")
        for each in self.metrics.values():
            if any(isinstance(value, bool) for value in each.values()):
                raise ValueError("a score is no number")
        return self

    def read_recipe(self) -> Recipe | JoinedRecipe:
        """Of the features that the head reads.

        Raises
        ------
        ValueError
            It is no recipe.
        """
        if "recipes" not in self.recipe:
            return Recipe.from_json(self.recipe)
        joined = JoinedDocument.model_validate(self.recipe)
        return JoinedRecipe.from_json(joined.model_dump())

    def objective(self) -> Objective:
        """Task, and classes or scale."""
        return Objective(
            task=self.task.task(),
            classes=self.classes,
            scale=None if self.scale is None else self.scale.scale(),
            positions=self.positions,
            by_token=bool(self.by_token),
        )
