"""Files that appear whole or not at all: written aside, synced, then moved into place."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from embedstore.errors import NotWritable, StoreFull, WriteFailed
from embedstore.regular_files import check_within, open_handle
from embedstore.store.objects import ObjectPath, Place

log = logging.getLogger(__name__)

DRAFT_SUFFIX = ".draft"
"""Ending of files that are being written; what a killed process leaves is for `gc`."""
SYNC_THREADS = 8
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
CANNOT_SYNC_FOLDERS = {
    getattr(errno, name)
    for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")
    if hasattr(errno, name)
}
"""What SMB, FUSE and some NFS answer to fsync of a folder: their servers keep names themselves."""
ONCE_MORE = 100
"""Times that a tree is tried again which somebody else removes too."""

_told_unsynced = False


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
def replacing(path: Place, *, sync: bool = True, within: Place | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` in one step when the block ends.

    What goes to a bucket is held in memory meanwhile.

    Parameters
    ----------
    within : folder, of a store for instance, out of which no link on the way may lead

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
        if within is not None:
            assert isinstance(within, Path)
            check_within(path.parent, within)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{DRAFT_SUFFIX}")
        try:
            # not "x": a client whose server's answer was lost asks again, and finds it there
            with aside.open("wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            replace_file(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)


def write_atomically(path: Place, content: bytes, *, within: Place | None = None) -> None:
    """Replace a file in one step; a reader sees the old or the new content.

    Parameters
    ----------
    within : as of `replacing`

    Raises
    ------
    WriteFailed
        The old content, if any, is still there.
    """
    with replacing(path, within=within) as file:
        file.write(content)


def replace_file(aside: Path, path: Path) -> None:
    """Move a file over another one, or to where none is.

    A network share may do it, lose its answer and be asked again: then there is nothing left to
    move, and what stands at `path` is the file that was to be moved. That is no failure.

    Raises
    ------
    OSError
        It was not moved.
    """
    own = _mark(aside)
    try:
        aside.replace(path)
    except OSError as error:
        if not _is_there(own, aside, path):
            raise
        log.info("%s was moved, whatever was answered: %s", path, error)


def move_away(path: Path, to: Path) -> bool:
    """Move a file or folder to a name that nobody else uses; False where it was gone before.

    A link is moved itself. A lost answer is no failure, as of `replace_file`.

    Raises
    ------
    OSError
        It was not moved.
    """
    try:
        path.rename(to)
    except OSError as error:
        gone = not os.path.lexists(path)
        if gone and os.path.lexists(to):
            log.info("%s was moved, whatever was answered: %s", to, error)
        elif gone and isinstance(error, FileNotFoundError):
            return False
        else:
            raise
    return True


def remove_tree(folder: Path) -> None:
    """Remove what was moved out of sight; what others remove meanwhile is no failure.

    A network share keeps files that somebody has open under other names: these stay, for `gc`.

    Raises
    ------
    OSError
        It stays for another reason.
    """
    for _ in range(ONCE_MORE):
        try:
            # rmtree opens what it is given first, and waits for ever at a pipe
            if stat.S_ISDIR(folder.lstat().st_mode):
                shutil.rmtree(folder)
            else:
                folder.unlink()
            return
        except FileNotFoundError:
            if not os.path.lexists(folder):
                return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise
            log.info("%s stays until the next `gc`: %s", folder, error)
            return


@dataclass(frozen=True)
class _Mark:
    """How to know a file or folder again under another name."""

    inode: tuple[int, int]
    """Device and number."""
    files: Mapping[str, tuple[int, int]]
    """Bytes and time of writing, in ns, of every file in it, by path."""


def _mark(path: Path) -> _Mark:
    status = path.lstat()
    files = {}
    if stat.S_ISDIR(status.st_mode):
        files = {name: (each.st_size, each.st_mtime_ns) for name, each in _files_in(path)}
    elif stat.S_ISREG(status.st_mode):
        files = {"": (status.st_size, status.st_mtime_ns)}
    return _Mark((status.st_dev, status.st_ino), files)


def _is_there(own: _Mark, left: Path, path: Path) -> bool:
    """Whether what was to be moved has left its place and stands at another."""
    try:
        found = _mark(path)
    except OSError:  # nothing is there, or nothing is known of it
        return False
    # numbers are given again at once, and some network file systems give one to every name
    same = bool(own.files) and found.files == own.files
    return same and (found.inode == own.inode or not os.path.lexists(left))


def _files_in(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder that is no folder, by its path with slashes; follows no links.

    Raises
    ------
    OSError
        The folder cannot be listed, or something vanished.
    """

    def stop(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=stop):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for path in (Path(place, name) for name in (*names, *links)):
            yield path.relative_to(folder).as_posix(), path.lstat()


def sync_folder(folder: Path) -> None:
    """Make names just made or moved in a folder survive a power cut, where that can be asked for.

    Raises
    ------
    OSError
        The disk fails. That a file system knows no such request is no failure.
    """
    global _told_unsynced
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC_FOLDERS:
            raise
        if not _told_unsynced:
            _told_unsynced = True
            log.info("%s is on a file system that syncs no folders: %s", folder, error)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make every file and name in a folder survive a power cut.

    Several at a time: file systems with a journal then take few flushes of the disk for all.

    Raises
    ------
    OSError
        A file cannot be synced, or is none.
    """
    files, folders = [], []
    for path, _, names in os.walk(folder):
        folders.append(Path(path))
        files += [Path(path, name) for name in names]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        for _ in pool.map(_sync_file, files):
            pass
        for _ in pool.map(sync_folder, folders):
            pass


def _sync_file(path: Path) -> None:
    handle = open_handle(path)
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
    try:
        there = {
            name: status.st_size if stat.S_ISREG(status.st_mode) else -1
            for name, status in _files_in(draft)
        }
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
        own = _mark(draft)
        check_draft(draft, files)  # the last thing before: syncing may take long
        try:
            # fails on a folder that is not empty: exclusive. `gc` takes a draft away whole, by a
            # rename of its own, so what is moved here is as it was checked
            draft.rename(final)
        except OSError as error:
            if not _is_there(own, draft, final):
                if not _holds_something(final):
                    raise
                shutil.rmtree(draft, ignore_errors=True)
                return False
            log.info("%s was published, whatever was answered: %s", final, error)
        sync_folder(final.parent)
        return True


def _holds_something(folder: Path) -> bool:
    """Whether a folder stands there that is not empty: nothing can be moved onto it."""
    try:
        return bool(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return False
