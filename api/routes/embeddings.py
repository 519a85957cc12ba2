"""Stored embeddings, by key or by record: per token, or averaged."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from api.answers import Watched
from api.arrow import ARROW
from api.dependencies import AcceptDep, Services, ServicesDep, WantedDep
from api.errors import TooLarge
from api.lookup import find_entries, lookup_response
from api.representations import (
    BYTES,
    JSON,
    NPY,
    choose_media_type,
    matrix_response,
    mean_response,
)
from api.schemas import Lookup, LookupRequest, MeanEmbedding, TokenEmbedding
from embedstore.errors import BadInput

router = APIRouter(tags=["embeddings"])

RecipeName = Annotated[str, Path(description="Folder name of the recipe, or its backbone.")]
Key = Annotated[str, Path(description="Key of the view: 32 hex digits.")]
CollectionName = Annotated[str, Path(description="Name of the collection.")]
RecordId = Annotated[str, Path(description="Id of the record; may hold slashes.")]
Backbone = Annotated[
    str, Query(description="Backbone of the embedding, or its recipe where there are several.")
]
Rows = Annotated[
    str | None, Query(description="Token rows a:b, 0-based and half-open.", examples=["0:64"])
]


def _described(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI document's account of an array."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {
        200: {"model": model, "content": {NPY: binary, BYTES: binary, ARROW: binary, JSON: schema}},
        304: {"description": "The client's copy, named in If-None-Match, is this one."},
    }


_LOOKUP: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Lookup,
        "content": {ARROW: {"schema": {"type": "string", "format": "binary"}}},
    }
}
_MATRIX, _MEAN = _described(TokenEmbedding), _described(MeanEmbedding)


@router.get("/v1/embeddings/{recipe}/{key}", response_class=Response, responses=_MATRIX)
def read_embedding(
    recipe: RecipeName,
    key: Key,
    request: Request,
    services: ServicesDep,
    wanted: WantedDep,
    rows: Rows = None,
) -> Response:
    """One per-token embedding, shape (L, D); dtype and shape are in the `.npy` header."""
    watched = services.answers.watch(recipe, key, pooled=False)
    reader = services.catalogue.reader(recipe)
    limit = services.settings.max_response_bytes
    response = matrix_response(reader, key, rows, wanted, limit)
    services.answers.keep(request, response, watched)
    return response


@router.get("/v1/embeddings/{recipe}/{key}/mean", response_class=Response, responses=_MEAN)
def read_mean(
    recipe: RecipeName, key: Key, request: Request, services: ServicesDep, wanted: WantedDep
) -> Response:
    """The average of one embedding over its tokens: float32, shape (D,)."""
    watched = services.answers.watch(recipe, key, pooled=True)
    response = mean_response(services.catalogue.reader(recipe), key, wanted)
    services.answers.keep(request, response, watched)
    return response


@router.get(
    "/v1/collections/{name}/{id:path}/embedding", response_class=Response, responses=_MATRIX
)
def read_record_embedding(
    name: CollectionName,
    id: RecordId,
    backbone: Backbone,
    request: Request,
    services: ServicesDep,
    wanted: WantedDep,
    rows: Rows = None,
) -> Response:
    """The per-token embedding of a record, shape (L, D)."""
    key, watched = _find_record(services, backbone, name, id, pooled=False)
    limit = services.settings.max_response_bytes
    response = matrix_response(services.catalogue.reader(backbone), key, rows, wanted, limit)
    services.answers.keep(request, response, watched)
    return response


@router.get("/v1/collections/{name}/{id:path}/mean", response_class=Response, responses=_MEAN)
def read_record_mean(
    name: CollectionName,
    id: RecordId,
    backbone: Backbone,
    request: Request,
    services: ServicesDep,
    wanted: WantedDep,
) -> Response:
    """The average of a record's embedding over its tokens: float32, shape (D,)."""
    key, watched = _find_record(services, backbone, name, id, pooled=True)
    response = mean_response(services.catalogue.reader(backbone), key, wanted)
    services.answers.keep(request, response, watched)
    return response


def _find_record(
    services: Services, backbone: str, collection: str, id: str, *, pooled: bool
) -> tuple[str, Watched]:
    """Key of a record, and stamps of what its embedding depends on, taken before it is read."""
    catalogue = services.catalogue
    view = catalogue.recipe(backbone).view
    key = catalogue.key(collection, id, view)
    watched = services.answers.watch(backbone, key, collection, pooled=pooled)
    if watched and catalogue.key(collection, id, view) != key:
        return catalogue.key(collection, id, view), []  # replaced meanwhile: nothing is kept
    return key, watched


@router.post("/v1/embeddings/lookup", response_class=Response, responses=_LOOKUP)
def look_up(body: LookupRequest, services: ServicesDep, accept: AcceptDep) -> Response:
    """Many stored embeddings at once, each `present` or `absent`; nothing is computed."""
    settings = services.settings
    count = len(body.keys or body.ids or ())
    if (body.keys is None) == (body.ids is None) or count == 0:
        raise BadInput(
            "The request must have either keys or ids.",
            'Send {"keys": ["..."]} or {"ids": ["..."], "collection": "..."}.',
        )
    if (body.ids is None) != (body.collection is None):
        raise BadInput("Ids and collection go together.", "Name the collection of the ids.")
    if count > settings.max_sequences:
        raise TooLarge(
            f"The request has {count} entries.", f"Send at most {settings.max_sequences}."
        )
    form = choose_media_type(accept, (JSON, ARROW))
    reader = services.catalogue.reader(body.backbone)
    found = find_entries(body, services.catalogue, reader)
    return lookup_response(reader, found, form, body.pooled, settings.max_response_bytes)
