"""Checking a store against its checksums: a store in, a list of what is wrong out.

A full check reads every byte once. A sample reads the small arrays of the segments it falls on and
the sequences drawn; sizes and documents are still checked everywhere. Nothing is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.documents import MOST_BYTES, BadDocument, parse_object
from embedstore.errors import (
    BadInput,
    DamagedSegment,
    NewerFormat,
    NotAStore,
    StoreError,
    Unreachable,
)
from embedstore.regular_files import check_within
from embedstore.store.collection_check import check_collections
from embedstore.store.drafts import find_unpublished
from embedstore.store.failures import failures_files, read_lines
from embedstore.store.index_file import UnusableIndex, read_index
from embedstore.store.index_upkeep import index_path
from embedstore.store.marker import MARKER
from embedstore.store.objects import DAMAGE, ObjectPath, Place, below, matching, read_in
from embedstore.store.published import Segment
from embedstore.store.recipe import Recipe
from embedstore.store.segment import SEGMENT_NAME
from embedstore.store.segment_check import check_segment
from embedstore.store.store import Store

UNCERTAIN = {NewerFormat.code, Unreachable.code}
"""Codes of problems that say nothing of the content: nothing is set aside for them."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    """A stable word: `store`, `recipe`, `segment`, `index`, `neighbors`, `failures` or
    `collection`."""
    where: str
    """Path of what is damaged, below the store's folder."""
    what: str
    code: str = DamagedSegment.code
    """`damaged-segment`: the content is wrong. `newer-format`, `unreachable`: it cannot be told."""

    def __str__(self) -> str:
        return " ".join(f"{self.kind} {self.where}: {self.what}".split())  # one line


