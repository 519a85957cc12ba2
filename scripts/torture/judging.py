"""Whether what an operation did on a damaged store is allowed: what was seen in, a verdict out.

Allowed are right numbers, and an error of ours that names what is damaged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torture.damages import EDIT, OTHER, SWAP, Damage, kind_of

RIGHT, NAMED, UNREACHABLE, DIFFERS = "right", "named", "unreachable", "differs"
ALLOWED = (RIGHT, NAMED, UNREACHABLE, DIFFERS)
"""`differs`: another text or score where nothing promises that a change is found: in the tables and
pages of a run, in failures files, in documents that were edited and sealed again, and in lists
where something is gone."""
WRONG, HIDDEN, UNNAMED, DENIED = "wrong number", "silently left out", "unnamed error", "denied"
MISSED, TRACEBACK, STATUS, USAGE = "missed by verify", "traceback", "wrong status", "usage error"
HANG, DEATH, MEMORY = "hang", "death", "memory"
OUTSIDE, FOLLOWED = "written outside", "read outside"
FAILURES = (
    *(WRONG, HIDDEN, UNNAMED, DENIED, MISSED, TRACEBACK, STATUS, USAGE),
    *(HANG, DEATH, MEMORY, OUTSIDE, FOLLOWED),
)

UNPROMISED = ("run/csv", "run/md", "run/html", "failures")
_UNREACHED = re.compile(r"cannot be (reached|written)|may not be|is not there as it was sent")


@dataclass
class Item:
    """One thing that an operation reads, e.g. the embedding of one key."""

    value: Any = None
    """Comparable; None where there is an error instead."""
    text: str = ""
    """The error, or all that was said."""
    code: str = ""
    """Of the error, where it has one."""
    number: bool = False
    """Whether a value that differs is wrong whatever else is said."""


@dataclass
class Said:
    """All that an operation did and said."""

    items: dict[str, Item] = field(default_factory=dict)
    text: str = ""
    """What concerns all items: standard error and the like."""
    broken: tuple[str, str] | None = None
    """A failure that needs no comparison: its name and its text."""


@dataclass(frozen=True)
class Verdict:
    """What one operation on one damage came to."""

    outcome: str
    text: str = ""

    @property
    def allowed(self) -> bool:
        """False where the product failed."""
        return self.outcome in ALLOWED


def judge(
    operation: str, truth: Said, said: Said, damage: Damage, names: list[str], bucket: bool
) -> Verdict:
    """Compare what was seen with what is seen on the undamaged store.

    Parameters
    ----------
    names : patterns of which an error has to hold one
    bucket : requests may fail, so nothing may be known
    """
    if said.broken is not None:
        return Verdict(*said.broken)
    outcomes: dict[str, str] = {}
    for name, right in truth.items.items():
        got = said.items.get(name, Item())
        text = _news(f"{got.text}\n{said.text}", f"{right.text}\n{truth.text}")
        outcome = _judge_item(right, got, text, damage, names, bucket)
        outcomes.setdefault(outcome, f"{name}: {_short(text) or got.value!r}")
    for name in said.items.keys() - truth.items.keys():
        if said.items[name].value is not None:
            outcomes.setdefault(WRONG, f"{name} is not in the undamaged store")
    if operation == "verify" and set(outcomes) <= {RIGHT} and must_be_found(damage):
        return Verdict(MISSED, "0 problems")
    for outcome in (*FAILURES, DIFFERS, UNREACHABLE, NAMED):
        if outcome in outcomes:
            return Verdict(outcome, outcomes[outcome])
    return Verdict(RIGHT)


def _judge_item(
    right: Item, got: Item, text: str, damage: Damage, names: list[str], bucket: bool
) -> str:
    named = any(re.search(name, text) for name in names)
    unpromised = damage.kind == EDIT or kind_of(damage.path) in UNPROMISED
    if got.value is not None and got.value == right.value:
        return RIGHT
    if got.value is not None:
        if right.number and not (unpromised and damage.path.startswith("run/")):
            return WRONG
        return NAMED if named else DIFFERS if unpromised or damage.removes else WRONG
    if named and (damage.removes or not got.code.startswith("missing-")):
        return NAMED
    if bucket and _UNREACHED.search(text):
        return UNREACHABLE
    if got.code.startswith("missing-"):
        return NAMED if damage.removes else DENIED
    if damage.removes and not text.strip():
        return NAMED  # nothing is left that could tell
    return UNNAMED if text.strip() else HIDDEN


def must_be_found(damage: Damage) -> bool:
    """Whether `verify` of the store has to see a damage."""
    if damage.kind == EDIT or damage.path.startswith("run/"):
        return False
    kind = kind_of(damage.path)
    if kind in ("neighbors", "failures", "folder"):
        return False
    if kind == "index" and damage.kind in (OTHER, SWAP):
        return False  # segments that an index names and that are not here are passed over
    if damage.removes:  # what was never published, or is made anew, is no damage
        return kind in ("recipe.json", "segment's array", "segment's zarr.json")
    return True


def names_of(damage: Damage, owners: dict[str, str]) -> list[str]:
    """Patterns of which an error of ours has to hold one: the file, or what it belongs to.

    Parameters
    ----------
    owners : segment by the attempt that holds its data in a bucket
    """
    found = []
    paths = [damage.path, damage.other] if damage.kind == SWAP else [damage.path]
    for path in paths:
        parts = path.split("/")
        found.append(re.escape("/".join(parts[1:])))
        for above, part in pairwise(parts):
            if above in ("segments", "data", "failures", "neighbors"):
                found += [re.escape(part), re.escape(owners.get(part, part))]
            elif above == "collections":
                found.append(rf"\b{re.escape(part.split('.')[0])}\b")
            elif above == "probes":
                found.append(rf"[Pp]robes?.{{0,4}}{re.escape(part)}|{re.escape(part)}.*damaged")
            elif above == "recipes" and len(parts) <= 4:
                found.append(re.escape(part))
        if "index" in parts or "neighbors" in parts:
            found.append(r"\bindex")
        if len(parts) == 2:  # the whole store or run
            found += [re.escape(parts[1]), rf"[/.]{parts[0]}\b"]
    return found


def _news(text: str, before: str) -> str:
    """What is in a text and was not in that of the undamaged store."""
    old = set(re.split(r"[\n{}\[\]]", before))
    return "\n".join(part for part in re.split(r"[\n{}\[\]]", text) if part not in old)


def _short(text: str) -> str:
    return " ".join(text.split())[:400]
