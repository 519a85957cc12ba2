"""Names of models as a client gives them in; recipes, and what can be done with each, out."""

from __future__ import annotations

import logging

from api.catalogue import Catalogue
from api.embedder import Embedder
from api.schemas import DamagedPart, Model, ModelList
from embedstore.backbones.specs import SPECS, find_spec
from embedstore.errors import BadInput, DamagedSegment, MissingRecipe, NewerFormat
from embedstore.store import Recipe

log = logging.getLogger(__name__)


def find_model(name: str, catalogue: Catalogue, embedder: Embedder) -> Recipe:
    """The recipe of a recipe's name, or of a backbone.

    A backbone stands for its only recipe in the store; where the store has none, for what this
    server makes of it.

    Raises
    ------
    DamagedSegment
    MissingRecipe
        The store has several recipes of that backbone: they are listed.
    UnknownBackbone
    MissingWeights, NotInstalled
        The store has nothing of it, and it cannot be made here.
    """
    if name in SPECS or any(name == spec.hub_id for spec in SPECS.values()):
        name = find_spec(name).name
    # by folder names, so that a damaged recipe refuses its own requests alone
    if any(name in (each, each.rpartition("-")[0]) for each in catalogue.recipes()):
        return catalogue.recipe(name)
    if name not in SPECS:
        known = ", ".join(each.id for each in list_models(catalogue, embedder).data) or "none yet"
        raise MissingRecipe(f"There is no model {name!r}.", f"Models: {known}.")
    return embedder.recipe_of(name)


def list_models(catalogue: Catalogue, embedder: Embedder) -> ModelList:
    """Every recipe of the store that can be read, then every other backbone that embeds here.

    A recipe that cannot be read is named with its problem, as is one with segments left out.
    """
    models: list[Model] = []
    damaged = []
    for name in catalogue.recipes():
        try:
            reader = catalogue.reader(name)
        except (DamagedSegment, NewerFormat) as error:
            log.error("recipe %s: %s", name, error)
            damaged.append(DamagedPart(name=name, problem=error.problem))
            continue
        damaged += [DamagedPart(name=name, problem=each.problem) for each in reader.left_out]
        recipe = reader.recipe
        models.append(
            Model(
                id=name,
                backbone=recipe.backbone,
                view=recipe.view,
                width=recipe.width,
                stored=len(reader),
                on_demand=embedder.has_weights(recipe.backbone),
            )
        )
    stored = {model.backbone for model in models}
    for spec in SPECS.values():
        if spec.name not in stored and embedder.has_weights(spec.name):
            models.append(
                Model(
                    id=spec.name,
                    backbone=spec.name,
                    view=spec.view,
                    width=spec.width,
                    stored=0,
                    on_demand=True,
                )
            )
    return ModelList(data=models, damaged=damaged)


def check_dimensions(dimensions: int | None, recipe: Recipe) -> None:
    """Refuse vectors of another width than the model's.

    Raises
    ------
    BadInput
    """
    if dimensions is not None and dimensions != recipe.width:
        raise BadInput(
            f"{recipe.name} gives {recipe.width} numbers, not {dimensions}.",
            "Leave dimensions out: vectors are never cut.",
        )
