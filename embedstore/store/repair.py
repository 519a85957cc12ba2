"""Setting damaged segments aside: a report of what is wrong in, the next build fills the gap.

Nothing is deleted: a segment is moved to `recipes/RECIPE/quarantine/`, with a note beside it. A
damaged `recipe.json` is replaced by the same document out of a segment, where one has it.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from embedstore.errors import StoreError, Unreachable
from embedstore.store.drafts import DOCUMENT, data_folder, set_aside
from embedstore.store.files import move_away, sync_folder, write_atomically, writing_to
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
    """Where each damaged segment lies now, below the store's folder."""
    index_removed: list[str] = field(default_factory=list)
    """Index files that were wrong; they are made anew when next opened."""
    recipes_restored: list[str] = field(default_factory=list)
    """Recipe documents that were written again, from a segment that has the same."""
    left: list[Problem] = field(default_factory=list)
    """Damaged recipe documents and collections."""

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
    for problem in found.problems:
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
            move_away(segment, aside)
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
