"""Which records of the store lack an embedding, and why."""

from __future__ import annotations

from embedstore.build.failures import past_failures
from embedstore.dogma import Unreadable, view_of
from embedstore.store import Store


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
    last build that tried it and that build's name, else `not embedded`

    Raises
    ------
    MissingRecipe, MissingCollection
    """
    reader = store.recipe(backbone)
    view = reader.recipe.view
    failed = past_failures(store, reader.name)
    rows = []
    for name in store.collections() if collection is None else [collection]:
        each = store.collection(name)
        keys = each.keys(view)
        there = [key for key in keys if key is not None]
        stored = {key for key, has in zip(there, reader.has(there), strict=True) if has}
        for record, key in zip(each.records(), keys, strict=True):
            if key in stored:
                continue
            why = str(failed[key]) if key in failed else "not embedded"
            try:
                view_of(record.sequence, record.molecule, view)
            except Unreadable as error:
                why = f"{error.reason}: {error.detail}"
            rows.append({"collection": name, "id": record.id, "why": why})
    return rows
