"""Files that appear whole or not at all: written aside, synced, then moved into place."""

from __future__ import annotations

import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from embedstore.errors import NotWritable, StoreFull, WriteFailed
from embedstore.store.objects import ObjectPath, Place

DRAFT_SUFFIX = ".draft"
"""Ending of files that are being written; what a killed process leaves is for `gc`."""
SYNC_THREADS = 8
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what the system says against writing into one of our errors.

    Raises
    ------
    StoreFull
        The disk, a quota or the largest file allowed is used up.
    NotWritable
        The file system is read-only, or the folder is somebody else's.
    WriteFailed
        Anything else: a broken disk, a network share that went away.
    """
    try:
        yield
    except OSError as error:
        problem = f"{str(path)!r} cannot be written: {error.strerror or error}."
        if error.errno in FULL:
            raise StoreFull(
                problem,
                "Make room, or raise the quota, then run the same command again: what was "
                "published stays.",
            ) from error
        if error.errno in FORBIDDEN:
            raise NotWritable(
                problem, "Name a folder that you may write to, or ask for the right to."
            ) from error
        raise WriteFailed(
            problem,
            "Check the disk or network share, then run the same command again: what was "
            "published stays.",
        ) from error


@contextmanager
def replacing(path: Place, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` in one step when the block ends.

    What goes to a bucket is held in memory meanwhile.

    Raises
    ------
    WriteFailed
        The old content, if any, is still there.
    """
    if isinstance(path, ObjectPath):
        held = io.BytesIO()
        yield held
        path.write(held.getvalue())
        return
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{DRAFT_SUFFIX}")
        try:
            with aside.open("xb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)


def write_atomically(path: Place, content: bytes) -> None:
    """Replace a file in one step; a reader sees the old or the new content.

    Raises
    ------
    WriteFailed
        The old content, if any, is still there.
    """
    with replacing(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make names just made or moved in a folder survive a power cut."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Make every file and name in a folder survive a power cut.

    Several at a time: file systems with a journal then take few flushes of the disk for all.
    """
    files, folders = [], []
    for path, _, names in os.walk(folder):
        folders.append(Path(path))
        files += [Path(path, name) for name in names]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        for step in (files, folders):
            for _ in pool.map(_sync, step):
                pass


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(draft: Path, final: Path) -> bool:
    """Sync a finished draft and move it to its final name in one step, unless that is taken.

    Returns
    -------
    False where another folder already stands there; the draft is then removed.

    Raises
    ------
    WriteFailed
    """
    with writing_to(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        sync_tree(draft)
        try:
            draft.rename(final)  # fails on a folder that is not empty: exclusive
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(draft)
            return False
        sync_folder(final.parent)
        return True
