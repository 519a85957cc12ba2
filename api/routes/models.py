"""Models: what there is, and embeddings of sequences, stored or made on demand."""

from __future__ import annotations

import base64

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.arrow import ARROW, token_stream
from api.coding import CodingRules
from api.dependencies import AcceptDep, Services, ServicesDep
from api.embed_queue import Computed
from api.errors import TooLarge
from api.models import check_dimensions, find_model, list_models
from api.prediction import Asked, ask_sequences, check_letters, explain
from api.representations import (
    BYTES,
    JSON,
    JSON_NUMBER_BYTES,
    NPY,
    choose_media_type,
    json_bytes,
    npy,
)
from api.schemas import (
    EmbeddingsRequest,
    Model,
    ModelList,
    NewSequence,
    PooledEmbedding,
    PooledEmbeddings,
    TokenEmbeddings,
    TokenEmbeddingsRequest,
    Usage,
)
from api.supply import Found, Supply
from embedstore.errors import BadInput, MissingRecipe, StoreError
from embedstore.records import Record
from embedstore.store import Recipe

router = APIRouter(prefix="/v1", tags=["models"])

FORMS = (NPY, BYTES, ARROW, JSON)


@router.get("/models")
def read_models(services: ServicesDep) -> ModelList:
    """Every recipe of the store, and every backbone that can embed here; damage by name."""
    return list_models(services.catalogue, services.embedder)


@router.get("/models/{id}")
def read_model(id: str, services: ServicesDep) -> Model:
    """One of them."""
    models = list_models(services.catalogue, services.embedder).data
    for model in models:
        if model.id == id:
            return model
    if id in services.catalogue.recipes():
        services.catalogue.reader(id)  # says why it is none of them
    known = ", ".join(model.id for model in models) or "none yet"
    raise MissingRecipe(f"There is no model {id!r}.", f"Models: {known}.")


@router.post("/embeddings")
async def embed_pooled(
    body: EmbeddingsRequest, request: Request, services: ServicesDep
) -> PooledEmbeddings:
    """Averages over tokens, in the form of OpenAI's embeddings call.

    What is stored is read; the rest is embedded. One input that cannot be read fails the request,
    for that form has no place for its error.
    """
    asked = _ask(body, services)
    recipe, found = await run_sync(_find, body.model, asked, services)
    check_dimensions(body.dimensions, recipe)
    _refuse_unreadable(asked, found)
    ticket = services.supply.submit(found, rows=False)
    computed = await services.supply.wait(ticket, found, request)
    _refuse_unreadable(asked, found)
    means = await run_sync(services.supply.means, found, computed)
    data = []
    for at in range(len(asked)):
        key = found.key_of[str(at)]
        vector = means[key].astype("<f4")
        plain = body.encoding_format == "float"
        data.append(
            PooledEmbedding(
                index=at,
                embedding=vector.tolist() if plain else base64.b64encode(vector.tobytes()).decode(),
                key=key,
                source="stored" if key in found.stored else "computed",
            )
        )
    return PooledEmbeddings(data=data, model=recipe.name, usage=_usage(found, len(asked)))


_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/token-embeddings",
    response_class=Response,
    responses={
        200: {
            "model": TokenEmbeddings,
            "content": {NPY: _BINARY, BYTES: _BINARY, ARROW: _BINARY},
        }
    },
)
async def embed_tokens(
    body: TokenEmbeddingsRequest, request: Request, services: ServicesDep, accept: AcceptDep
) -> Response:
    """Per-token embeddings, stored or made on demand; row i is token i of what the model reads.

    `.npy`, the default, holds one input; several come as an Arrow stream or JSON, with an error of
    its own for each that cannot be read.
    """
    form = choose_media_type(accept, FORMS)
    if form in (NPY, BYTES) and len(body.sequences) > 1:
        form = choose_media_type(accept, (ARROW, JSON))
    asked = _ask(body, services)
    _, found = await run_sync(_find, body.model, asked, services)
    if form in (NPY, BYTES):
        _refuse_unreadable(asked, found)
    _check_size(found, len(asked), services.settings.max_response_bytes, form)
    ticket = services.supply.submit(found, rows=True)
    computed = await services.supply.wait(ticket, found, request)
    if form in (NPY, BYTES):
        _refuse_unreadable(asked, found)
    # megabytes of numbers: not on the event loop
    return await run_sync(_token_response, form, asked, found, computed, services.supply)


