"""Collections that are damaged: a store in, what is wrong out, and each set aside or mended.

Nothing is deleted: the files of a damaged collection are moved to `collections/quarantine/`, with a
note of what is wrong. A document that was lost or damaged is written anew where its one table file
is whole, which the digest in the file's name proves.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.dogma import VIEWS
from embedstore.errors import DamagedSegment, NewerFormat, StoreError, Unreachable
from embedstore.store.collection import Collection, key_column, make_table
from embedstore.store.collection_files import (
    FOLDER,
    QUARANTINE,
    TABLE_NAME,
    Listing,
    digest_of,
    document_path,
    folder_of,
    is_name,
    list_collections,
    read_collection,
    read_state,
    table_path,
)
from embedstore.store.collection_table import BadTable, decode_table
from embedstore.store.collection_writing import locked, make_document
from embedstore.store.files import (
    DRAFT_SUFFIX,
    move_away,
    sync_folder,
    write_atomically,
    writing_to,
)
from embedstore.store.objects import (
    ObjectPath,
    Place,
    names_in,
    read_in,
    size_of,
    unless_damage,
)

log = logging.getLogger(__name__)

Draw = Callable[[int], "NDArray[np.int64] | None"]
"""Rows to check of so many; None: all."""


@dataclass
class CollectionsReport:
    """What stands in the folder of the collections."""

    names: list[str] = field(default_factory=list)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """Path below the store's folder, what is wrong, and the code of that error."""
    leftovers: list[str] = field(default_factory=list)
    """Paths below the store's folder that no reader looks at."""


def check_collections(root: Place, draw: Draw = lambda count: None) -> CollectionsReport:
    """Check every collection, whatever is wrong with others.

    Parameters
    ----------
    root : folder of the store
    draw : which rows' keys are made again; everything else is checked whole

    Raises
    ------
    Unreachable
    """
    report = CollectionsReport()
    try:
        listing = list_collections(root)
    except DamagedSegment as error:
        report.problems.append((FOLDER, error.problem, error.code))
        return report
    report.names.extend(listing.names)
    report.problems += [
        (f"{FOLDER}/{entry}", "no collection can have this name", DamagedSegment.code)
        for entry in listing.misnamed
    ]
    for name in listing.names:
        where = _where(root, name)
        try:
            found = check_collection(root, name, draw)
        except (NewerFormat, Unreachable) as error:
            report.problems.append((where, error.problem, error.code))
            continue
        report.problems += [(where, what, DamagedSegment.code) for what in found]
    report.leftovers += [f"{FOLDER}/{entry}" for entry in listing.others]
    report.leftovers += [f"{FOLDER}/{each.name}" for each in orphaned_tables(root, listing)]
    report.leftovers += [
        f"{FOLDER}/{entry}"
        for entry in names_in(folder_of(root))
        if entry.startswith(".") and entry.endswith(DRAFT_SUFFIX)
    ]
    return report


def check_collection(root: Place, name: str, draw: Draw = lambda count: None) -> list[str]:
    """What is wrong with a collection: its files, its table, or keys that are not its sequences'.

    Raises
    ------
    NewerFormat, Unreachable
    """
    try:
        stored = read_collection(root, name)
        if stored is None:
            return []  # removed since it was listed
        rows = draw(len(stored.table))
        table = stored.table if rows is None else stored.table.take(rows)
        made = make_table(Collection(name, table).records(), table.select([]))
    except (NewerFormat, Unreachable):
        raise
    except (StoreError, ValueError, KeyError, TypeError) as error:
        return [error.problem if isinstance(error, StoreError) else str(error)]
    columns = map(key_column, VIEWS)
    return [
        f"{column} is not that of the sequences"
        for column in columns
        if made.column(column).to_pylist() != table.column(column).to_pylist()
    ]


def orphaned_tables(root: Place, listing: Listing | None = None) -> Iterator[Place]:
    """Table files that no document names: of killed writers, or of what was replaced.

    Where a document cannot be read, none is taken for one.

    Raises
    ------
    Unreachable
    """
    if listing is None:
        try:
            listing = list_collections(root)
        except DamagedSegment:
            return
    for name, tables in listing.tables.items():
        try:
            _, document = read_state(root, name)
        except (DamagedSegment, NewerFormat):
            continue
        for entry in tables:
            if document is None or entry != f"{name}.{document.table.digest}.parquet":
                yield folder_of(root) / entry


def stale_tables(root: Place) -> Iterator[Place]:
    """Orphaned table files that are just what their names say: no writer of ours makes others.

    Raises
    ------
    Unreachable
    """
    for path in orphaned_tables(root):
        try:
            content = read_in(root, path, most=size_of(path))
        except OSError as error:
            unless_damage(error, path)
            continue
        if path.name.endswith(f".{digest_of(content)}.parquet"):
            yield path


def remove_orphan(root: Place, path: Place) -> bool:
    """Remove a table file, unless a document names it by now.

    Raises
    ------
    WriteFailed, Unreachable
    """
    with locked(root):
        if path not in orphaned_tables(root):
            return False
        if isinstance(path, ObjectPath):
            path.unlink()
        else:
            with writing_to(path):
                path.unlink(missing_ok=True)
    return True


