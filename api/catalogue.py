"""The store as a server reads it: readers and collections kept open until they change on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from threading import Lock

from embedstore import Collection, RecipeReader, Store
from embedstore.errors import DamagedSegment, MissingCollection, MissingRecord
from embedstore.store.collection import key_column
from embedstore.store.objects import ObjectPath, Place
from embedstore.store.record_lookup import RecordLookup

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 20
"""How long what a bucket was seen to hold is taken for true."""

Stamp = tuple[int, int, int] | None


class Catalogue:
    """Readers and collections by name. What other processes publish is seen; threads share it.

    Names are looked up in the store's own lists, never joined to a path.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = Lock()
        self._recipes: dict[str, tuple[list[str], str]] = {}
        self._readers: dict[str, tuple[Stamp, RecipeReader]] = {}
        self._collections: dict[str, tuple[Stamp, Collection]] = {}
        self._lookups: dict[tuple[str, str], RecordLookup] = {}

    def reader(self, name: str) -> RecipeReader:
        """The reader of a recipe, by folder name or, where only one has it, by backbone.

        Raises
        ------
        MissingRecipe, DamagedSegment
        """
        name = self._recipe_name(name)
        # publishing a segment moves a folder in here, which changes the stamp
        stamp = stamp_of(self.store.recipe_folder(name) / "segments")
        held = self._readers.get(name)
        if held is not None and held[0] == stamp:
            return held[1]
        with self._lock:
            held = self._readers.get(name)
            if held is None or held[0] != stamp:
                held = self._readers[name] = (stamp, self.store.recipe(name))
            return held[1]

    def collection(self, name: str) -> Collection:
        """A collection.

        Raises
        ------
        MissingCollection, DamagedSegment
        """
        there = name in self.store.collections()
        stamp = stamp_of(self.store.folder / "collections" / f"{name}.parquet") if there else None
        held = self._collections.get(name)
        if there and held is not None and held[0] == stamp:
            return held[1]
        with self._lock:
            try:
                held = self._collections[name] = (stamp, self.store.collection(name))
            except DamagedSegment as error:  # whose message names a path
                log.error("%s", error)
                raise DamagedSegment(
                    f"Collection {name!r} is damaged.", "Its server's log says how to mend it."
                ) from error
            return held[1]

    def key(self, collection: str, record_id: str, view: str) -> str:
        """Key of one view of a record.

        Raises
        ------
        MissingCollection
        MissingRecord
            No such id, or the record has no such view.
        """
        found = self.collection(collection)
        row = found.row_of.get(record_id)
        if row is None:
            raise MissingRecord(
                f"Collection {collection!r} has no record {record_id!r}.",
                "Ids are those of the input, percent-encoded in the path.",
            )
        key: str | None = found.table.column(key_column(view))[row].as_py()
        if key is None:
            raise MissingRecord(
                f"Record {record_id!r} has no {view} view.",
                "Ask for a backbone that reads another; `embedstore missing` tells why.",
            )
        return key

    def records_of(self, keys: Sequence[str], view: str) -> list[list[tuple[str, str]]]:
        """Collection and id of every record with each key of a view.

        Raises
        ------
        DamagedSegment
            A collection cannot be read.
        """
        found: list[list[tuple[str, str]]] = [[] for _ in keys]
        for name in self.store.collections():
            try:
                lookup = self._lookup(name, view)
            except MissingCollection:
                continue  # removed since it was listed
            for mine, ids in zip(found, lookup.find(keys), strict=True):
                mine += [(name, id) for id in ids]
        return found

    def _lookup(self, name: str, view: str) -> RecordLookup:
        collection = self.collection(name)
        held = self._lookups.get((name, view))
        if held is None or held.collection is not collection:
            held = self._lookups[name, view] = RecordLookup(collection, view)
        return held

    def _recipe_name(self, name: str) -> str:
        """Folder name of a recipe; recipes are read again only when their list has changed."""
        known = self.store.recipes()
        held = self._recipes.get(name)
        if held is None or held[0] != known:
            held = self._recipes[name] = (known, self.store.find_recipe(name).name)
        return held[1]


def stamp_of(path: Place) -> Stamp:
    """What changes when a file or folder is replaced or a folder gains an entry; None: absent.

    A bucket tells no such thing at once: there it changes with time.
    """
    if isinstance(path, ObjectPath):
        return int(time.monotonic() // LOOK_AGAIN_SECONDS), 0, 0
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_nlink