def _token_response(
    form: str, asked: list[Asked], found: Found, computed: dict[str, Computed], supply: Supply
) -> Response:
    recipe, tokens = found.recipe, supply.tokens(found, computed)
    keys = [found.key_of.get(str(at)) for at in range(len(asked))]
    why = [explain(each, found) for each in asked]
    keys = [None if problem else key for key, problem in zip(keys, why, strict=True)]
    matrices = [None if key is None else tokens[key] for key in keys]
    if form in (NPY, BYTES):
        assert matrices[0] is not None
        return Response(npy(matrices[0]), media_type=form)
    sources = [
        None if key is None else "stored" if key in found.stored else "computed" for key in keys
    ]
    if form == ARROW:
        columns = {
            "key": keys,
            "source": sources,
            "error": [None if problem is None else problem.code for problem in why],
        }
        about = {"model": recipe.name, "view": recipe.view}
        content = token_stream(columns, matrices, recipe.width, recipe.store_dtype, about)
        return Response(content, media_type=ARROW)
    entries = [
        {
            "index": at,
            "key": keys[at],
            "source": sources[at],
            "embedding": None if (matrix := matrices[at]) is None else matrix.tolist(),
            "error": None if (problem := why[at]) is None else problem.model_dump(),
        }
        for at in range(len(asked))
    ]
    usage = _usage(found, len(asked)).model_dump()
    head = {"model": recipe.name, "dtype": recipe.store_dtype, "data": entries, "usage": usage}
    return Response(json_bytes(head), media_type=JSON)


def _ask(body: EmbeddingsRequest | TokenEmbeddingsRequest, services: Services) -> list[Asked]:
    """The inputs as records with their places as ids, within the limits of one request."""
    settings, texts = services.settings, body.sequences
    if not texts:
        raise BadInput("The request has no input.", "Send at least one sequence.")
    if len(texts) > settings.max_sequences:
        raise TooLarge(
            f"The request has {len(texts)} sequences.", f"Send at most {settings.max_sequences}."
        )
    check_letters(sum(map(len, texts)), settings)
    if len(body.regions) != len(texts):
        raise BadInput(
            f"coding_region lists {len(body.regions)}, and input {len(texts)} sequences.",
            "Send one for each sequence, null where it is whole.",
        )
    rules = {name: getattr(body, name) for name in CodingRules.model_fields}
    return ask_sequences(
        [
            NewSequence(
                id=None, sequence=text, molecule=body.molecule, coding_region=region, **rules
            )
            for text, region in zip(texts, body.regions, strict=True)
        ]
    )


def _find(model: str, asked: list[Asked], services: Services) -> tuple[Recipe, Found]:
    recipe = find_model(model, services.catalogue, services.embedder)
    records = [each.record for each in asked if isinstance(each.record, Record)]
    return recipe, services.supply.find(recipe, records)


def _refuse_unreadable(asked: list[Asked], found: Found) -> None:
    """Raise what is wrong with the first input that has no embedding."""
    for at, each in enumerate(asked):
        problem = explain(each, found)
        if problem is not None:
            named = isinstance(each.record, StoreError)  # its own message says which
            where = "" if named else f"Sequence {at + 1}: "
            raise BadInput(f"{where}{problem.problem}", problem.fix)


def _check_size(found: Found, inputs: int, limit: int, form: str) -> None:
    """Refuse an answer that would be too large, before anything is read or computed."""
    rows = sum(found.rows(found.key_of[str(at)]) for at in range(inputs) if str(at) in found.key_of)
    per_number = np.dtype(found.recipe.store_dtype).itemsize
    size = rows * found.recipe.width * (JSON_NUMBER_BYTES if form == JSON else per_number)
    if size > limit:
        raise TooLarge(
            f"The embeddings take {size} bytes; at most {limit} are sent.",
            "Send fewer sequences at a time, or ask for averages at /v1/embeddings.",
        )


def _usage(found: Found, inputs: int) -> Usage:
    places = (str(at) for at in range(inputs))
    rows = sum(found.rows(found.key_of[place]) for place in places if place in found.key_of)
    return Usage(prompt_tokens=rows, total_tokens=rows)
