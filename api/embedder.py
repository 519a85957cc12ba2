"""New sequences embedded on demand: a recipe and records in, packed embeddings out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from api.errors import NotInstalled
from api.settings import Settings
from embedstore import __version__
from embedstore.backbones.backbone import Backbone, Embedded
from embedstore.backbones.devices import parse_devices, resolve_device, visible_gpu
from embedstore.backbones.identify import expect_family
from embedstore.backbones.load import (
    BackboneConfig,
    PreparedBackbone,
    prepare,
    prepare_recipe,
)
from embedstore.backbones.specs import SPECS, find_spec
from embedstore.backbones.weights import find_checkpoint
from embedstore.build.plan import Item, cut_batches, make_plan
from embedstore.errors import BadWeights, MissingWeights, StoreError
from embedstore.records import Record
from embedstore.store import Recipe
from embedstore.store.failures import Failure

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
        self._default: dict[str, Recipe] = {}
        self._loaded: dict[str, Backbone] = {}
        self._own: set[str] = set()

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
            found = find_checkpoint(spec, folder, offline=True)
            expect_family(found.config, spec.family, found.described_in)
        parse_devices(self._device)  # a name that is none is refused whatever is served
        gpu = self._device not in ("auto", "cpu") or visible_gpu() is not None
        if self._weights and gpu:  # else torch need not be loaded for it
            resolve_device(self._device)

    def has_weights(self, backbone: str) -> bool:
        """Whether a backbone could embed here: it needs no weights, or some were given."""
        spec = SPECS.get(backbone)
        if spec is None:
            return False
        return not spec.needs_weights or spec.shipped is not None or backbone in self._weights

    def recipe_of(self, backbone: str) -> Recipe:
        """What this server makes of a backbone when nothing else is said.

        Raises
        ------
        MissingWeights, NotInstalled
        """
        spec = find_spec(backbone)
        with self._preparing:
            recipe = self._default.get(spec.name)
            if recipe is None:
                weights = self._weights.get(spec.name)
                if not self.has_weights(spec.name):
                    raise _not_given(spec.name, spec.name)
                config = BackboneConfig(
                    backbone=spec.name,
                    weights=weights,
                    device=self._device,
                    long="skip",
                    offline=True,
                )
                with _as_missing(spec.name, spec.name):
                    prepared = prepare(config)
                recipe = self._default[spec.name] = prepared.recipe
                self._prepared[recipe.name] = prepared
        return recipe

    def provenance(self) -> dict[str, object]:
        """What is kept with embeddings that are written back."""
        return {"writer": "embedstore serve", "device": self._device, "version": __version__}

    def is_own(self, recipe: Recipe) -> bool:
        """Whether a recipe is made with the weights of one fine-tuned probe."""
        return recipe.name in self._own

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
        MissingWeights, NotInstalled
        BadWeights
            The model cannot be loaded.
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
            if prepared is None or (own is not None and prepared.recipe != recipe):
                weights = own or self._weights.get(recipe.backbone)
                prepared = _prepare(recipe, weights, self._device)
                self._prepared[recipe.name] = prepared
                if own is not None and prepared.recipe == recipe:
                    self._own.add(recipe.name)
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
                self._loaded[recipe.name] = _load(prepared)
                log.info("loaded %s on %s", recipe.name, prepared.device)
            return self._loaded[recipe.name]


def _prepare(recipe: Recipe, weights: Path | None, device: str) -> PreparedBackbone:
    with _as_missing(recipe.name, recipe.backbone):
        spec = find_spec(recipe.backbone)
    if spec.needs_weights and weights is None and spec.shipped is None:
        raise _not_given(recipe.name, spec.name)
    with _as_missing(recipe.name, recipe.backbone):
        return prepare_recipe(recipe, weights, device)


def _load(prepared: PreparedBackbone) -> Backbone:
    """The model; whatever stops it is no fault of a sequence, so that no half of a batch tries."""
    recipe = prepared.recipe
    try:
        with _as_missing(recipe.name, recipe.backbone):
            return prepared.load()
    except StoreError:
        raise
    except Exception as error:  # e.g. the device's memory, or a file that ends too soon
        log.exception("loading %s failed", recipe.name)
        raise BadWeights(
            f"Recipe {recipe.name} cannot be made here: its model cannot be loaded.",
            "The server's log says why; ask again once that is mended.",
        ) from error


def _not_given(recipe: str, backbone: str) -> MissingWeights:
    return MissingWeights(
        f"Recipe {recipe} needs the weights of {backbone}, which the server was not given.",
        f"Start it with --weights {backbone}=DIR, or build the sequences into its store.",
    )


@contextmanager
def _as_missing(recipe: str, backbone: str) -> Iterator[None]:
    """What the client is told where the server's weights are unusable: paths stay in the log."""
    try:
        with needing_packages(f"Recipe {recipe} cannot be made here"):
            yield
    except NotInstalled:
        raise
    except StoreError as error:
        log.error("%s: %s", recipe, error)
        raise MissingWeights(
            f"Recipe {recipe} cannot be made here: the server's weights of {backbone} cannot be "
            "used.",
            f"The server's log says why; start it with --weights {backbone}=DIR.",
        ) from error


@contextmanager
def needing_packages(problem: str) -> Iterator[None]:
    """Turn a package that is not there into an error with the reason.

    Raises
    ------
    NotInstalled
    """
    try:
        yield
    except ImportError as error:
        log.error("%s: %s", problem, error)
        raise NotInstalled(
            f"{problem}: the server has no {(error.name or 'torch').partition('.')[0]}.",
            "Install embedstore with all it depends on; what is stored is served all the same.",
        ) from error
