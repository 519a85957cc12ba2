"""The store: a folder of collections and recipes. A path in, collections and readers out."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from embedstore.errors import (
    BadInput,
    CollectionConflict,
    DamagedSegment,
    MissingCollection,
    MissingRecipe,
    MissingRecord,
    NewerFormat,
    NotAStore,
    StoreError,
)
from embedstore.store.collection import Collection
from embedstore.store.collection_changes import find_loss
from embedstore.store.files import write_atomically
from embedstore.store.objects import (
    ObjectPath,
    Place,
    locate,
    matching,
    names_in,
    unless_damage,
)
from embedstore.store.reader import RecipeReader
from embedstore.store.recipe import RESTORE, Recipe
from embedstore.store.segment import SEGMENT_NAME

STORE_FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
    folder = locate(path)
    try:
        document = json.loads((folder / "store.json").read_bytes())
        version = int(document["format"])
    except StoreError:  # some are ValueErrors too
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise NotAStore(
            f"{str(folder)!r} is not a store: it has no store.json.",
            "Check the path, or make a store with `embedstore build`.",
        ) from None
    except PermissionError:
        raise NotAStore(
            f"{str(folder / 'store.json')!r} may not be read.",
            "Ask its owner for the right to read the store.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError):
            unless_damage(error, folder / "store.json")
        raise NotAStore(
            f"{str(folder / 'store.json')!r} is unreadable: {error!r}.",
            'Restore it: the whole file is {"format": 1}.',
        ) from error
    if version > STORE_FORMAT:
        raise NewerFormat(
            f"{str(folder)!r} has store format {version}; this version reads {STORE_FORMAT}.",
            "Install a newer embedstore.",
        )
    return Store(folder)


def create_store(path: str | Place) -> Store:
    """Open a store; where the folder is missing or empty, the first write makes it.

    Raises
    ------
    NotAStore
        The folder holds other files.
    """
    folder = locate(path)
    marker = folder / "store.json"
    if marker.is_file():
        return open_store(folder)
    foreign = isinstance(folder, Path) and folder.exists() and not folder.is_dir()
    if folder.is_dir():  # another build may be making it a store at this moment
        names = [name for name in names_in(folder) if not name.startswith(".store.json.")]
        foreign = bool(names) and not marker.is_file()
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

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        found = matching(self.folder / "collections", "[!.]*.parquet")
        return sorted(path.stem for path in found)

    def collection(self, name: str) -> Collection:
        """One collection.

        Raises
        ------
        MissingCollection
            Lists the names there are.
        """
        if name not in self.collections():
            known = ", ".join(self.collections()) or "none yet"
            raise MissingCollection(
                f"The store has no collection {name!r}.", f"Collections: {known}."
            )
        path = self._collection_path(name)
        try:
            source = pa.BufferReader(path.read_bytes()) if isinstance(path, ObjectPath) else path
            return Collection(name, parquet.read_table(source, page_checksum_verification=True))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError):
                unless_damage(error, path)
            raise DamagedSegment(
                f"collections/{path.name} is damaged: {error}.",
                "Remove the file and build the input again; embeddings are kept.",
            ) from error

    def write_collection(self, name: str, table: pa.Table, *, replace: bool = False) -> bool:
        """Keep a table under a name.

        Returns
        -------
        False where the very same table was there.

        Raises
        ------
        BadInput
            The name cannot be a file name.
        CollectionConflict
            A record, label or column of the old table would change or go, and `replace` was not
            asked for; names the first id, column, old and new value.
        """
        self.check_collection(name, table, replace=replace)
        if name in self.collections() and self.collection(name).table.equals(table):
            return False
        self._begin()
        sink = io.BytesIO()
        parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
        write_atomically(self._collection_path(name), sink.getvalue())
        return True

    def check_collection(self, name: str, table: pa.Table, *, replace: bool = False) -> None:
        """Raise what `write_collection` would raise, writing nothing.

        A table that holds every old record and value may take the place of the old one: rows,
        columns and values may be added, but none may change or go.
        """
        if not NAME.fullmatch(name):
            raise BadInput(
                f"{name!r} cannot name a collection.",
                "Use letters, digits, '.', '_' and '-' in --name.",
            )
        if replace or name not in self.collections():
            return
        lost = find_loss(self.collection(name).table, table)
        if lost is not None:
            raise CollectionConflict(
                f"The store has another collection {name!r} ({lost}).",
                "Give the new one its own --name, or say --replace to drop the old table "
                "(embeddings are kept).",
            )

    def recipes(self) -> list[str]:
        """Folder names of all recipes, sorted."""
        return sorted(path.parent.name for path in matching(self.folder, "recipes/*/recipe.json"))

    def find_recipe(self, name: str) -> Recipe:
        """The recipe of a folder name, or the only one of a backbone.

        Raises
        ------
        MissingRecipe
            None, or several of that backbone; the names are listed.
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
        return self.read_recipe(name)

    def read_recipe(self, folder: str) -> Recipe:
        """The recipe of a folder name.

        Raises
        ------
        DamagedSegment
            Its document is gone or is not that of the folder.
        NewerFormat
            A later version wrote it.
        """
        try:
            text = (self.recipe_folder(folder) / "recipe.json").read_bytes()
        except OSError as error:
            unless_damage(error, self.recipe_folder(folder) / "recipe.json")
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
            write_atomically(path, recipe.canonical())
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
        """
        names = self.collections() if collection is None else [collection]
        found: dict[str | None, str] = {}
        for name in names:
            each = self.collection(name)
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
        """Make the folder a store, if it is none yet."""
        if not (self.folder / "store.json").is_file():
            document = json.dumps({"format": STORE_FORMAT})
            write_atomically(self.folder / "store.json", document.encode())

    def _collection_path(self, name: str) -> Place:
        return self.folder / "collections" / f"{name}.parquet"
