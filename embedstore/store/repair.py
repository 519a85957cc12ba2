"""Setting damaged segments aside: a report of what is wrong in, the next build fills the gap.

Nothing is deleted: a segment is moved to `recipes/RECIPE/quarantine/`, with a note beside it.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from embedstore.store.drafts import set_aside
from embedstore.store.files import sync_folder, write_atomically, writing_to
from embedstore.store.objects import ObjectPath, Place, below
from embedstore.store.store import Store
from embedstore.store.verify import Problem, VerifyReport, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairReport:
    """What was set aside, and what only a person can mend."""

    quarantined: list[str] = field(default_factory=list)
    """Where each damaged segment lies now, below the store's folder."""
    index_removed: list[str] = field(default_factory=list)
    """Index files that were wrong; they are made anew when next opened."""
    left: list[Problem] = field(default_factory=list)
    """Damaged recipe documents and collections."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def repair(store: Store, found: VerifyReport | None = None) -> RepairReport:
    """Move every damaged segment out of the readers' sight.

    Parameters
    ----------
    found : what `verify` told; None: the whole store is verified first

    Raises
    ------
    WriteFailed
    """
    found = found or verify(store)
    report = RepairReport()
    whats: dict[str, list[str]] = {}
    for problem in found.problems:
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
            segment.rename(aside)
            sync_folder(segment.parent)
            sync_folder(aside.parent)
    log.info("Segment %s was set aside: %s.", segment.name, "; ".join(what))
    return aside
