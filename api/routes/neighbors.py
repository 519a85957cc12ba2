"""The nearest stored embeddings of a sequence, a key, a record or a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from api.coding import CodingRules
from api.dependencies import Services, ServicesDep
from api.neighbor_schemas import (
    ExcludedSegment,
    FoundNeighbor,
    Neighbors,
    NeighborsIndex,
    NeighborsRequest,
    RecordName,
)
from api.prediction import CODING_FIX
from api.views import read_sequence
from embedstore import RecipeReader
from embedstore.dogma import FRAME
from embedstore.errors import BadInput
from embedstore.neighbors.index import as_vectors
from embedstore.records import Record
from embedstore.store.failures import Failure

router = APIRouter(tags=["neighbors"])

RECORDS_SHOWN = 20
"""Of each neighbour: synonymous genes can share their protein by the hundred."""


@dataclass(frozen=True)
class _Query:
    """What to search for."""

    vector: NDArray[Any]
    """Shape (D,)."""
    key: str | None
    source: Literal["stored", "new", "given"]


@router.post("/v1/neighbors")
async def find_neighbors(
    body: NeighborsRequest, request: Request, services: ServicesDep
) -> Neighbors:
    """The stored sequences whose averaged embeddings are nearest, with the records they stand for.

    Up to a million embeddings every one is compared; beyond, inverted lists are searched, and the
    answer tells the recall that was measured. The index is made in the background when it is first
    asked for (503 `not-ready` meanwhile) and again when the recipe has new segments.
    """
    _check_one_query(body)
    reader = await run_sync(services.catalogue.reader, body.backbone)
    if body.sequence is not None:
        query = await _of_sequence(body.sequence, body, reader, services, request)
    else:
        query = await run_sync(_query, body, reader, services)
    return await run_sync(_search, body, query, reader, services, limiter=services.searches)


def _search(
    request: NeighborsRequest, query: _Query, reader: RecipeReader, services: Services
) -> Neighbors:
    served = services.neighborhoods.index(reader.name, request.metric)
    without_self = request.exclude_self
    if without_self is None:
        without_self = request.sequence is None
    (found,) = served.index.search(
        query.vector[None], request.k, without=[query.key if without_self else None]
    )
    keys = [each.key for each in found]
    owners = services.catalogue.records_of(keys, reader.recipe.view)
    measure = "score" if request.metric == "cosine" else "distance"
    info = served.index.info
    return Neighbors(
        recipe=reader.name,
        metric=request.metric,
        key=query.key,
        embedding=query.source,
        index=NeighborsIndex(
            kind=info.kind,
            vectors=info.vectors,
            recall=info.recall,
            recall_queries=info.recall_queries,
            segments=info.segments,
            stale=served.stale,
            excluded=[
                ExcludedSegment(segment=each.segment, problem=each.problem)
                for each in info.excluded
            ],
        ),
        neighbors=[
            FoundNeighbor(
                key=each.key,
                records=[RecordName(collection=name, id=id) for name, id in named[:RECORDS_SHOWN]],
                record_count=len(named),
                **{measure: each.value},
            )
            for each, named in zip(found, owners, strict=True)
        ],
    )


def _check_one_query(request: NeighborsRequest) -> None:
    given = [request.sequence, request.key, request.vector, request.id]
    if sum(each is not None for each in given) != 1:
        raise BadInput(
            "The request must have one of: sequence, key, vector, or collection and id.",
            'E.g. {"backbone": "esm2-8m", "sequence": "AUGGCC..."}.',
        )
    if (request.id is None) != (request.collection is None):
        raise BadInput("Collection and id go together.", "Name the collection of the id.")
    if request.molecule is not None and request.sequence is None:
        raise BadInput("Only a sequence has a molecule.", "Leave molecule out.")
    coded = CodingRules.model_fields.keys() | {"coding_region"}
    if request.sequence is None and coded & request.model_fields_set:
        raise BadInput(
            "Only a sequence has a coding region and a genetic code.",
            f"Leave out {', '.join(sorted(coded & request.model_fields_set))}.",
        )


def _query(request: NeighborsRequest, reader: RecipeReader, services: Services) -> _Query:
    if request.vector is not None:
        vectors = np.array([request.vector])
        as_vectors(vectors, request.metric, reader.recipe.width)  # refused before any work
        return _Query(vectors[0], None, "given")
    key = request.key
    if request.collection is not None and request.id is not None:
        key = services.catalogue.key(request.collection, request.id, reader.recipe.view)
    assert key is not None
    return _Query(reader.means([key])[0], key, "stored")


async def _of_sequence(
    sequence: str,
    body: NeighborsRequest,
    reader: RecipeReader,
    services: Services,
    request: Request,
) -> _Query:
    """The average of a sequence's embedding: the stored one, or a new one by the same rules."""
    limit = services.settings.max_letters
    record = read_sequence(sequence, body.molecule, limit, body, body.coding_region)
    supply = services.supply
    found = await run_sync(supply.find, reader.recipe, [record])
    computed = {}
    if not found.why:
        computed = await supply.wait(supply.submit(found, rows=False), found, request)
    if found.why:
        raise _unreadable(record, found.why[record.id])
    means = await run_sync(supply.means, found, computed)
    (key,) = means
    return _Query(means[key], key, "stored" if key in found.stored else "new")


def _unreadable(record: Record, failure: Failure) -> BadInput:
    return BadInput(
        f"The {record.molecule} has no {failure.view} view to embed: {failure.detail}.",
        "Send a sequence that the backbone can read, or name another backbone."
        + (CODING_FIX if failure.reason in FRAME else ""),
    )
