"""Removing what nobody will read again: a store in, bytes of disk back.

Drafts are judged by the clock of the file system that holds them, not by that of this machine: on
a network share they may differ by hours. A time in the future is never old.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedstore.errors import BadInput
from embedstore.regular_files import check_within
from embedstore.store.collection_check import remove_orphan, stale_tables
from embedstore.store.drafts import doom, find_unpublished, remove_objects
from embedstore.store.files import DRAFT_SUFFIX, move_away, remove_tree, writing_to
from embedstore.store.index import KeyIndex, KeyTable
from embedstore.store.index_upkeep import read_keys
from embedstore.store.objects import ObjectPath, Place, below, matching, unless_damage
from embedstore.store.published import Segment
from embedstore.store.segment_check import check_segment
from embedstore.store.store import Store

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Garbage:
    """Something to remove."""

    kind: str
    """`draft`, `table`, `neighbors`, `quarantine` or `redundant`."""
    where: str
    """Path below the store's folder."""
    bytes: int


def collect_garbage(
    store: Store,
    *,
    older_than: float = DAY,
    quarantine: bool = False,
    redundant: bool = False,
    dry_run: bool = False,
) -> list[Garbage]:
    """Remove drafts that no build writes any more, what was replaced, and more on demand.

    Parameters
    ----------
    older_than : seconds since a draft was last written to, or since a table file of a collection
        that no document names, or a neighbour index that was replaced, was made
    quarantine : also what `repair` set aside, however old
    redundant : also segments whose keys all stand in segments that sort before them, which readers
        prefer; those are checked whole first
    dry_run : tell, and write nothing

    Returns
    -------
    What was removed, or would be.

    Raises
    ------
    WriteFailed
    DamagedSegment
        Only with `redundant`: repair the store first.
    """
    now = time.time() if dry_run else _file_system_time(store.folder)
    aging = [
        ("draft", _drafts(store.folder)),
        ("table", stale_tables(store.folder)),
        ("neighbors", _replaced_indexes(store.folder)),
    ]
    found: list[tuple[str, Place]] = [
        (kind, path) for kind, paths in aging for path in paths if now - _newest(path) > older_than
    ]
    if not dry_run:
        found = _surely_unpublished(found)
    if quarantine:
        places = ("recipes/*/quarantine/*", "collections/quarantine/*")
        found += [("quarantine", path) for each in places for path in matching(store.folder, each)]
    if redundant:
        for name in store.recipes():
            found += [("redundant", path) for path in _redundant(store, name)]
    garbage = []
    for kind, path in found:
        aged = kind in ("draft", "table", "neighbors") and not isinstance(path, ObjectPath)
        if aged and now - _newest(path) <= older_than:
            continue  # a writer woke up meanwhile, or has published it
        piece = Garbage(kind, below(path, store.folder), _size(path))
        if kind == "table":
            if not dry_run and not remove_orphan(store.folder, path):
                continue
        elif not dry_run:
            _remove(path, store.folder)
        garbage.append(piece)
    return garbage


def parse_age(text: str) -> float:
    """Seconds of an age: a number and `s`, `m`, `h` or `d`.

    Raises
    ------
    BadInput
    """
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not matched:
        raise BadInput(f"{text!r} is no age.", "Give a number and s, m, h or d, e.g. 24h.")
    return float(matched[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}[matched[2]]


def _drafts(folder: Place) -> Iterator[Place]:
    """Segments that are being written, and files on their way to another name."""
    for recipe in matching(folder, "recipes/*"):
        yield from find_unpublished(recipe)
    if not isinstance(folder, ObjectPath):
        for pattern in ("", "collections/"):
            yield from matching(folder, f"{pattern}.*{DRAFT_SUFFIX}")


def _surely_unpublished(found: list[tuple[str, Place]]) -> list[tuple[str, Place]]:
    """Without what a build published since it was listed; on disk moving tells it."""
    recipes: dict[Place, list[ObjectPath]] = {}
    for kind, path in found:
        if kind == "draft" and isinstance(path, ObjectPath):
            recipes.setdefault(path.parent, []).append(path)
    doomed = {each for attempts in recipes.values() for each in doom(attempts)}
    return (
        [(kind, path) for kind, path in found if path in doomed or kind != "draft"]
        if recipes
        else found
    )


def _replaced_indexes(folder: Place) -> Iterator[Place]:
    """Neighbour indexes that have a newer one of the same metric beside them; a bucket has none."""
    found: dict[tuple[Place, str], list[Place]] = {}
    for path in [] if isinstance(folder, ObjectPath) else matching(folder, "recipes/*/neighbors/*"):
        found.setdefault((path.parent, path.name.partition("-")[0]), []).append(path)
    for paths in found.values():
        yield from sorted(paths, key=_newest)[:-1]


def _redundant(store: Store, recipe: str) -> Iterator[Place]:
    """Segments that readers never use, as all their keys stand in whole segments before them."""
    parsed = store.find_recipe(recipe)
    segments = [Segment(path, parsed) for path in store.segment_folders(recipe)]
    known = [(each, keys) for each in segments if (keys := read_keys(each))]
    table = KeyTable.of([keys for _, keys in known])
    index = KeyIndex(table.names, [table])
    whole: dict[int, bool] = {}
    for number, (segment, keys) in enumerate(known):
        first, _, _ = index.find(keys.keys)
        if (first == number).any():
            continue
        before = np.unique(first).tolist()
        for other in before:
            if other not in whole:
                whole[other] = not check_segment(known[other][0]).problems
        if all(whole[other] for other in before):
            yield segment.folder


def _file_system_time(folder: Place) -> float:
    """What the file system or bucket gives as the time of a file made now."""
    probe = folder / f".clock.{uuid.uuid4().hex}{DRAFT_SUFFIX}"
    if isinstance(probe, ObjectPath):
        probe.write(b"")
        try:
            return probe.modified()
        finally:
            probe.unlink()
    with writing_to(probe):
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def _walk(path: Path) -> Iterator[os.stat_result]:
    """A path and all below it; what vanishes meanwhile is passed over.

    Raises
    ------
    Unreachable
    """
    paths = [path]
    for folder, folders, files in os.walk(path) if not os.path.islink(path) else ():  # noqa: PTH114
        paths += [Path(folder, name) for name in (*folders, *files)]
    for each in paths:
        try:
            yield each.lstat()
        except OSError as error:
            unless_damage(error, each)


def _newest(path: Place) -> float:
    """When anything in a draft was last written to; never, where it is gone."""
    if isinstance(path, ObjectPath):
        times = [entry["last_modified"].timestamp() for _, entry in path.below()]
        return max(times, default=path.modified() if path.is_file() else np.inf)
    return max((status.st_mtime for status in _walk(path)), default=np.inf)


def _size(path: Place) -> int:
    if isinstance(path, ObjectPath):
        return (path.size() or 0) + sum(int(entry["size"]) for _, entry in path.below())
    return sum(status.st_size for status in _walk(path))


def _remove(path: Place, root: Place) -> None:
    """Out of sight in one step, then away: a reader never meets half a folder."""
    if isinstance(path, ObjectPath):
        remove_objects(path)
        return
    with writing_to(path):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        if path.parent.name == "quarantine":  # no reader looks there
            remove_tree(path)
            return
        drafts = path.parent if path.parent.name == "drafts" else path.parent.parent / "drafts"
        assert isinstance(root, Path)
        check_within(drafts, root)
        drafts.mkdir(exist_ok=True)
        doomed = drafts / uuid.uuid4().hex
        # another gc, or the build that published it, may be first
        if move_away(path, doomed):
            remove_tree(doomed)
