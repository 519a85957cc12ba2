"""Setting what is damaged aside: a report of what is wrong in, the next build fills the gap.

Nothing is deleted: a segment is moved to `recipes/RECIPE/quarantine/`, with a note beside it, the
files of a collection to `collections/quarantine/`. A damaged `recipe.json` is replaced by the same
document out of a segment, where one has it.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from embedstore.errors import StoreError, Unreachable
from embedstore.store.collection_check import mend_collections
from embedstore.store.drafts import DOCUMENT, data_folder, set_aside
from embedstore.store.files import sync_folder, write_atomically, writing_to
from embedstore.store.objects import ObjectPath, Place, below, matching, unless_damage
from embedstore.store.recipe import Recipe
from embedstore.store.segment import SEGMENT_NAME
from embedstore.store.store import Store
from embedstore.store.verify import Problem, VerifyReport, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairReport:
    """What was mended or set aside, and what only a person can mend."""

    quarantined: list[str] = field(default_factory=list)
    """Where each damaged segment or failures file lies now, below the store's folder."""
    index_removed: list[str] = field(default_factory=list)
    """Index files that were wrong; they are made anew when next opened."""
    recipes_restored: list[str] = field(default_factory=list)
    """Recipe documents that were written again, from a segment that has the same."""
    collections_restored: list[str] = field(default_factory=list)
    """Documents of collections that were written again, from their table files."""
    collections_quarantined: list[str] = field(default_factory=list)
    """Where the files of each damaged collection lie now; its input must be built again."""
    left: list[Problem] = field(default_factory=list)
    """Damaged recipe documents, and what is of a later version."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def repair(store: Store, found: VerifyReport | None = None) -> RepairReport:
    """Restore recipe documents, then move every damaged segment out of the readers' sight.

    Parameters
    ----------
    found : what `verify` told; None: the whole store is verified first

    Raises
    ------
    WriteFailed
    """
    found = found or verify(store)
    report = RepairReport()
    problems = []
    _mend_collections(store, found.problems, report)
    for problem in found.problems:
        if problem.kind == "collection":
            continue
        if problem.kind == "failures":
            report.quarantined.append(_set_failures_aside(store, problem))
            continue
        name = problem.where.split("/")[1]
        if problem.kind == "recipe" and _restore_recipe(store, name):
            report.recipes_restored.append(problem.where)
            problems += verify(store, name).problems  # nothing of it could be read before
        else:
            problems.append(problem)
    whats: dict[str, list[str]] = {}
    for problem in problems:
        if problem.kind in ("segment", "index"):
            whats.setdefault(problem.where, []).append(problem.what)
        else:
            report.left.append(problem)
    for where, what in whats.items():
        path = store.folder / where
        if path.is_dir():
            aside = quarantine(path, what)
            report.quarantined.append(below(aside, store.folder))
        elif isinstance(path, ObjectPath):
            path.unlink()
            report.index_removed.append(where)
        elif path.is_file():
            with writing_to(path):
                path.unlink(missing_ok=True)
            report.index_removed.append(where)
    return report


def _mend_collections(store: Store, problems: Sequence[Problem], report: RepairReport) -> None:
    whats: dict[str, list[str]] = {}
    for problem in problems:
        if problem.kind == "collection":
            whats.setdefault(problem.where, []).append(problem.what)
    mended = mend_collections(store.folder, whats)
    report.collections_restored.extend(mended.restored)
    report.collections_quarantined.extend(mended.quarantined)
    report.left.extend(Problem("collection", *each) for each in mended.left)


def _set_failures_aside(store: Store, problem: Problem) -> str:
    """Move a failures file to the quarantine of its recipe; tells where it is."""
    recipe, name = problem.where.split("/")[1::2]
    folder = store.recipe_folder(recipe)
    path = folder / "failures" / name
    aside = folder / "quarantine" / f"failures-{uuid.uuid4().hex[:8]}-{name}"
    if isinstance(path, ObjectPath):
        assert isinstance(aside, ObjectPath)
        path.copy_to(aside)
        path.unlink()
    else:
        assert not isinstance(aside, ObjectPath)
        with writing_to(aside):
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
    return below(aside, store.folder)


def quarantine(segment: Place, what: list[str]) -> Place:
    """Move a segment's folder aside, with a note of what is wrong; tells where it is."""
    aside = segment.parent.parent / "quarantine" / segment.name
    if aside.exists():
        aside = aside.with_name(f"{segment.name}-{uuid.uuid4().hex[:8]}")
    note = {
        "segment": segment.name,
        "set_aside": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "problems": what,
    }
    write_atomically(aside.with_name(f"{aside.name}.json"), json.dumps(note, indent=1).encode())
    if isinstance(segment, ObjectPath):
        assert isinstance(aside, ObjectPath)
        set_aside(segment, aside)
    else:
        assert not isinstance(aside, ObjectPath)
        with writing_to(aside):
            segment.rename(aside)
            sync_folder(segment.parent)
            sync_folder(aside.parent)
    log.info("Segment %s was set aside: %s.", segment.name, "; ".join(what))
    return aside


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
            attempt = json.loads((segment / DOCUMENT).read_bytes()).get("data", "")
            if attempt and not SEGMENT_NAME.fullmatch(attempt):
                continue
            data = data_folder(folder, attempt) if attempt else segment
            group = json.loads((data / "zarr.json").read_bytes())
            recipe = Recipe.from_json(group["attributes"]["recipe"])
        except Unreachable:
            raise
        except OSError as error:
            unless_damage(error, segment)
            continue
        except (StoreError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if recipe.name == name:
            write_atomically(folder / "recipe.json", recipe.canonical())
            log.info("recipes/%s/recipe.json was restored from segment %s.", name, segment.name)
            return True
    return False
