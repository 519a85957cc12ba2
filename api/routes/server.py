"""The server itself: whether it answers, and what it has."""

from __future__ import annotations

import platform
from importlib.metadata import version

from fastapi import APIRouter

from api.dependencies import ServicesDep
from api.schemas import CollectionInfo, Health, Info, RecipeInfo
from embedstore import __version__

router = APIRouter(tags=["server"])


@router.get("/health")
async def read_health() -> Health:
    """The process answers; needs no API key."""
    return Health()


@router.get("/info")
def read_info(services: ServicesDep) -> Info:
    """Collections, recipes with their counts, probes and versions."""
    catalogue = services.catalogue
    return Info(
        collections=[
            CollectionInfo(name=name, records=len(catalogue.collection(name)))
            for name in catalogue.store.collections()
        ],
        recipes=[
            RecipeInfo(**catalogue.reader(name).describe()) for name in catalogue.store.recipes()
        ],
        probes=services.shelf.names(),
        versions={
            "embedstore": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("fastapi", "numpy", "torch")},  # imports none
        },
    )