@dataclass
class Mended:
    """What became of damaged collections."""

    restored: list[str] = field(default_factory=list)
    """Documents that were written anew."""
    quarantined: list[str] = field(default_factory=list)
    """Where the files of a collection lie now, below the store's folder."""
    left: list[tuple[str, str]] = field(default_factory=list)
    """Path and why nothing was done."""


def mend_collections(root: Place, problems: dict[str, list[str]]) -> Mended:
    """Write documents anew where that can be, and set the other damaged collections aside.

    Each is looked at again first; what is whole by now, or of a later version, stays.

    Parameters
    ----------
    problems : what is wrong, by path below the store's folder, as by `check_collections`

    Raises
    ------
    WriteFailed, Unreachable
    """
    mended = Mended()
    for where, what in problems.items():
        if where == FOLDER:
            _set_folder_aside(root, what, mended)
            continue
        entry = where.removeprefix(f"{FOLDER}/")
        name = entry.rpartition(".")[0]
        with locked(root):
            if not is_name(name):
                files = [each for each in names_in(folder_of(root)) if each == entry]
                mended.quarantined.append(_set_aside(root, name, files, what))
                continue
            try:
                read_state(root, name)
            except NewerFormat as error:
                mended.left.append((where, error.problem))
                continue
            except DamagedSegment:
                if _restore_document(root, name):
                    mended.restored.append(f"{FOLDER}/{name}.json")
                    what = check_collection(root, name)
            else:
                what = check_collection(root, name)
            if what:
                mended.quarantined.append(_set_aside(root, name, _files_of(root, name), what))
    return mended


def _where(root: Place, name: str) -> str:
    """Path of the file that a collection is known by."""
    path = document_path(root, name)
    there = path.exists() if isinstance(path, ObjectPath) else os.path.lexists(path)
    return f"{FOLDER}/{name}.json" if there else f"{FOLDER}/{name}.parquet"


def _files_of(root: Place, name: str) -> list[str]:
    """Names of a collection's files in the order in which they are taken away.

    A table of before goes first, which would be read where no document is.
    """
    entries = names_in(folder_of(root))
    found = {each: TABLE_NAME.fullmatch(each) for each in entries}
    tables = [each for each, parts in found.items() if parts and parts[1] == name]
    order = [f"{name}.parquet", f"{name}.json", *tables]
    return [each for each in order if each in entries]


def _restore_document(root: Place, name: str) -> bool:
    """Write a document anew from the table file, where there is one and it is whole."""
    tables = list_collections(root).tables.get(name, [])
    if len(tables) != 1:
        return False
    (entry,) = tables
    found = TABLE_NAME.fullmatch(entry)
    assert found is not None
    path = table_path(root, name, found[2])
    try:
        content = read_in(root, path, most=size_of(path))
        if digest_of(content) != found[2]:
            return False
        rows = len(decode_table(content))
    except OSError as error:
        unless_damage(error, path)
        return False
    except BadTable:
        return False
    document = document_path(root, name)
    if isinstance(document, Path) and document.is_dir() and not document.is_symlink():
        _set_aside(root, name, [document.name], ["a folder in the place of the document"])
    write_atomically(document, make_document(name, rows, content), within=root)
    log.info("%s/%s.json was restored from %s.", FOLDER, name, entry)
    return True


def _set_aside(root: Place, name: str, entries: list[str], what: list[str]) -> str:
    """Move files of a collection to a folder of their own in quarantine; tells which."""
    safe = name if is_name(name) else "misnamed"
    folder, new = folder_of(root), f"{safe}-{uuid.uuid4().hex[:8]}"
    aside = folder / QUARANTINE / new
    note = {
        "collection": name,
        "set_aside": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "problems": what,
    }
    write_atomically(
        aside.with_name(f"{new}.json"), json.dumps(note, indent=1).encode(), within=root
    )
    if isinstance(aside, Path):
        with writing_to(aside):
            aside.mkdir()
    for entry in entries:
        _move(folder / entry, aside / entry)
    if isinstance(folder, Path):
        with writing_to(folder):
            sync_folder(folder)
    log.info("Collection %s was set aside: %s.", name, "; ".join(what))
    return f"{FOLDER}/{QUARANTINE}/{new}"


def _move(path: Place, to: Place) -> None:
    if isinstance(path, ObjectPath):
        assert isinstance(to, ObjectPath)
        for each in [*([path] if path.is_file() else []), *(each for each, _ in path.below())]:
            rest = each.path.removeprefix(path.path)
            each.copy_to(to.with_name(f"{to.name}{rest}"))
            each.unlink()
        return
    assert isinstance(to, Path)
    with writing_to(path):
        move_away(path, to)


def _set_folder_aside(root: Place, what: list[str], mended: Mended) -> None:
    """Move what stands in the place of the folder of the collections."""
    folder = folder_of(root)
    if not isinstance(folder, Path):
        return
    try:
        list_collections(root)
    except DamagedSegment:
        aside = folder.with_name(f".{FOLDER}-{uuid.uuid4().hex[:8]}")
        with writing_to(folder):
            move_away(folder, aside)
        mended.quarantined.append(aside.name)
        log.info("%s was set aside: %s.", FOLDER, "; ".join(what))
