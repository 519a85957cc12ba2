"""What a store holds, in numbers: a store in, plain values for people and scripts out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from embedstore.store.drafts import find_unpublished
from embedstore.store.reader import RecipeReader
from embedstore.store.store import Store


def inventory(store: Store) -> dict[str, Any]:
    """Recipes, coverage of the collections, and where the segments come from.

    Returns
    -------
    `recipes`: counts, bytes, and the drafts and quarantined segments that no reader sees;
    `coverage`: for each collection and recipe the records with that view, and those embedded;
    `provenance`: for each recipe and way in which segments were made, how many and when.

    Raises
    ------
    DamagedSegment, NewerFormat
    """
    readers = [store.recipe(name) for name in store.recipes()]
    recipes = []
    for reader in readers:
        folder = store.recipe_folder(reader.name)
        drafts = find_unpublished(folder)
        aside = [path for path in folder.glob("quarantine/*") if path.is_dir()]
        recipes.append({**reader.describe(), "drafts": len(drafts), "quarantined": len(aside)})
    return {
        "recipes": recipes,
        "coverage": _coverage(store, readers),
        "provenance": [row for reader in readers for row in _provenance(reader)],
    }


def _coverage(store: Store, readers: list[RecipeReader]) -> list[dict[str, Any]]:
    rows = []
    for name in store.collections():
        collection = store.collection(name)
        for reader in readers:
            keys = [key for key in collection.keys(reader.recipe.view) if key is not None]
            rows.append(
                {
                    "collection": name,
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
