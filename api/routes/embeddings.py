"""Stored embeddings, by key or by record: per token, or averaged."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from api.dependencies import ServicesDep, WantedDep
from api.representations import BYTES, JSON, NPY, matrix_response, mean_response
from api.schemas import MeanEmbedding, TokenEmbedding

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
        200: {"model": model, "content": {NPY: binary, BYTES: binary, JSON: schema}},
        304: {"description": "The client's copy, named in If-None-Match, is this one."},
    }


_MATRIX, _MEAN = _described(TokenEmbedding), _described(MeanEmbedding)


@router.get("/v1/embeddings/{recipe}/{key}", response_class=Response, responses=_MATRIX)
def read_embedding(
    recipe: RecipeName,
    key: Key,
    services: ServicesDep,
    wanted: WantedDep,
    rows: Rows = None,
) -> Response:
    """One per-token embedding, shape (L, D); dtype and shape are in the `.npy` header."""
    reader = services.catalogue.reader(recipe)
    return matrix_response(reader, key, rows, wanted, services.settings.max_response_bytes)


@router.get("/v1/embeddings/{recipe}/{key}/mean", response_class=Response, responses=_MEAN)
def read_mean(recipe: RecipeName, key: Key, services: ServicesDep, wanted: WantedDep) -> Response:
    """The average of one embedding over its tokens: float32, shape (D,)."""
    return mean_response(services.catalogue.reader(recipe), key, wanted)


@router.get(
    "/v1/collections/{name}/{id:path}/embedding", response_class=Response, responses=_MATRIX
)
def read_record_embedding(
    name: CollectionName,
    id: RecordId,
    backbone: Backbone,
    services: ServicesDep,
    wanted: WantedDep,
    rows: Rows = None,
) -> Response:
    """The per-token embedding of a record, shape (L, D)."""
    reader = services.catalogue.reader(backbone)
    key = services.catalogue.key(name, id, reader.recipe.view)
    return matrix_response(reader, key, rows, wanted, services.settings.max_response_bytes)


@router.get("/v1/collections/{name}/{id:path}/mean", response_class=Response, responses=_MEAN)
def read_record_mean(
    name: CollectionName,
    id: RecordId,
    backbone: Backbone,
    services: ServicesDep,
    wanted: WantedDep,
) -> Response:
    """The average of a record's embedding over its tokens: float32, shape (D,)."""
    reader = services.catalogue.reader(backbone)
    return mean_response(reader, services.catalogue.key(name, id, reader.recipe.view), wanted)
