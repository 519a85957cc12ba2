"""Which records of the store lack an embedding, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedstore.build.hints import hints
from embedstore.dogma import FRAME, Unreadable
from embedstore.errors import StoreError
from embedstore.store import Store
from embedstore.store.failures import past_failures
from embedstore.store.inventory import read_collections


def missing_records(
    store: Store,
    backbone: str,
    collection: str | None = None,
    left_out: list[StoreError] | None = None,
) -> list[dict[str, str]]:
    """Records without an embedding by one recipe.

    Parameters
    ----------
    backbone : backbone or recipe folder
    collection : one collection; None: all
    left_out : takes the error of each collection that cannot be read, where all are asked for;
        None: the first of them is raised

    Returns
    -------
    rows of collection, id, and why: the reason the view cannot be made, else the reason of the
    last build that tried it and that build's name, else `not embedded`; where segments are left
    out, that it may stand in one of them

    Raises
    ------
    MissingRecipe, MissingCollection, DamagedSegment, NewerFormat
    """
    reader = store.recipe(backbone)
    view = reader.recipe.view
    failed = past_failures(store, reader.name)
    absent = "not embedded"
    if reader.left_out:
        absent = f"not embedded, or left out with a segment: {reader.left_out[0].problem}"
    rows = []
    if collection is None:
        found, lost = read_collections(store)
        if lost and left_out is None:
            raise next(iter(lost.values()))
        if left_out is not None:
            left_out.extend(lost.values())
    else:
        found = [store.collection(collection)]
    for each in found:
        keys = each.keys(view)
        there = [key for key in keys if key is not None]
        stored = {key for key, has in zip(there, reader.has(there), strict=True) if has}
        for record, key in zip(each.records(), keys, strict=True):
            if key in stored:
                continue
            why = str(failed[key]) if key in failed else absent
            try:
                record.view(view)
            except Unreadable as error:
                why = f"{error.reason}: {error.detail}"
            rows.append({"collection": each.name, "id": record.id, "why": why})
    return rows


def missing_hints(store: Store, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What would bring in the records that are no reading frames, a sentence a cause.

    Parameters
    ----------
    rows : of `missing_records`
    """
    found = []
    for name in dict.fromkeys(row["collection"] for row in rows):
        failed = [
            row["id"]
            for row in rows
            if row["collection"] == name and row["why"].partition(":")[0] in FRAME
        ]
        if failed:
            found += [f"{name}: {each}" for each in hints(store.collection(name).records(), failed)]
    return found
