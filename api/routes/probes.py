"""Saved probes: what there is, and what they predict."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request

from api.dependencies import Services, ServicesDep
from api.errors import DamagedProbe, TooLarge
from api.prediction import Asked, ask_records, ask_sequences, check_letters, predict
from api.schemas import (
    DamagedProbeSummary,
    Digests,
    Predictions,
    PredictRequest,
    ProbeList,
    ProbeSummary,
    ScoreInterval,
)
from api.settings import Settings
from api.shelf import Interval
from embedstore.errors import BadInput
from embedstore.loaders import JoinedRecipe
from embedstore.store import Recipe
from probe.saved import Probe, ProbeInfo

router = APIRouter(prefix="/v1/probes", tags=["probes"])


@router.get("")
def list_probes(services: ServicesDep) -> ProbeList:
    """Every probe: its task, the recipe it reads, and its scores; what is wrong with the others."""
    found = ProbeList(probes=[], damaged=[])
    for each in services.shelf.listing():
        if isinstance(each.found, DamagedProbe):
            damaged = DamagedProbeSummary(name=each.name, problem=each.found.problem)
            found.damaged.append(damaged)
        else:
            found.probes.append(_summary(each.name, each.found, each.interval))
    return found


@router.post("/{name}/predict")
async def predict_with(
    name: str, body: PredictRequest, request: Request, services: ServicesDep
) -> Predictions:
    """Predict for new sequences, or for records of a collection.

    Embeddings come from the store where it has them. Others are made on demand, by backbones
    without weights and by those whose weights the server was started with.
    """
    _check_count(body, services.settings)
    probe, asked = await run_sync(_prepare, name, body, services)
    answers = await predict(
        probe, asked, services.supply, services.embedder, services.heads, request
    )
    info = probe.info
    assert isinstance(info.recipe, Recipe), "joined recipes are refused before a probe is loaded"
    return Predictions(
        probe=name,
        recipe=info.recipe.name,
        unit=info.objective.task.unit,
        digests=Digests(
            probe=info.weights_digest,
            recipe=info.recipe.name.rpartition("-")[2],
            model=info.recipe.weights,
        ),
        predictions=answers,
    )


def _prepare(name: str, body: PredictRequest, services: Services) -> tuple[Probe, list[Asked]]:
    info = services.shelf.info(name)  # what is absent or damaged comes before what is too large
    if isinstance(info.recipe, JoinedRecipe):
        raise BadInput(
            f"Probe {name!r} reads several backbones joined ({info.recipe.backbone}), which this "
            "server does not do.",
            "Use `probe predict`, or a probe of one backbone.",
        )
    asked = _asked(body, services)
    check_letters(sum(each.letters for each in asked), services.settings)
    return services.shelf.load(name), asked


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


def _summary(name: str, info: ProbeInfo, interval: Interval | None) -> ProbeSummary:
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
        interval=None if interval is None else ScoreInterval(**interval._asdict()),
    )
