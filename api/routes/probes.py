"""Saved probes: what there is, and what they predict."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import Services, ServicesDep
from api.errors import DamagedProbe, TooLarge
from api.prediction import Asked, ask_records, ask_sequences, predict
from api.schemas import (
    DamagedProbeSummary,
    Predictions,
    PredictRequest,
    ProbeList,
    ProbeSummary,
)
from api.settings import Settings
from embedstore.errors import BadInput
from embedstore.loaders import JoinedRecipe
from probe.saved import ProbeInfo

router = APIRouter(prefix="/v1/probes", tags=["probes"])


@router.get("")
def list_probes(services: ServicesDep) -> ProbeList:
    """Every probe: its task, the recipe it reads, and its scores."""
    found = ProbeList(probes=[], damaged=[])
    for name in services.shelf.names():
        try:
            found.probes.append(_summary(name, services.shelf.info(name)))
        except DamagedProbe as error:
            found.damaged.append(DamagedProbeSummary(name=name, problem=error.problem))
    return found


@router.post("/{name}/predict")
def predict_with(name: str, request: PredictRequest, services: ServicesDep) -> Predictions:
    """Predict for new sequences, or for records of a collection.

    Embeddings come from the store where it has them. Others are made on demand, by backbones
    without weights and by those whose weights the server was started with.
    """
    _check_count(request, services.settings)
    info = services.shelf.info(name)
    if isinstance(info.recipe, JoinedRecipe):
        raise BadInput(
            f"Probe {name!r} reads several backbones joined ({info.recipe.backbone}), which this "
            "server does not do.",
            "Use `probe predict`, or a probe of one backbone.",
        )
    asked = _asked(request, services)
    letters = sum(each.letters for each in asked)
    if letters > services.settings.max_letters:
        raise TooLarge(
            f"The sequences have {letters} letters together; at most "
            f"{services.settings.max_letters} are taken.",
            "Send fewer at a time.",
        )
    recipe = info.recipe.name
    reader = None
    if recipe in services.catalogue.store.recipes():
        reader = services.catalogue.reader(recipe)
    probe = services.shelf.load(name)
    return Predictions(
        probe=name,
        recipe=recipe,
        unit=info.objective.task.unit,
        predictions=predict(probe, asked, reader, services.embedder),
    )


def _check_count(request: PredictRequest, settings: Settings) -> None:
    if (request.sequences is None) == (request.ids is None):
        raise BadInput(
            "The request must have either sequences or ids.",
            'Send {"sequences": [{"sequence": "..."}]} or {"ids": [...], "collection": "..."}.',
        )
    if (request.ids is None) != (request.collection is None):
        raise BadInput("Ids and collection go together.", "Name the collection of the ids.")
    count = len(request.sequences or request.ids or ())
    if count == 0:
        raise BadInput("The request has no sequence.", "Send at least one.")
    if count > settings.max_sequences:
        raise TooLarge(
            f"The request has {count} sequences.", f"Send at most {settings.max_sequences}."
        )


def _asked(request: PredictRequest, services: Services) -> list[Asked]:
    if request.sequences is not None:
        return ask_sequences(request.sequences)
    assert request.ids is not None and request.collection is not None
    return ask_records(request.ids, services.catalogue.collection(request.collection))


def _summary(name: str, info: ProbeInfo) -> ProbeSummary:
    task = info.objective.task
    return ProbeSummary(
        name=name,
        recipe=info.recipe.name,
        backbone=info.recipe.backbone,
        view=info.recipe.view,
        kind=task.kind,
        collection=task.collection,
        label=task.label,
        unit=task.unit,
        classes=list(info.objective.classes),
        head=str(info.head.get("kind")),
        metrics=info.metrics,
    )
