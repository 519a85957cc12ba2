"""The store: a folder of collections and recipes. A path in, collections and readers out."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from embedstore.documents import BadDocument, NewerDocument
from embedstore.errors import (
    BadInput,
    CollectionConflict,
    DamagedSegment,
    MissingCollection,
    MissingRecipe,
    MissingRecord,
    NewerFormat,
    NotAStore,
)
from embedstore.store.collection import Collection
from embedstore.store.collection_changes import find_loss
from embedstore.store.collection_files import NOTHING, is_name, list_collections, read_collection
from embedstore.store.collection_table import BadTable, check_table
from embedstore.store.collection_writing import NewTable
from embedstore.store.files import write_atomically
from embedstore.store.marker import (
    MARKER,
    MEND_MARKER,
    MOST_MARKER_BYTES,
    STORE_FORMAT,
    marker_content,
    parse_marker,
)
from embedstore.store.objects import (
    ObjectPath,
    Place,
    locate,
    matching,
    may_exist,
    names_in,
    read_in,
    unless_damage,
)
from embedstore.store.reader import RecipeReader
from embedstore.store.recipe import MOST_BYTES, RECIPE_NAME, RESTORE, Recipe
from embedstore.store.segment import SEGMENT_NAME


def open_store(path: str | Place) -> Store:
    """Open an existing store for reading; writes nothing.

    Parameters
    ----------
    path : a folder, or a bucket's: `s3://bucket/genes.store`; see `objects.locate`

    Raises
    ------
    BadInput
        The URL cannot be one of a store.
    Unreachable
        The bucket does not answer.
    NotAStore
        The folder is not there or holds no store.
    NewerFormat
        A later version wrote it.
    """
    store = Store(locate(path))
    store.read_marker()
    return store


def open_damaged_store(path: str | Place) -> Store:
    """Open a store to check or mend it, though its `store.json` be lost or damaged.

    Raises
    ------
    BadInput, Unreachable, NewerFormat
    NotAStore
        Nothing of a store is in the folder.
    """
    store = Store(locate(path))
    try:
        store.read_marker()
    except NotAStore:
        parts = ("recipes/*/recipe.json", "recipes/*/segments", "collections/*")
        if not any(matching(store.folder, part) for part in parts):
            raise
    return store


def create_store(path: str | Place) -> Store:
    """Open a store; where the folder is missing or empty, the first write makes it.

    Raises
    ------
    NotAStore
        The folder holds other files.
    """
    folder = locate(path)
    marker = folder / MARKER
    if marker.is_file():
        return open_store(folder)
    foreign = isinstance(folder, Path) and folder.exists() and not folder.is_dir()
    if folder.is_dir():  # another build may be making it a store at this moment
        names = [name for name in names_in(folder) if not name.startswith(f".{MARKER}.")]
        if MARKER in names:  # made a moment ago, or no file
            return open_store(folder)
        foreign = bool(names)
    if foreign:
        raise NotAStore(
            f"{str(folder)!r} exists and is not a store.",
            "Give --store a new folder, so that nothing of yours is touched.",
        )
    return Store(folder)


class Store:
    """A store that was opened; nothing is cached, so what others publish is seen."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def read_marker(self) -> int:
        """The format number in `store.json`.

        Raises
        ------
        NotAStore, NewerFormat, Unreachable
        """
        path = self.folder / MARKER
        try:
            return parse_marker(read_in(self.folder, path, most=MOST_MARKER_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            raise NotAStore(
                f"{str(self.folder)!r} is not a store: it has no {MARKER}.",
                "Check the path, or make a store with `embedstore build`.",
            ) from None
        except PermissionError as error:
            raise NotAStore(
                f"{str(path)!r} may not be read.",
                "Ask its owner for the right to read the store.",
            ) from error
        except NewerDocument as error:
            raise NewerFormat(
                f"{str(path)!r} is of a later version: {error}.", "Install a newer embedstore."
            ) from None
        except BadDocument as error:
            raise NotAStore(f"{str(path)!r} is damaged: {error}.", MEND_MARKER) from error
        except OSError as error:
            unless_damage(error, path)
            raise NotAStore(
                f"{str(path)!r} cannot be read ({error.strerror}).", MEND_MARKER
            ) from error

    def write_marker(self) -> None:
        """Write `store.json` anew, of the newest format."""
        write_atomically(self.folder / MARKER, marker_content(), within=self.folder)

    def collections(self) -> list[str]:
        """Names of all collections, sorted.

        Raises
        ------
        DamagedSegment
            Something else stands in the place of their folder.
        """
        return list_collections(self.folder).names

    def collection(self, name: str) -> Collection:
        """One collection; every byte of it is checked.

        Raises
        ------
        MissingCollection
            Lists the names there are.
        DamagedSegment
            Names the file, and what is wrong with it.
        NewerFormat
            A later version wrote it.
        """
        listing = list_collections(self.folder)
        stored = read_collection(self.folder, name) if is_name(name) else None
        if stored is None:
            known = ", ".join(listing.names) or "none yet"
            orphan = next(iter(listing.tables.get(name, [])), None)
            why = f": collections/{orphan} is there, and no {name}.json that names it"
            raise MissingCollection(
                f"The store has no collection {name!r}{why if orphan else ''}.",
                f"Collections: {known}.",
            )
        return Collection(name, stored.table)

    def write_collection(self, name: str, table: pa.Table, *, replace: bool = False) -> bool:
        """Keep a table under a name.

        Where another process writes the same collection meanwhile, the table is compared with what
        that one wrote.

        Returns
        -------
        False where the very same table was there.

        Raises
        ------
        BadInput
            The name cannot be that of a collection, or the table is none.
        CollectionConflict
            A record, label or column of the old table would change or go, and `replace` was not
            asked for; names the first id, column, old and new value.
        DamagedSegment
            The old table cannot be read.
        """
        _check_name(name)
        try:
            check_table(table)
        except BadTable as error:
            raise BadInput(
                f"Collection {name!r} cannot be written: {error}.", "Make it with `make_table`."
            ) from error
        written: NewTable | None = None
        try:
            while True:
                stored = read_collection(self.folder, name)
                if stored is not None:
                    if not replace:
                        _check_loss(name, stored.table, table)
                    if stored.table.equals(table):
                        return False
                self._begin()
                written = written or NewTable(self.folder, name, table)
                if written.publish(NOTHING if stored is None else stored.state):
                    return True
        finally:
            if written is not None:
                written.drop()

    def check_collection(self, name: str, table: pa.Table, *, replace: bool = False) -> None:
        """Raise what `write_collection` would raise, writing nothing.

        A table that holds every old record and value may take the place of the old one: rows,
        columns and values may be added, but none may change or go.
        """
        _check_name(name)
        stored = read_collection(self.folder, name)
        if stored is not None and not replace:
            _check_loss(name, stored.table, table)

    def recipes(self) -> list[str]:
        """Folder names of all recipes, sorted; also of one that has segments and lost its document.

        Raises
        ------
        DamagedSegment
            Something else stands in the place of their folder.
        Unreachable
        """
        names = names_in(self.folder / "recipes", self.folder)
        folders = (self.recipe_folder(name) for name in names if RECIPE_NAME.fullmatch(name))
        parts = ("recipe.json", "segments")
        return [
            folder.name for folder in folders if any(may_exist(folder / part) for part in parts)
        ]

    def find_recipe(self, name: str) -> Recipe:
        """The recipe of a folder name, or the only one of a backbone.

        Raises
        ------
        MissingRecipe
            None, or several of that backbone; the names are listed.
        DamagedSegment, NewerFormat, Unreachable
        """
        return self.read_recipe(self.recipe_name(name))

    def recipe_name(self, name: str) -> str:
        """Folder name of a recipe, by itself or by the backbone that only one has; reads no file.

        Raises
        ------
        MissingRecipe, Unreachable
        """
        known = self.recipes()
        if name not in known:
            # by the folders' names alone: a damaged recipe is no reason to refuse another
            matches = [each for each in known if each.rpartition("-")[0] == name]
            if len(matches) > 1:
                raise MissingRecipe(
                    f"The store has {len(matches)} recipes of {name!r}.",
                    f"Name one: {', '.join(matches)}.",
                )
            if not matches:
                raise MissingRecipe(
                    f"Nothing in the store was embedded with {name!r}.",
                    f"Recipes: {', '.join(known) or 'none yet'}. "
                    f"`embedstore build` with --backbone {name} makes it.",
                )
            name = matches[0]
        return name

    def read_recipe(self, folder: str) -> Recipe:
        """The recipe of a folder name.

        Raises
        ------
        DamagedSegment
            Its document is gone or is not that of the folder.
        NewerFormat
            A later version wrote it.
        """
        path = self.recipe_folder(folder) / "recipe.json"
        try:
            text = read_in(self.folder, path, most=MOST_BYTES)
        except OSError as error:
            unless_damage(error, path)
            raise DamagedSegment(
                f"recipes/{folder}/recipe.json cannot be read ({error.strerror}).", RESTORE
            ) from error
        return Recipe.parse(text, folder)

    def recipe(self, name: str, *, verify: bool = True) -> RecipeReader:
        """A reader of one recipe, by folder name or, where only one has it, by backbone.

        Parameters
        ----------
        verify : check every embedding against its checksum on reading

        Raises
        ------
        MissingRecipe, DamagedSegment
        """
        return RecipeReader(self, self.find_recipe(name), verify=verify)

    def write_recipe(self, recipe: Recipe) -> None:
        """Make the folder of a recipe, where it is not there."""
        self._begin()
        path = self.recipe_folder(recipe.name) / "recipe.json"
        if not path.is_file():
            write_atomically(path, recipe.canonical(), within=self.folder)
        self.read_recipe(recipe.name)

    def recipe_folder(self, name: str) -> Place:
        """Folder of a recipe."""
        return self.folder / "recipes" / name

    def segment_names(self, recipe: str) -> list[str]:
        """Published segments of a recipe, sorted: one listing, in which nothing is opened."""
        return [
            *filter(
                SEGMENT_NAME.fullmatch,
                names_in(self.recipe_folder(recipe) / "segments", self.folder),
            )
        ]

    def segment_folders(self, recipe: str) -> list[Place]:
        """Folders of the published segments of a recipe, sorted by name."""
        folder = self.recipe_folder(recipe) / "segments"
        return [folder / name for name in self.segment_names(recipe)]

    def find_key(self, record_id: str, view: str, collection: str | None = None) -> str:
        """Key of one view of a record.

        Raises
        ------
        MissingRecord
            No collection has the id, or collections have it with different sequences, or the
            record has no such view.
        DamagedSegment
            The collection, or where none is named any, cannot be read.
        """
        names = self.collections() if collection is None else [collection]
        found: dict[str | None, str] = {}
        for name in names:
            try:
                each = self.collection(name)
            except DamagedSegment as error:
                if collection is not None:
                    raise
                hint = "Others can be asked by name with --collection."
                raise DamagedSegment(error.problem, f"{error.fix} {hint}") from error
            row = each.row_of.get(record_id)
            if row is not None:
                found.setdefault(each.keys(view)[row], name)
        if not found:
            where = f"Collection {collection!r}" if collection else "No collection"
            verb = "has no" if collection else "has a"
            raise MissingRecord(
                f"{where} {verb} record {record_id!r}.", "`embedstore ls STORE NAME` lists the ids."
            )
        if len(found) > 1:
            raise MissingRecord(
                f"{record_id!r} stands for different sequences in {', '.join(found.values())}.",
                "Say which with --collection.",
            )
        key = next(iter(found))
        if key is None:
            raise MissingRecord(
                f"Record {record_id!r} has no {view} view.",
                "`embedstore missing` tells why; a build skipped it.",
            )
        return key

    def _begin(self) -> None:
        """Make the folder a store of the newest format, so that older versions leave it alone."""
        path = self.folder / MARKER
        there = path.is_file() if isinstance(path, ObjectPath) else os.path.lexists(path)
        if not there or self.read_marker() < STORE_FORMAT:
            self.write_marker()


def _check_name(name: str) -> None:
    if not is_name(name):
        raise BadInput(
            f"{name!r} cannot name a collection.",
            "Use letters, digits, '.', '_' and '-' in --name, and no 32 hex digits behind a dot at "
            "its end.",
        )


def _check_loss(name: str, old: pa.Table, new: pa.Table) -> None:
    lost = find_loss(old, new)
    if lost is not None:
        raise CollectionConflict(
            f"The store has another collection {name!r} ({lost}).",
            "Give the new one its own --name, or say --replace to drop the old table "
            "(embeddings are kept).",
        )