@dataclass
class VerifyReport:
    """What was checked, what is wrong, and what merely lies about."""

    checked: dict[str, int] = field(default_factory=dict)
    """How many recipes, segments, sequences, bytes and collections."""
    problems: list[Problem] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """Paths below the store's folder that no reader looks at: drafts, files of others."""

    @property
    def whole(self) -> bool:
        """True where nothing is damaged."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {"whole": self.whole, **asdict(self)}


def verify(
    store: Store,
    backbone: str | None = None,
    *,
    sample: float | None = None,
    rng: np.random.Generator | None = None,
) -> VerifyReport:
    """Compare what is stored with its checksums, counts and keys.

    Whatever is met is one problem more in the report, and the rest is checked.

    Parameters
    ----------
    backbone : backbone or recipe folder; None: all, and the collections too
    sample : check so many sequences a recipe and rows a collection, or, below 1, that part of
        them; None: all, and every file
    rng : what draws the sample

    Raises
    ------
    MissingRecipe
    BadInput
        A sample that is not positive.
    """
    if sample is not None and sample <= 0:
        raise BadInput(f"--sample is {sample}.", "Give a number of sequences, or a part below 1.")
    check = _Check(store, sample, rng or np.random.default_rng())
    if backbone is not None:
        check.recipe(store.recipe_name(backbone))
        return check.report
    check.marker()
    with check.trying("recipe", store.folder / "recipes"):
        for folder in matching(store.folder, "recipes/[!.]*"):
            check.recipe(folder.name)
    check.is_folder("recipe", store.folder / "recipes")
    with check.trying("collection", store.folder / "collections"):
        check.collections()
    return check.report


class _Check:
    def __init__(self, store: Store, sample: float | None, rng: np.random.Generator) -> None:
        self.store, self.sample, self.rng = store, sample, rng
        names = ("recipes", "segments", "sequences", "bytes", "collections")
        self.report = VerifyReport(dict.fromkeys(names, 0))

    @contextmanager
    def trying(self, kind: str, path: Place) -> Iterator[None]:
        """Make a problem of whatever the block meets."""
        try:
            yield
        except (NewerFormat, Unreachable) as error:
            self._wrong(kind, path, str(error), error.code)
        except StoreError as error:
            self._wrong(kind, path, error.problem)
        except OSError as error:
            damaged = error.errno is None or error.errno in DAMAGE
            code = DamagedSegment.code if damaged else Unreachable.code
            self._wrong(kind, path, f"it cannot be read ({error.strerror})", code)
        except (MemoryError, RecursionError) as error:
            self._wrong(kind, path, f"it cannot be checked ({type(error).__name__})")

    def marker(self) -> None:
        """`store.json`."""
        path = self.store.folder / MARKER
        with self.trying("store", path):
            try:
                self.store.read_marker()
            except NotAStore as error:
                if isinstance(error.__cause__, PermissionError):  # nothing is known of its content
                    raise Unreachable(error.problem, error.fix) from error
                raise

    def is_folder(self, kind: str, path: Place) -> bool:
        """Whether what is in a folder is the store's; a problem where something else is there."""
        if isinstance(path, ObjectPath) or not os.path.lexists(path):
            return True
        assert isinstance(self.store.folder, Path)
        is_ours = False
        with self.trying(kind, path):
            check_within(path, self.store.folder)
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "It is no folder", str(path))
            is_ours = True
        return is_ours  # noqa: RET504 - `trying` ends the block where it raises

    def recipe(self, name: str) -> None:
        """One recipe: its document, segments and indexes."""
        folder = self.store.recipe_folder(name)
        self.report.checked["recipes"] += 1
        with self.trying("recipe", folder / "recipe.json"):
            try:
                recipe = self.store.read_recipe(name)
            except DamagedSegment as error:
                self._wrong("recipe", folder / "recipe.json", str(error))
                return
            with self.trying("segment", folder / "segments"):
                self._segments(folder, recipe)
            for part in ("segments", "drafts"):
                self.is_folder("segment", folder / part)
            self.is_folder("recipe", folder / "quarantine")
            self._neighbors(folder)

    def _segments(self, folder: Place, recipe: Recipe) -> None:
        listed = matching(folder, "segments/*")
        segments = [Segment(path, recipe) for path in listed if SEGMENT_NAME.fullmatch(path.name)]
        others = [path for path in listed if not SEGMENT_NAME.fullmatch(path.name)]
        with self.trying("recipe", folder):
            others += find_unpublished(folder)
        self.report.leftovers += [self._below(path) for path in others]
        drawn = self._draw(segments)
        for number, segment in enumerate(segments):
            self.report.checked["segments"] += 1
            with self.trying("segment", segment.folder):
                check = check_segment(segment, None if drawn is None else drawn[number])
                self.report.checked["sequences"] += check.sequences
                self.report.checked["bytes"] += check.bytes
                for what in check.problems:
                    self._wrong("segment", segment.folder, what)
                at = self._below(segment.folder)
                self.report.leftovers += [f"{at}/{stranger}" for stranger in check.strangers]
            segment.forget()
        with self.trying("index", index_path(folder)):
            self._index(folder, {segment.name: segment for segment in segments})
        self._failures(folder)

    def _failures(self, folder: Place) -> None:
        """Every line of every failures file."""
        if not self.is_folder("failures", folder / "failures"):
            return
        with self.trying("failures", folder / "failures"):
            for path in failures_files(folder / "failures"):
                with self.trying("failures", path):
                    self._failures_file(path)

    def _failures_file(self, path: Place) -> None:
        bad = [
            (number, each)
            for number, each in read_lines(self.store.folder, path)
            if isinstance(each, str)
        ]
        if bad:
            number, what = bad[0]
            lead = f"line {number} of {len(bad)} that are damaged: " if number else ""
            self._wrong("failures", path, f"{lead}{what}")

    def collections(self) -> None:
        """Every collection: its files, its table, and the keys of its sequences."""
        found = check_collections(self.store.folder, self._rows_drawn)
        self.report.checked["collections"] += len(found.names)
        self.report.problems += [Problem("collection", *each) for each in found.problems]
        self.report.leftovers += found.leftovers

    def _index(self, folder: Place, segments: dict[str, Segment]) -> None:
        """Compare the index file, if any, with the segments that it knows and that are here."""
        path = index_path(folder)
        if not self.is_folder("index", path.parent) or not path.exists():
            return
        if not path.is_file():
            self._wrong("index", path, "it is no file")
            return
        try:
            table = read_index(path)
        except UnusableIndex as error:
            self._wrong("index", path, str(error))
            return
        entries = table.entries
        by_segment = np.lexsort((entries.row, entries.segment))
        ends = np.cumsum(table.keys)
        for number, name in enumerate(table.names):
            segment = segments.get(name)
            if segment is None:
                continue  # it has gone since: its entries are passed over
            mine = by_segment[ends[number] - table.keys[number] : ends[number]]
            try:
                halves = np.ascontiguousarray(segment.keys).view(">u8").reshape(-1, 2)
                agrees = (
                    (entries.segment[mine] == number).all()
                    and np.array_equal(entries.row[mine], np.arange(len(halves)))
                    and np.array_equal(entries.high[mine], halves[:, 0])
                    and np.array_equal(entries.low[mine], halves[:, 1])
                    and np.array_equal(entries.length[mine], segment.length)
                )
            except StoreError:
                continue  # told when the segment was checked
            finally:
                segment.forget()
            if not agrees:
                self._wrong("index", path, f"it does not agree with segment {name}")

    def _neighbors(self, folder: Place) -> None:
        """Load every saved neighbour index, which reads all of it; a bucket has none."""
        if isinstance(folder, ObjectPath) or self.sample is not None:
            return
        from embedstore.neighbors import saved  # which knows stores itself

        place = folder / "neighbors"
        if not self.is_folder("neighbors", place):
            return
        with self.trying("neighbors", place):
            for path in matching(place, "*"):
                assert isinstance(path, Path)
                with self.trying("neighbors", path):
                    if _format_of(path / saved.INFO, place) not in (None, saved.FORMAT):
                        self.report.leftovers.append(self._below(path))  # made anew, not damaged
                        continue
                    try:
                        saved.load_index(path)
                    except saved.UnusableIndex as error:
                        self._wrong("neighbors", path, str(error))

    def _draw(self, segments: Sequence[Segment]) -> list[NDArray[np.int64]] | None:
        """Rows to check of each segment; None: all."""
        if self.sample is None:
            return None
        counts = []
        for segment in segments:
            try:
                counts.append(segment.document.keys)
            except StoreError:
                counts.append(0)  # told when the segment is checked
            segment.forget()
        ends = np.cumsum([0, *counts])
        chosen = self._rows_drawn(int(ends[-1]))
        assert chosen is not None
        cuts = np.searchsorted(chosen, ends)
        return [chosen[cuts[n] : cuts[n + 1]] - ends[n] for n in range(len(counts))]

    def _rows_drawn(self, count: int) -> NDArray[np.int64] | None:
        """Sorted row numbers below a count; None: all."""
        if self.sample is None:
            return None
        wanted = np.ceil(self.sample * count) if self.sample < 1 else self.sample
        return np.sort(self.rng.choice(count, min(count, int(wanted)), replace=False))

    def _wrong(self, kind: str, path: Place, what: str, code: str = DamagedSegment.code) -> None:
        self.report.problems.append(Problem(kind, self._below(path), " ".join(what.split()), code))

    def _below(self, path: Place) -> str:
        return below(path, self.store.folder)


def _format_of(path: Path, within: Path) -> int | None:
    """The format number that a document gives itself, if it can be read."""
    try:
        number = parse_object(read_in(within, path, most=MOST_BYTES)).get("format")
    except (OSError, BadDocument):
        return None
    return number if isinstance(number, int) else None
