"""What builds and imports could not embed, and why: a file each in the store, read back by view.

A file is `recipes/RECIPE/failures/BUILD.jsonl`, one JSON object a record. BUILD is the UTC time of
the build and six random digits, so names sort by time.
"""

from __future__ import annotations

import io
import json
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from embedstore.documents import BadDocument, Digest, Document, parse
from embedstore.store.files import write_atomically
from embedstore.store.objects import Place, names_in, open_in, unless_damage
from embedstore.store.store import Store

log = logging.getLogger(__name__)

LINE_BYTES = 64 << 10
"""What a line can have: an id, words, and a sentence."""
MOST_BYTES = 256 << 20
"""What a file can have; a larger one is passed over."""
MOST_KEYS = 500_000
"""Failures that are held in memory."""


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


class FailureLine(Document):
    """A line of a failures file."""

    id: str
    view: str
    reason: str
    detail: str = ""
    key: Digest | None = None


class FailuresFile:
    """What one build or import could not embed, or not whole."""

    def __init__(
        self, store: Store, recipe: str, failures: Sequence[Failure], cuts: Sequence[Failure] = ()
    ) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder = store.recipe_folder(recipe) / "failures"
        self.path: Place = folder / f"{stamp}-{secrets.token_hex(3)}.jsonl"
        self._root = store.folder
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
            write_atomically(self.path, lines.encode(), within=self._root)

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
    view (records that have none, files of before keys were noted). Lines and files that are damaged
    are passed over, with a warning.

    Raises
    ------
    Unreachable
        A file cannot be read now.
    """
    folder = store.recipe_folder(recipe) / "failures"
    found: dict[str, PastFailure] = {}
    for path in failures_files(folder):
        build = path.name.removesuffix(".jsonl")
        for number, line in read_lines(store.folder, path):
            if isinstance(line, str):
                where = f"Line {number} of {path.name}" if number else path.name
                log.warning("%s is damaged (%s) and is passed over.", where, line)
            elif line.key is not None and line.reason != "truncated":
                if line.key not in found and len(found) >= MOST_KEYS:
                    log.warning("%s has more failures than are looked at.", path.name)
                    return found
                found[line.key] = PastFailure(line.reason, line.detail, build)
    return found


def failures_files(folder: Place) -> list[Place]:
    """The failures files of a recipe, oldest first; none is opened.

    Raises
    ------
    Unreachable
    """
    return [folder / name for name in names_in(folder) if name.endswith(".jsonl")]


def read_lines(root: Place, path: Place) -> Iterator[tuple[int, FailureLine | str]]:
    """Lines of a failures file by number, from 1: each as it is, or what is wrong with it.

    Of a file that cannot be read at all, number 0 and what is wrong. A file is read line by line,
    and never more of a line than one can have.

    Parameters
    ----------
    root : folder of the store

    Raises
    ------
    Unreachable
    """
    try:
        with open_in(root, path) as file:
            if (size := _size(file)) > MOST_BYTES:
                yield 0, f"it has {size} bytes, more than the {MOST_BYTES} it can have"
                return
            number = 0
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(LINE_BYTES)
                    yield number, f"it is longer than {LINE_BYTES} bytes"
                elif line.strip():
                    try:
                        yield number, parse(FailureLine, line)
                    except BadDocument as error:
                        yield number, str(error)
    except FileNotFoundError:  # removed meanwhile
        return
    except OSError as error:
        unless_damage(error, path)
        yield 0, str(error.strerror or error)


def _size(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _as_json(row: Failure) -> dict[str, Any]:
    values = asdict(row)
    if row.key is None:
        del values["key"]
    return values
