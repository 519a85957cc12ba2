"""What routes ask the app for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.catalogue import Catalogue
from api.coverage import Coverage
from api.embedder import Embedder
from api.neighbors import Neighborhoods
from api.representations import Wanted, wanted_of
from api.settings import Settings
from api.shelf import ProbeShelf


@dataclass(frozen=True)
class Services:
    """Everything that lives as long as the app."""

    settings: Settings
    catalogue: Catalogue
    shelf: ProbeShelf
    embedder: Embedder
    neighborhoods: Neighborhoods
    coverage: Coverage


async def services_of(request: Request) -> Services:
    """The app's services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
WantedDep = Annotated[Wanted, Depends(wanted_of)]
