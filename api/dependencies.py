"""What routes ask the app for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from api.answers import AnswerShelf
from api.catalogue import Catalogue
from api.coverage import Coverage
from api.embed_queue import EmbedQueue
from api.embedder import Embedder
from api.metrics import Metrics
from api.neighbors import Neighborhoods
from api.representations import Wanted, wanted_of
from api.settings import Settings
from api.shelf import ProbeShelf
from api.supply import Supply
from api.write_back import WriteBack

HEAD_THREADS = 4
"""One head runs at a time; others only wait for it."""


SEARCH_THREADS = 8
"""Of the 40 that all routes share: a search may wait for its index, and look-ups go on."""


@dataclass(frozen=True)
class Services:
    """Everything that lives as long as the app."""

    settings: Settings
    catalogue: Catalogue
    shelf: ProbeShelf
    embedder: Embedder
    neighborhoods: Neighborhoods
    coverage: Coverage
    metrics: Metrics
    queue: EmbedQueue
    supply: Supply
    answers: AnswerShelf
    write_back: WriteBack | None
    """None where new embeddings are not kept."""
    heads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(HEAD_THREADS))
    """Threads in which probes predict."""
    searches: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(SEARCH_THREADS))
    """Threads in which neighbours are searched."""


async def accept_of(request: Request) -> str:
    """What the client accepts, as one header."""
    return ",".join(request.headers.getlist("accept"))


async def services_of(request: Request) -> Services:
    """The app's services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
AcceptDep = Annotated[str, Depends(accept_of)]
WantedDep = Annotated[Wanted, Depends(wanted_of)]
