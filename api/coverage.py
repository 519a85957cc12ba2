"""How much of each collection each recipe covers; counted once, until either changes on disk."""

from __future__ import annotations

from threading import Lock

from api.catalogue import Catalogue
from api.page_schemas import CoverageRow
from embedstore import Collection, RecipeReader
from embedstore.errors import DamagedSegment, NewerFormat


class Coverage:
    """Counts by collection and recipe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = Lock()
        self._held: dict[tuple[str, str], tuple[Collection, RecipeReader, CoverageRow]] = {}

    def rows(self) -> list[CoverageRow]:
        """A row a collection and recipe; damage is told in its row and hides no other."""
        store = self._catalogue.store
        with self._lock:
            return [
                self._row(collection, recipe)
                for collection in store.collections()
                for recipe in store.recipes()
            ]

    def _row(self, collection: str, recipe: str) -> CoverageRow:
        try:
            found = self._catalogue.collection(collection)
            reader = self._catalogue.reader(recipe)
        except (DamagedSegment, NewerFormat) as error:
            return CoverageRow(
                collection=collection,
                recipe=recipe,
                **dict.fromkeys(("backbone", "view", "records", "with_view", "embedded")),
                problem=error.problem,
            )
        held = self._held.get((collection, recipe))
        if held is not None and held[0] is found and held[1] is reader:
            return held[2]
        keys = [key for key in found.keys(reader.recipe.view) if key is not None]
        row = CoverageRow(
            collection=collection,
            recipe=recipe,
            backbone=reader.recipe.backbone,
            view=reader.recipe.view,
            records=len(found),
            with_view=len(keys),
            embedded=int(reader.has(keys).sum()),
            problem=reader.left_out[0].problem if reader.left_out else None,
        )
        self._held[collection, recipe] = (found, reader, row)
        return row
