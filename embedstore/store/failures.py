"""What builds and imports could not embed, and why: a file each in the store, read back by view.

A file is `recipes/RECIPE/failures/BUILD.jsonl`, one JSON object a record. BUILD is the UTC time of
the build and six random digits, so names sort by time.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from embedstore.store.files import write_atomically
from embedstore.store.objects import Place, unless_damage
from embedstore.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A record that a build or an import could not embed."""

    id: str
    view: str
    reason: str
    """A stable word, e.g. `inner-stop-codon`."""
    detail: str
    key: str | None = None
    """Of the view that was tried; None where there is no view."""


class FailuresFile:
    """What one build or import could not embed, or not whole."""

    def __init__(
        self, store: Store, recipe: str, failures: Sequence[Failure], cuts: Sequence[Failure] = ()
    ) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder = store.recipe_folder(recipe) / "failures"
        self.path: Place = folder / f"{stamp}-{secrets.token_hex(3)}.jsonl"
        self.view = store.find_recipe(recipe).view
        self.rows, self.cuts = list(failures), list(cuts)

    def add(self, failures: Sequence[Failure]) -> None:
        """Note more and write the file anew; with none, nothing is written."""
        if failures:
            self.rows += failures
            self.write()

    def write(self) -> None:
        """Write the file, if there is anything to tell."""
        rows = self.rows + self.cuts
        if rows:
            lines = "".join(json.dumps(_as_json(row)) + "\n" for row in rows)
            write_atomically(self.path, lines.encode())

    def by_reason(self) -> dict[str, int]:
        """Records left out, by reason."""
        return dict(sorted(Counter(row.reason for row in self.rows).items()))


@dataclass(frozen=True)
class PastFailure:
    """Why the last build that tried a view could not embed it."""

    reason: str
    detail: str
    build: str
    """Name of the build's failures file, without its ending."""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.reason}{detail} (build {self.build})"


def past_failures(store: Store, recipe: str) -> dict[str, PastFailure]:
    """Why views have no embedding, by key, from the failures files of every build of a recipe.

    The latest build that tried a view decides. A reason belongs to the view, not to the record: a
    record whose sequence has changed since has another key. Lines without a key say nothing of a
    view (records that have none, files of before keys were noted), and lines that are damaged are
    passed over.

    Raises
    ------
    Unreachable
        A file cannot be read now.
    """
    folder = store.recipe_folder(recipe) / "failures"
    found: dict[str, PastFailure] = {}
    for path in _files(folder):
        build = path.name.removesuffix(".jsonl")
        for line in _lines(path):
            key, reason = line.get("key"), line.get("reason")
            detail = line.get("detail", "")
            if isinstance(key, str) and isinstance(reason, str) and reason != "truncated":
                found[key] = PastFailure(reason, str(detail), build)
    return found


def _files(folder: Place) -> list[Place]:
    try:
        listed = [path for path in folder.iterdir() if path.name.endswith(".jsonl")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        unless_damage(error, folder)
        raise
    return sorted(listed, key=lambda path: path.name)


def _lines(path: Place) -> Iterator[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # removed meanwhile
        return
    except OSError as error:
        unless_damage(error, path)
        log.warning("%s cannot be read (%s) and is passed over.", path.name, error)
        return
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            log.warning("Line %d of %s is damaged and is passed over.", number, path.name)


def _as_json(row: Failure) -> dict[str, Any]:
    values = asdict(row)
    if row.key is None:
        del values["key"]
    return values
