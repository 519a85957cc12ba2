"""Which records of the store lack an embedding, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedstore.build.hints import hints
from embedstore.dogma import FRAME, Unreadable
from embedstore.store import Store
from embedstore.store.failures import past_failures


def missing_records(
    store: Store, backbone: str, collection: str | None = None
) -> list[dict[str, str]]:
    """Records without an embedding by one recipe.

    Parameters
    ----------
    backbone : backbone or recipe folder
    collection : one collection; None: all

    Returns
    -------
    rows of collection, id, and why: the reason the view cannot be made, else the reason of the
    last build that tried it and that build's name, else `not embedded`; where segments are left
    out, that it may stand in one of them

    Raises
    ------
    MissingRecipe, MissingCollection
    """
    reader = store.recipe(backbone)
    view = reader.recipe.view
    failed = past_failures(store, reader.name)
    absent = "not embedded"
    if reader.left_out:
        absent = f"not embedded, or left out with a segment: {reader.left_out[0].problem}"
    rows = []
    for name in store.collections() if collection is None else [collection]:
        each = store.collection(name)
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
            rows.append({"collection": name, "id": record.id, "why": why})
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
