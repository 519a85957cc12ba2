"""The HTTP app: settings in, routes over one store and its probes out."""

from __future__ import annotations

from fastapi import FastAPI

from api.catalogue import Catalogue
from api.coverage import Coverage
from api.dependencies import Services
from api.embedder import Embedder
from api.errors import add_error_handlers
from api.gate import Gate
from api.neighbors import Neighborhoods
from api.routes import embeddings, evaluation, neighbors, page, probes, server
from api.schemas import ERRORS
from api.settings import Settings
from api.shelf import ProbeShelf
from embedstore import __version__, open_store


def create_app(settings: Settings) -> FastAPI:
    """The app of one server; reads and checks what was configured, and imports no torch for that.

    Raises
    ------
    NotAStore, NewerFormat
        The store cannot be read.
    MissingWeights, BadWeights, BadInput
        Configured weights, or the device, cannot be used.
    """
    catalogue = Catalogue(open_store(settings.store))
    services = Services(
        settings=settings,
        catalogue=catalogue,
        shelf=ProbeShelf(settings.probes),
        embedder=Embedder(settings),
        neighborhoods=Neighborhoods(catalogue, settings.neighbors_exact_max),
        coverage=Coverage(catalogue),
    )
    services.embedder.check()
    app = FastAPI(
        title="embedstore",
        version=__version__,
        description="Stored embeddings of biological sequences, and probes that read them.",
        docs_url=None,  # they load scripts from elsewhere, which a closed network has not
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.services = services
    app.add_middleware(Gate, settings=settings)
    add_error_handlers(app)
    for routes in (server, embeddings, probes, evaluation, neighbors, page):
        app.include_router(routes.router)
    return app
