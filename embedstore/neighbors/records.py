"""The neighbours of one record: an id in, a table of records out."""

from __future__ import annotations

from typing import Any

from embedstore.errors import BadInput
from embedstore.neighbors.index import METRICS, IndexInfo
from embedstore.neighbors.open import open_neighbors
from embedstore.store import Store
from embedstore.store.reader import KEY
from embedstore.store.record_lookup import RecordLookup


def nearest_records(
    store: Store,
    key_or_id: str,
    backbone: str,
    collection: str | None = None,
    *,
    k: int = 10,
    metric: str = "cosine",
) -> tuple[list[dict[str, Any]], IndexInfo]:
    """Records with the nearest averaged embeddings, those of one embedding in rows of their own.

    Parameters
    ----------
    key_or_id : a key (32 hex digits), or the id of a record; its own embedding is left out
    collection : where to look the id up; needed only if collections disagree on it
    k : embeddings, each of which several records may share

    Returns
    -------
    Rows of rank, collection, id, key and `similarity` or `distance`; and what was searched. An
    embedding that no record has any more has a row without collection and id.

    Raises
    ------
    MissingRecipe, MissingRecord, MissingEmbedding, DamagedSegment
    BadInput
        No such metric.
    """
    if metric not in METRICS:
        raise BadInput(f"There is no metric {metric!r}.", f"Give one of: {', '.join(METRICS)}.")
    reader = store.recipe(backbone)
    view, key = reader.recipe.view, key_or_id
    if collection is not None or not KEY.fullmatch(key_or_id):
        key = store.find_key(key_or_id, view, collection)
    index = open_neighbors(store, reader.name, "l2" if metric == "l2" else "cosine")
    (found,) = index.search(reader.means([key]), k, without=[key])
    keys = [each.key for each in found]
    owners: list[list[tuple[str | None, str | None]]] = [[] for _ in keys]
    for name in store.collections():
        lookup = RecordLookup(store.collection(name), view)
        for mine, ids in zip(owners, lookup.find(keys), strict=True):
            mine += [(name, id) for id in ids]
    value = "similarity" if metric == "cosine" else "distance"
    rows = [
        {
            "rank": rank,
            "collection": name,
            "id": id,
            "key": each.key,
            value: round(each.value, 6),
        }
        for rank, (each, own) in enumerate(zip(found, owners, strict=True), start=1)
        for name, id in own or [(None, None)]
    ]
    return rows, index.info
