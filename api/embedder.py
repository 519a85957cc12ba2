"""New sequences embedded on demand: a recipe and records in, packed embeddings out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from api.settings import Settings
from embedstore.backbones.backbone import Backbone, Embedded
from embedstore.backbones.identify import expect_family
from embedstore.backbones.load import PreparedBackbone, config_of, prepare, resolve_device
from embedstore.backbones.specs import find_spec
from embedstore.backbones.weights import find_checkpoint
from embedstore.build.plan import Failure, Item, cut_batches, make_plan
from embedstore.errors import MissingWeights, StoreError
from embedstore.records import Record
from embedstore.store import Recipe

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

BATCH_TOKENS = 8_192
"""Tokens in one forward pass."""


@dataclass(frozen=True)
class NewPlan:
    """What can be embedded of some records, in batches, and what cannot."""

    batches: list[list[Item]]
    failures: list[Failure]


class Embedder:
    """Backbones by recipe, loaded when first needed and once; one forward runs at a time."""

    def __init__(self, settings: Settings) -> None:
        self._weights, self._device = settings.weights, settings.device
        self._preparing, self._loading, self._computing = Lock(), Lock(), Lock()
        self._prepared: dict[str, PreparedBackbone] = {}
        self._loaded: dict[str, Backbone] = {}

    def check(self) -> None:
        """Look at what was configured, loading nothing: a server fails at its start or not at all.

        Raises
        ------
        MissingWeights, BadWeights
            A folder holds no weights, or those of another family.
        BadInput
            The device is not there.
        """
        for name, folder in self._weights.items():
            spec = find_spec(name)
            expect_family(find_checkpoint(spec, folder, offline=True).config, spec.family)
        if self._weights and self._device not in ("auto", "cpu"):
            resolve_device(self._device)

    def plan(self, recipe: Recipe, records: Sequence[Record], own: Path | None = None) -> NewPlan:
        """Batches of what can be embedded under a recipe, by the rules of a build.

        Parameters
        ----------
        own : weights that came with a fine-tuned probe, in the place of the server's

        Raises
        ------
        MissingWeights
            The recipe cannot be made here.
        """
        prepared = self._prepare(recipe, own)
        plan = make_plan(records, prepared, lambda keys: np.zeros(len(keys), np.bool_), 1 << 60)
        return NewPlan(list(cut_batches(list(plan.items), BATCH_TOKENS)), plan.failures)

    def embed(self, recipe: Recipe, batch: Sequence[Item]) -> Embedded:
        """Embed one batch of a plan.

        Raises
        ------
        MissingWeights
        """
        backbone = self._load(recipe)
        with self.computing():
            return backbone.embed([item.text for item in batch])

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold the machine: one forward at a time, of a backbone or of a head."""
        with self._computing:
            yield

    def _prepare(self, recipe: Recipe, own: Path | None = None) -> PreparedBackbone:
        with self._preparing:
            prepared = self._prepared.get(recipe.name)
            if prepared is None:
                weights = own or self._weights.get(recipe.backbone)
                prepared = _prepare(recipe, weights, self._device)
                self._prepared[recipe.name] = prepared
        if prepared.recipe != recipe:
            raise MissingWeights(
                f"Recipe {recipe.name} cannot be made here: the weights of {recipe.backbone} that "
                f"the server has give {prepared.recipe.name}.",
                f"Start it with --weights {recipe.backbone}=DIR, DIR with the weights that the "
                "probe was trained on.",
            )
        return prepared

    def _load(self, recipe: Recipe) -> Backbone:
        backbone = self._loaded.get(recipe.name)
        if backbone is not None:
            return backbone
        prepared = self._prepare(recipe)
        with self._loading:
            if recipe.name not in self._loaded:
                with _as_missing(recipe):
                    self._loaded[recipe.name] = prepared.load()
                log.info("loaded %s on %s", recipe.name, prepared.device)
            return self._loaded[recipe.name]


def _prepare(recipe: Recipe, weights: Path | None, device: str) -> PreparedBackbone:
    with _as_missing(recipe):
        spec = find_spec(recipe.backbone)
    if spec.needs_weights and weights is None and spec.shipped is None:
        raise MissingWeights(
            f"Recipe {recipe.name} needs the weights of {spec.name}, which the server was not "
            "given.",
            f"Start it with --weights {spec.name}=DIR, or build the sequences into its store.",
        )
    with _as_missing(recipe):
        return prepare(config_of(recipe, weights, device))


@contextmanager
def _as_missing(recipe: Recipe) -> Iterator[None]:
    """What the client is told where the server's weights are unusable: paths stay in the log."""
    try:
        yield
    except StoreError as error:
        log.error("%s: %s", recipe.name, error)
        raise MissingWeights(
            f"Recipe {recipe.name} cannot be made here: the server's weights of "
            f"{recipe.backbone} cannot be used.",
            f"The server's log says why; start it with --weights {recipe.backbone}=DIR.",
        ) from error
