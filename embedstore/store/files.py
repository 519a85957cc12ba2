"""Files that appear whole or not at all: written aside, synced, then moved into place."""

from __future__ import annotations

import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
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
        Anything else: a broken disk, a network share that went away, a draft that was removed.
    """
    try:
        yield
    except FileNotFoundError:  # folders are made before they are written to
        raise removed(path) from None
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


def make_folder_in(draft: Path, file: str) -> Path:
    """Path of a file in a draft; its folders are made, but never the draft itself.

    Raises
    ------
    FileNotFoundError
        The draft was removed.
    """
    folder = draft
    for name in file.split("/")[:-1]:
        folder /= name
        folder.mkdir(exist_ok=True)
    return draft / file


def check_draft(draft: Path, files: Mapping[str, int | None]) -> None:
    """Raise where a draft is not what its writer wrote: a writer that slept may have met `gc`.

    Parameters
    ----------
    files : bytes of every file, by its path below the draft, with slashes; where one is None,
        these files are to be there, of any size, and others may be

    Raises
    ------
    WriteFailed
    """
    there: dict[str, int] = {}
    try:
        for folder, _, names in os.walk(draft):
            for path in (Path(folder, name) for name in names):
                there[path.relative_to(draft).as_posix()] = path.stat().st_size
    except FileNotFoundError:  # it is being removed at this moment
        raise removed(draft) from None
    open_ended = None in files.values()
    if not files.keys() <= there.keys() if open_ended else there != files:
        raise removed(draft)


def removed(draft: Path) -> WriteFailed:
    """The error of what is not there any more, or not whole, while it is written."""
    return WriteFailed(
        f"{str(draft)!r} was removed or changed while it was being written; `gc` removes drafts "
        "that nobody wrote to for a day.",
        "Run the same command again: what was published stays.",
    )


def publish_folder(draft: Path, final: Path, files: Mapping[str, int | None]) -> bool:
    """Sync a finished draft and move it to its final name in one step, unless that is taken.

    Parameters
    ----------
    files : as of `check_draft`

    Returns
    -------
    False where another folder already stands there; the draft is then removed.

    Raises
    ------
    WriteFailed
        Also where the draft is not as it was written; nothing was published.
    """
    with writing_to(final):
        check_draft(draft, files)
        final.parent.mkdir(parents=True, exist_ok=True)
        sync_tree(draft)
        check_draft(draft, files)  # the last thing before: syncing may take long
        try:
            # fails on a folder that is not empty: exclusive. `gc` takes a draft away whole, by a
            # rename of its own, so what is moved here is as it was checked
            draft.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(draft, ignore_errors=True)
            return False
        sync_folder(final.parent)
        return True
