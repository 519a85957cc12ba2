"""What a store holds, in numbers: a store in, plain values for people and scripts out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from embedstore.errors import DamagedSegment, MissingCollection, NewerFormat, StoreError
from embedstore.store.collection import Collection
from embedstore.store.drafts import find_unpublished
from embedstore.store.reader import RecipeReader
from embedstore.store.store import Store


def inventory(store: Store) -> dict[str, Any]:
    """Recipes, coverage of the collections, and where the segments come from.

    Returns
    -------
    `recipes`: counts, bytes, and the drafts and quarantined segments that no reader sees;
    `coverage`: for each collection and recipe the records with that view, and those embedded;
    `provenance`: for each recipe and way in which segments were made, how many and when;
    `damaged`: kind, name, problem and fix of each recipe and collection that cannot be read, which
    is in none of the others.

    Raises
    ------
    Unreachable
    """
    damaged: list[dict[str, str]] = []
    readers = []
    for name in store.recipes():
        try:
            readers.append(store.recipe(name))
        except (DamagedSegment, NewerFormat) as error:
            damaged.append(_as_row("recipe", name, error))
    collections, lost = read_collections(store)
    damaged += [_as_row("collection", name, error) for name, error in lost.items()]
    recipes = []
    for reader in readers:
        folder = store.recipe_folder(reader.name)
        drafts = find_unpublished(folder)
        aside = [path for path in folder.glob("quarantine/*") if path.is_dir()]
        recipes.append({**reader.describe(), "drafts": len(drafts), "quarantined": len(aside)})
    return {
        "recipes": recipes,
        "coverage": _coverage(collections, readers),
        "provenance": [row for reader in readers for row in _provenance(reader)],
        "damaged": damaged,
    }


def _as_row(kind: str, name: str, error: StoreError) -> dict[str, str]:
    return {"kind": kind, "name": name, "problem": error.problem, "fix": error.fix}


def read_collections(store: Store) -> tuple[list[Collection], dict[str, StoreError]]:
    """Every collection that can be read, and why each of the others cannot, by name.

    Raises
    ------
    Unreachable
    """
    found, lost = [], dict[str, StoreError]()
    try:
        names = store.collections()
    except DamagedSegment as error:
        return [], {"collections": error}
    for name in names:
        try:
            found.append(store.collection(name))
        except MissingCollection:
            continue  # removed since it was listed
        except (DamagedSegment, NewerFormat) as error:
            lost[name] = error
    return found, lost


def _coverage(collections: list[Collection], readers: list[RecipeReader]) -> list[dict[str, Any]]:
    rows = []
    for collection in collections:
        for reader in readers:
            keys = [key for key in collection.keys(reader.recipe.view) if key is not None]
            rows.append(
                {
                    "collection": collection.name,
                    "recipe": reader.name,
                    "records": len(collection),
                    "with_view": len(keys),
                    "embedded": int(reader.has(keys).sum()),
                }
            )
    return rows


def _provenance(reader: RecipeReader) -> list[dict[str, Any]]:
    """Segments of one recipe by everything but the time they were made."""
    counts: Counter[str] = Counter()
    times: dict[str, list[str]] = {}
    for segment in reader.segments:
        made = dict(segment.document.get("provenance", {}))
        segment.forget()
        created = str(made.pop("created", ""))
        way = json.dumps(made, sort_keys=True)
        counts[way] += 1
        times.setdefault(way, []).append(created)
    return [
        {
            "recipe": reader.name,
            "segments": count,
            "first": min(times[way]),
            "last": max(times[way]),
            "made": json.loads(way),
        }
        for way, count in counts.most_common()
    ]
