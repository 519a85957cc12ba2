"""The server itself: whether it answers, and what it has."""

from __future__ import annotations

import logging
import platform
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter
from fastapi.responses import Response

from api.dependencies import ServicesDep
from api.errors import DamagedProbe, NotReady
from api.metrics import CONTENT_TYPE
from api.schemas import CollectionInfo, DamagedPart, Health, Info, Readiness, RecipeInfo
from embedstore import __version__, open_store
from embedstore.errors import DamagedSegment, NewerFormat, StoreError

log = logging.getLogger(__name__)

router = APIRouter(tags=["server"])


@router.get("/health")
async def read_health() -> Health:
    """The process answers; needs no API key."""
    return Health()


@router.get("/ready")
def read_ready(services: ServicesDep) -> Readiness:
    """The store can be read and requests are taken; needs no API key. Else 503."""
    if not services.queue.open:
        raise NotReady("The server is ending.", "Ask again when it is back.", 5)
    try:
        open_store(services.settings.store)
        services.catalogue.recipes()
    except (StoreError, OSError) as error:
        log.error("not ready: %s", error)
        raise NotReady("The store cannot be read.", "The server's log says why.", 5) from error
    return Readiness()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_metrics(services: ServicesDep) -> Response:
    """Counts and latencies for Prometheus, of all worker processes."""
    return Response(services.metrics.expose(), media_type=CONTENT_TYPE)


@router.get("/info")
def read_info(services: ServicesDep) -> Info:
    """Collections, recipes with their counts, probes and versions; damage hides nothing else."""
    catalogue = services.catalogue
    collections, recipes, damaged = [], [], []
    try:
        names = catalogue.collections()
    except DamagedSegment as error:  # no folder, in which no name is found
        names = []
        damaged.append(DamagedPart(name="collections", problem=error.problem))
    for name in names:
        try:
            records = len(catalogue.collection(name))
            collections.append(CollectionInfo(name=name, records=records))
        except (DamagedSegment, NewerFormat) as error:
            damaged.append(DamagedPart(name=name, problem=error.problem))
    for name in catalogue.recipes():
        try:
            reader = catalogue.reader(name)
            recipes.append(RecipeInfo(**reader.describe()))
            damaged += [DamagedPart(name=name, problem=each.problem) for each in reader.left_out]
        except (DamagedSegment, NewerFormat) as error:
            damaged.append(DamagedPart(name=name, problem=error.problem))
    probes = []
    for each in services.shelf.listing():
        if isinstance(each.found, DamagedProbe):
            damaged.append(DamagedPart(name=each.name, problem=each.found.problem))
        else:
            probes.append(each.name)
    return Info(
        collections=collections,
        recipes=recipes,
        probes=probes,
        damaged=damaged,
        versions={
            "embedstore": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("fastapi", "numpy", "torch")},  # imports none
        },
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
