"""The HTTP app: settings in, routes over one store and its probes out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from api.access import Access
from api.answers import Answers, AnswerShelf
from api.catalogue import Catalogue
from api.coverage import Coverage
from api.dependencies import Services
from api.embed_queue import EmbedQueue
from api.embedder import Embedder
from api.errors import add_error_handlers
from api.gate import Gate
from api.metrics import Metrics
from api.neighbors import Neighborhoods
from api.routes import embeddings, evaluation, models, neighbors, page, probes, server
from api.schemas import ERRORS
from api.settings import Settings
from api.shelf import ProbeShelf
from api.supply import Supply
from api.write_back import WriteBack
from embedstore import __version__, open_store

GRACE_SECONDS = 10
"""How long what is under way may take after the server is told to stop."""

LAST_SECONDS = 2
"""How long a model may then go on with a batch: no request waits for it any more."""


def create_app(settings: Settings) -> FastAPI:
    """The app of one server; reads and checks what was configured, and imports no torch for that.

    Raises
    ------
    NotAStore, NewerFormat
        The store cannot be read.
    MissingWeights, BadWeights, BadInput
        Configured weights, or the device, cannot be used.
    """
    services = make_services(settings)
    services.embedder.check()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_sync(close_services, services)

    app = FastAPI(
        title="embedstore",
        version=__version__,
        description="Stored embeddings of biological sequences, and probes that read them.",
        docs_url=None,  # they load scripts from elsewhere, which a closed network has not
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
        lifespan=lifespan,
    )
    app.state.services = services
    if settings.cache_bytes:
        app.add_middleware(Answers, shelf=services.answers)
    app.add_middleware(Gate, settings=settings)
    if settings.cors_origins:  # outside the gate: a browser asks beforehand, without the key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-ID"),
            expose_headers=("ETag", "Retry-After", "X-Request-ID"),
        )
    app.add_middleware(Access, metrics=services.metrics)
    add_error_handlers(app)
    for routes in (server, embeddings, models, probes, evaluation, neighbors, page):
        app.include_router(routes.router)
    return app


def make_services(settings: Settings) -> Services:
    """Everything that lives as long as the app; nothing is loaded and no model runs.

    Raises
    ------
    NotAStore, NewerFormat
    """
    metrics = Metrics()
    catalogue = Catalogue(open_store(settings.store))
    embedder = Embedder(settings)
    write_back = None
    if settings.write_back:
        write_back = WriteBack(
            catalogue.store,
            catalogue.reader,
            embedder.provenance(),
            metrics,
            settings.write_back_seconds,
            # a second recipe of a backbone would leave the backbone's name ambiguous to everyone
            leave_out=embedder.is_own,
        )
    queue = EmbedQueue(
        embedder.embed,
        metrics,
        max_queued_tokens=settings.max_queued_tokens,
        batch_tokens=settings.batch_tokens,
        keep=None if write_back is None else write_back.keep,
    )
    return Services(
        settings=settings,
        catalogue=catalogue,
        shelf=ProbeShelf(settings.probes),
        embedder=embedder,
        neighborhoods=Neighborhoods(catalogue, settings.neighbors_exact_max),
        coverage=Coverage(catalogue),
        metrics=metrics,
        queue=queue,
        supply=Supply(catalogue, embedder, queue, metrics, settings.request_seconds),
        answers=AnswerShelf(catalogue, metrics, settings.cache_bytes),
        write_back=write_back,
    )


def close_services(services: Services) -> None:
    """Finish what is in flight, then publish what is to be kept."""
    services.queue.close(LAST_SECONDS)
    if services.write_back is not None:
        services.write_back.close(GRACE_SECONDS)
