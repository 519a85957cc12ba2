"""The store as a server reads it: readers and collections kept open until they change on disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from threading import Lock

from embedstore import Collection, Recipe, RecipeReader, Store
from embedstore.errors import DamagedSegment, MissingCollection, MissingRecord
from embedstore.store.collection import key_column
from embedstore.store.collection_files import document_path, old_path
from embedstore.store.objects import ObjectPath, Place, unless_damage
from embedstore.store.record_lookup import RecordLookup

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 20
"""How long what a bucket was seen to hold is taken for true."""

Stamp = tuple[int, int, int] | None

TICK = 50_000_000
"""Nanoseconds; no clock of a file system is coarser, but for those that count whole seconds."""


class Catalogue:
    """Readers and collections by name. What other processes publish is seen; threads share it.

    Names are looked up in the store's own lists, never joined to a path.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = Lock()
        self._recipes = _Listing(store.recipes, store.folder / "recipes", nested=True)
        self._found: tuple[object, dict[str, Recipe]] = (None, {})
        self._collection_names = _Listing(store.collections, store.folder / "collections")
        self._readers: dict[str, tuple[Stamp, RecipeReader]] = {}
        self._collections: dict[str, tuple[list[Stamp], Collection]] = {}
        self._lookups: dict[tuple[str, str], RecordLookup] = {}

    def recipes(self) -> list[str]:
        """Folder names of all recipes, sorted."""
        return self._recipes.read()

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        return self._collection_names.read()

    def recipe(self, name: str) -> Recipe:
        """A recipe, by folder name or, where only one has it, by backbone.

        Raises
        ------
        MissingRecipe, DamagedSegment
        """
        known = self._recipes.read()  # the same object as long as nothing has changed
        of, found = self._found
        if of is not known:
            found = {}
            self._found = (known, found)
        recipe = found.get(name)
        if recipe is None:
            recipe = found[name] = self.store.find_recipe(name)
        return recipe

    def reader(self, name: str) -> RecipeReader:
        """The reader of a recipe, by folder name or, where only one has it, by backbone.

        Raises
        ------
        MissingRecipe, DamagedSegment
        """
        name = self.recipe(name).name
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
        MissingCollection, DamagedSegment, NewerFormat
        """
        there = name in self.collections()
        stamps = [stamp_of(path) for path in self._files_of(name)] if there else []
        held = self._collections.get(name)
        if there and held is not None and held[0] == stamps:
            return held[1]
        with self._lock:
            try:
                held = self._collections[name] = (stamps, self.store.collection(name))
            except DamagedSegment as error:  # whose message names a path
                log.error("%s", error)
                raise DamagedSegment(
                    f"Collection {name!r} is damaged.", "Its server's log says how to mend it."
                ) from error
            return held[1]

    def _files_of(self, name: str) -> list[Place]:
        """The files of which one changes whenever a collection does; no table is among them."""
        root = self.store.folder
        return [document_path(root, name), old_path(root, name)]

    def watch(
        self, name: str, key: str, collection: str | None, file: str
    ) -> list[tuple[Place, Stamp]]:
        """Stamps of everything that decides the embedding of a key, or of a record with it.

        Parameters
        ----------
        file : of the segment, that the embedding is read from

        Raises
        ------
        MissingRecipe, MissingEmbedding, DamagedSegment
        """
        folder = self.store.recipe_folder(self.recipe(name).name) / "segments"
        paths = self._recipes.watched()
        if collection is not None:
            paths += self._files_of(collection)
        paths.append(folder)
        stamps = [(path, stamp_of(path)) for path in paths]
        path = folder / self.reader(name).info(key).segment / file
        return [*stamps, (path, stamp_of(path))]

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
        for name in self.collections():
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


class _Listing:
    """Names in a folder, listed again only when the folder, or one that a name has, changed."""

    def __init__(
        self,
        names: Callable[[], list[str]],
        folder: Place,
        *,
        nested: bool = False,
    ) -> None:
        self._names, self._folder, self._nested = names, folder, nested
        self._held: tuple[list[Stamp], list[str], list[Place]] | None = None

    def watched(self) -> list[Place]:
        """The folders that decide the names."""
        self.read()
        held = self._held
        return [self._folder, *self._below()] if held is None else list(held[2])

    def read(self) -> list[str]:
        """The names; the same list as before where nothing has changed."""
        held = self._held
        if held is not None and [stamp_of(path) for path in held[2]] == held[0]:
            return held[1]
        began = time.time_ns()
        folders = [self._folder, *self._below()]
        stamps = [stamp_of(path) for path in folders]
        names = self._names()
        if held is not None and names == held[1]:
            names = held[1]
        newest = max((stamp[0] for stamp in stamps if stamp is not None), default=0)
        # a folder that changes twice within a tick of its clock keeps its stamp
        self._held = (stamps, names, folders) if newest < began - TICK else None
        return names

    def _below(self) -> list[Place]:
        """Folders that names have, also those without one yet, who may get it any time."""
        return sorted(self._folder.glob("[!.]*/")) if self._nested else []


def stamp_of(path: Place) -> Stamp:
    """What changes when a file or folder is replaced or a folder gains an entry; None: absent.

    A bucket tells no such thing at once: there it changes with time.
    """
    if isinstance(path, ObjectPath):
        return int(time.monotonic() // LOOK_AGAIN_SECONDS), 0, 0
    try:
        status = os.stat(path)  # noqa: PTH116  # on the way of every request
    except OSError as error:
        unless_damage(error, path)
        return None
    return status.st_mtime_ns, status.st_ino, status.st_nlink
