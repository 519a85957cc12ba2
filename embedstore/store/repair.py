"""Setting what is damaged aside: a report of what is wrong in, the next build fills the gap.

No data are deleted: a segment is moved to `recipes/RECIPE/quarantine/`, with a note beside it, the
files of a collection to `collections/quarantine/`. A damaged `recipe.json` is replaced by the same
document out of a segment, where one has it, and `store.json` by a new one. Indexes, which are
derived, are removed. Whatever cannot be mended is named, and the rest is.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from embedstore.documents import BadDocument, parse_object
from embedstore.errors import NotWritable, StoreError, StoreFull, Unreachable
from embedstore.regular_files import check_within
from embedstore.store.collection_check import mend_collections
from embedstore.store.drafts import data_folder, set_aside
from embedstore.store.files import move_away, remove_tree, sync_folder, write_atomically, writing_to
from embedstore.store.marker import MARKER
from embedstore.store.objects import ObjectPath, Place, below, matching, read_in, unless_damage
from embedstore.store.recipe import Recipe
from embedstore.store.segment import SEGMENT_NAME
from embedstore.store.segment_document import DOCUMENT, GROUP, MOST_BYTES, parse_segment
from embedstore.store.store import Store
from embedstore.store.verify import UNCERTAIN, Problem, VerifyReport, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairReport:
    """What was mended or set aside, and what only a person can mend."""

    quarantined: list[str] = field(default_factory=list)
    """Where each damaged segment or failures file lies now, below the store's folder."""
    index_removed: list[str] = field(default_factory=list)
    """Indexes of keys or of neighbours that were wrong; they are made anew when next used."""
    recipes_restored: list[str] = field(default_factory=list)
    """Recipe documents that were written again, from a segment that has the same."""
    store_restored: list[str] = field(default_factory=list)
    """`store.json`, where it was written again."""
    collections_restored: list[str] = field(default_factory=list)
    """Documents of collections that were written again, from their table files."""
    collections_quarantined: list[str] = field(default_factory=list)
    """Where the files of each damaged collection lie now; its input must be built again."""
    left: list[Problem] = field(default_factory=list)
    """Damaged recipe documents, what is of a later version, and what could not be read or moved."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def repair(store: Store, found: VerifyReport | None = None) -> RepairReport:
    """Restore documents, then move every damaged segment out of the readers' sight.

    What could not be read at all, or is of a later version, is left as it is.

    Parameters
    ----------
    found : what `verify` told; None: the whole store is verified first

    Raises
    ------
    StoreFull, NotWritable
        Nothing can be written to the store.
    """
    found = found or verify(store)
    report = RepairReport()
    segments: dict[str, list[Problem]] = {}
    indexes: dict[str, list[Problem]] = {}
    collections: list[Problem] = []
    for problem in _after_restoring(store, found.problems, report):
        if problem.code in UNCERTAIN:
            report.left.append(problem)
        elif problem.kind in ("segment", "failures"):
            segments.setdefault(problem.where, []).append(problem)
        elif problem.kind in ("index", "neighbors"):
            indexes.setdefault(problem.where, []).append(problem)
        elif problem.kind == "collection":
            collections.append(problem)
        else:
            report.left.append(problem)
    for where, problems in segments.items():
        path = store.folder / where
        if not _is_there(path):  # a reader or another repair was first
            continue
        try:
            aside = quarantine(store, path, [problem.what for problem in problems])
        except (StoreFull, NotWritable):
            raise
        except StoreError as error:
            report.left.extend(_still(problems, error))
            continue
        report.quarantined.append(below(aside, store.folder))
    for where, problems in indexes.items():
        try:
            _remove(store.folder / where, store.folder)
        except (StoreFull, NotWritable):
            raise
        except StoreError as error:
            report.left.extend(_still(problems, error))
            continue
        report.index_removed.append(where)
    _mend_collections(store, collections, report)
    return report


def _after_restoring(
    store: Store, problems: list[Problem], report: RepairReport
) -> Iterator[Problem]:
    """The problems that are left once documents were written anew, those behind them too."""
    for problem in problems:
        try:
            if problem.code in UNCERTAIN:
                restored = False
            elif problem.kind == "store":
                _restore_marker(store)
                report.store_restored.append(problem.where)
                restored = True
            elif problem.kind == "recipe" and problem.where.endswith("/recipe.json"):
                name = problem.where.split("/")[1]
                restored = _restore_recipe(store, name)
                if restored:
                    report.recipes_restored.append(problem.where)
                    yield from verify(store, name).problems  # nothing of it could be read before
            else:
                restored = False
        except (StoreFull, NotWritable):
            raise
        except StoreError as error:
            yield from _still([problem], error)
            continue
        if not restored:
            yield problem


def _still(problems: list[Problem], error: StoreError) -> list[Problem]:
    """The problems, with why they are left."""
    return [replace(each, what=f"{each.what}; it stays: {error.problem}") for each in problems]


def _mend_collections(store: Store, problems: Sequence[Problem], report: RepairReport) -> None:
    """Restore the documents of damaged collections, or set their files aside; each by itself."""
    whats: dict[str, list[Problem]] = {}
    for problem in problems:
        whats.setdefault(problem.where, []).append(problem)
    for where, found in whats.items():
        try:
            mended = mend_collections(store.folder, {where: [each.what for each in found]})
        except (StoreFull, NotWritable):
            raise
        except StoreError as error:
            report.left.extend(_still(found, error))
            continue
        report.collections_restored.extend(mended.restored)
        report.collections_quarantined.extend(mended.quarantined)
        report.left.extend(Problem("collection", *each) for each in mended.left)


def quarantine(store: Store, path: Place, what: list[str]) -> Place:
    """Move what stands in the place of a segment aside, with a note; tells where it is.

    Parameters
    ----------
    path : the segment's folder, or whatever else lies somewhere below the folder of a recipe

    Raises
    ------
    WriteFailed
    """
    recipe = store.recipe_folder(below(path, store.folder).split("/")[1])
    aside = recipe / "quarantine" / path.name
    if _is_there(aside):
        aside = aside.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
    note = {
        "segment": path.name,
        "set_aside": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "problems": what,
    }
    write_atomically(
        aside.with_name(f"{aside.name}.json"),
        json.dumps(note, indent=1).encode(),
        within=store.folder,
    )
    if isinstance(path, ObjectPath):
        assert isinstance(aside, ObjectPath)
        if path.is_file():
            path.copy_to(aside)
            path.unlink()
        else:
            set_aside(path, aside)
    else:
        assert not isinstance(aside, ObjectPath)
        with writing_to(aside):
            assert isinstance(store.folder, Path)
            check_within(path.parent, store.folder)
            check_within(aside.parent, store.folder)
            move_away(path, aside)
            sync_folder(path.parent)
            sync_folder(aside.parent)
    log.info("%s was set aside: %s.", path.name, "; ".join(what))
    return aside


def _is_there(path: Place) -> bool:
    """Whether anything is in a place, a link that leads nowhere too."""
    return path.exists() if isinstance(path, ObjectPath) else os.path.lexists(path)


def _remove(path: Place, root: Place) -> None:
    """Remove a derived file or folder, where it lies in the store.

    Raises
    ------
    WriteFailed
    """
    if isinstance(path, ObjectPath):
        path.unlink()
        return
    assert isinstance(root, Path)
    with writing_to(path):
        check_within(path.parent, root)
        remove_tree(path)


def _restore_marker(store: Store) -> None:
    """Write `store.json` anew; what stood there is moved beside it where it is no file.

    Raises
    ------
    WriteFailed
    """
    path = store.folder / MARKER
    if isinstance(path, Path) and path.is_dir():
        with writing_to(path):
            move_away(path, path.with_name(f"{MARKER}-{uuid.uuid4().hex[:8]}"))
    store.write_marker()
    log.info("%s was written anew.", MARKER)


def _restore_recipe(store: Store, name: str) -> bool:
    """Write a recipe's document from a segment that holds the one that the folder is named after.

    Raises
    ------
    WriteFailed, Unreachable
    """
    folder = store.recipe_folder(name)
    for segment in matching(folder, "segments/*"):
        if not SEGMENT_NAME.fullmatch(segment.name):
            continue
        try:
            recipe = _recipe_in(store, segment)
        except Unreachable:
            raise
        except OSError as error:
            unless_damage(error, segment)
            continue
        except (StoreError, ValueError):
            continue
        if recipe.name == name:
            path = folder / "recipe.json"
            if isinstance(path, Path) and path.is_dir():
                with writing_to(path):
                    move_away(path, path.with_name(f"recipe.json-{uuid.uuid4().hex[:8]}"))
            write_atomically(path, recipe.canonical(), within=store.folder)
            log.info("recipes/%s/recipe.json was restored from segment %s.", name, segment.name)
            return True
    return False


def _recipe_in(store: Store, segment: Place) -> Recipe:
    """The recipe that a segment was written with.

    Raises
    ------
    OSError, Unreachable, NewerFormat
    ValueError
        The segment holds none.
    """
    try:
        attempt = parse_segment(read_in(store.folder, segment / DOCUMENT, most=MOST_BYTES)).data
    except (FileNotFoundError, BadDocument):
        attempt = None  # the files may lie beside it
    data = segment if attempt is None else data_folder(segment.parent.parent, attempt)
    group = parse_object(read_in(store.folder, data / GROUP, most=MOST_BYTES), most=MOST_BYTES)
    attributes = group.get("attributes")
    return Recipe.from_json(attributes.get("recipe") if isinstance(attributes, dict) else None)
