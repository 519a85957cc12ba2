"""Many stored embeddings at once: ids or keys in, an entry for each out, present or absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi.responses import Response
from numpy.typing import NDArray

from api.arrow import ARROW, mean_stream, token_stream
from api.catalogue import Catalogue
from api.errors import TooLarge
from api.representations import JSON, JSON_NUMBER_BYTES, json_bytes
from api.schemas import LookupRequest
from embedstore import RecipeReader
from embedstore.errors import DamagedSegment, MissingEmbedding, MissingRecord
from embedstore.store.collection import key_column


@dataclass
class Entry:
    """One of what was asked for."""

    id: str | None
    key: str | None
    reason: str | None
    """Why it is absent, as the code of an error; None: it is present."""


def find_entries(request: LookupRequest, catalogue: Catalogue, reader: RecipeReader) -> list[Entry]:
    """What the index knows of each id or key, in their order; no embedding is read.

    Raises
    ------
    MissingCollection, DamagedSegment
    BadInput
        A key is not 32 hex digits.
    """
    if request.keys is not None:
        entries = [Entry(None, key, None) for key in request.keys]
    else:
        assert request.ids is not None and request.collection is not None
        collection = catalogue.collection(request.collection)
        keys = collection.table.column(key_column(reader.recipe.view))
        entries = []
        for name in request.ids:
            row = collection.row_of.get(name)
            key = None if row is None else keys[row].as_py()
            entries.append(Entry(name, key, MissingRecord.code if key is None else None))
    known = [entry for entry in entries if entry.key is not None]
    absent = DamagedSegment.code if reader.left_out else MissingEmbedding.code
    stored = reader.has([entry.key or "" for entry in known])
    for entry, there in zip(known, stored.tolist(), strict=True):
        if not there:
            entry.reason = absent
    return entries


def lookup_response(
    reader: RecipeReader, entries: Sequence[Entry], form: str, pooled: bool, limit: int
) -> Response:
    """The embeddings of entries that are present, each distinct key read once.

    Parameters
    ----------
    form : media type, `application/json` or that of an Arrow stream
    pooled : averages over tokens instead of every token
    limit : bytes that may be sent

    Raises
    ------
    TooLarge
        Known from the index, before anything is read.
    DamagedSegment
    """
    present = [entry.key for entry in entries if entry.reason is None and entry.key is not None]
    distinct = list(dict.fromkeys(present))
    recipe = reader.recipe
    dtype = "float32" if pooled else recipe.store_dtype
    lengths = dict(zip(distinct, reader.lengths(distinct).tolist(), strict=True))
    rows = len(present) if pooled else sum(lengths[key] for key in present)
    size = rows * recipe.width * (JSON_NUMBER_BYTES if form == JSON else np.dtype(dtype).itemsize)
    if size > limit:
        raise TooLarge(
            f"The embeddings take {size} bytes; at most {limit} are sent.",
            "Ask for fewer at a time, or for averages with pooled.",
        )
    values: Sequence[NDArray[Any]] = (
        list(reader.means(distinct)) if pooled else reader.batch(distinct).split()
    )
    by_key = dict(zip(distinct, values, strict=True))
    found = [None if each.reason else by_key[each.key or ""] for each in entries]
    if form == ARROW:
        columns: dict[str, Sequence[str | None]] = {
            "id": [each.id for each in entries],
            "key": [each.key for each in entries],
            "status": [_status(each) for each in entries],
            "reason": [each.reason for each in entries],
        }
        about = {"recipe": reader.name, "view": recipe.view}
        if pooled:
            content = mean_stream(columns, found, recipe.width, about)
        else:
            content = token_stream(columns, found, recipe.width, dtype, about)
        return Response(content, media_type=ARROW)
    items = [
        {
            "id": each.id,
            "key": each.key,
            "status": _status(each),
            "reason": each.reason,
            "embedding": None if value is None else value.tolist(),
        }
        for each, value in zip(entries, found, strict=True)
    ]
    head = {"recipe": reader.name, "pooled": pooled, "dtype": dtype, "items": items}
    return Response(json_bytes(head), media_type=JSON)


def _status(entry: Entry) -> str:
    return "present" if entry.reason is None else "absent"
