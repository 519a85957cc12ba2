"""Opening a recipe's index: a listing of its segments in, an index that agrees with it out.

The index file is never trusted over the segments: one listing of their folder decides what is
stale. Entries of segments that are gone are passed over, segments that came since are read, and
once enough has changed the file is written anew by a merge. A segment's name is the digest of its
keys, so a folder of the same name cannot hold other keys. One that is damaged is left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from embedstore.errors import DamagedSegment, NewerFormat, StoreError, Unreachable
from embedstore.store.index import KeyIndex, KeyTable, SegmentKeys
from embedstore.store.index_file import UnusableIndex, read_index, write_index
from embedstore.store.objects import ObjectPath, Place
from embedstore.store.published import Segment
from embedstore.store.segment_document import DOCUMENT

log = logging.getLogger(__name__)

FEW_KEYS = 20_000
"""Changes of fewer keys are not written: reading them again takes milliseconds."""
FEW_SEGMENTS = 200
"""Changes of more segments are always written."""
READ_AT_ONCE = 16
"""Segments of a bucket that are asked for side by side."""
CHANGED_SHARE = 0.1
"""Part of the written keys that may change before the file is written anew."""


def index_path(recipe_folder: Place) -> Place:
    """The index file of a recipe."""
    return recipe_folder / "index" / "keys.bin"


def open_index(
    recipe_folder: Place, listed: Sequence[str], segment: Callable[[str], Segment]
) -> tuple[KeyIndex, list[StoreError]]:
    """The index of the segments in a listing, and why some of them are left out of it.

    Where the folder cannot be written, what is new is kept in memory alone.

    Parameters
    ----------
    listed : names in the folder of segments, sorted
    segment : the segment of a name

    Returns
    -------
    The index, and an error (`DamagedSegment` or `NewerFormat`) for each segment that had to be read
    and could not be. Such a segment is asked for again at the next opening.

    Raises
    ------
    Unreachable
        Nothing can be said of a segment.
    """
    path = index_path(recipe_folder)
    written = _read_written(path)
    known = set(written.names) if written else set()
    new = [segment(name) for name in listed if name not in known]
    if isinstance(recipe_folder, ObjectPath):  # the time goes in waiting for answers
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            read = list(pool.map(_read_or_why, new))
    else:
        read = [_read_or_why(each) for each in new]
    fresh = [keys for keys in read if isinstance(keys, SegmentKeys)]
    left_out = [error for error in read if isinstance(error, StoreError)]
    if left_out:
        more = f" And {len(left_out) - 1} more." if len(left_out) > 1 else ""
        log.warning("Left out: %s%s", left_out[0], more)
    return _index_of(path, written, listed, fresh), left_out


def _index_of(
    path: Place, written: KeyTable | None, listed: Sequence[str], fresh: list[SegmentKeys]
) -> KeyIndex:
    """The index of what was written before and of what was read now, written where worth it."""
    if written is None:
        table = KeyTable.of(fresh)
        if _worth_writing(len(table.entries), len(fresh), 0):
            _write(path, table)
        return KeyIndex(table.names, [table])
    names = sorted((set(written.names) & set(listed)) | {each.name for each in fresh})
    gone = len(written.names) + len(fresh) - len(names)
    if not fresh and not gone:
        return KeyIndex(names, [written])
    added = KeyTable.of(fresh)
    lost_keys = int(written.keys[written.kept(names) < 0].sum())
    changed = len(added.entries) + lost_keys
    if _worth_writing(changed, len(fresh) + gone, len(written.entries)):
        table = written.merged(added, names)
        _write(path, table)
        return KeyIndex(names, [table])
    return KeyIndex(names, [written, added] if fresh else [written])


def read_keys(segment: Segment) -> SegmentKeys | None:
    """Keys and counts of a segment, not kept in memory; None for a folder never published.

    Raises
    ------
    DamagedSegment, NewerFormat, Unreachable
    """
    try:
        document, keys, lengths = segment.document, segment.keys, segment.length
    except DamagedSegment as error:
        if not isinstance(error.__cause__, FileNotFoundError) or was_published(segment):
            raise
        log.warning("%s has no %s: it is passed over.", segment.folder.name, DOCUMENT)
        return None
    finally:
        segment.forget()
    return SegmentKeys(segment.name, keys, lengths, document.tokens, document.bytes)


def was_published(segment: Segment) -> bool:
    """Whether anything stands in the place of a segment's document."""
    path = segment.folder / DOCUMENT
    return path.is_file() if isinstance(path, ObjectPath) else os.path.lexists(path)


def _read_or_why(segment: Segment) -> SegmentKeys | StoreError | None:
    try:
        return read_keys(segment)
    except (DamagedSegment, NewerFormat) as error:
        return error


def _read_written(path: Place) -> KeyTable | None:
    try:
        return read_index(path) if path.is_file() else None
    except UnusableIndex as error:
        log.warning("The index %s is made anew: %s.", path, error)
    except Unreachable as error:
        log.warning("The index is read from the segments: %s", error)
    return None


def _worth_writing(keys: int, segments: int, written: int) -> bool:
    return segments > FEW_SEGMENTS or keys > max(FEW_KEYS, CHANGED_SHARE * written)


def _write(path: Place, table: KeyTable) -> None:
    try:
        write_index(path, table)
    except StoreError as error:
        log.info("The index is kept in memory: %s", error)
