"""Opening files that somebody else may have put there: a path in, a regular file out.

A named pipe would wait for a writer for ever, a device may never end, and a link may lead to any
file of this machine. Each is an `OSError` here whose number says that the content is bad
(`store.objects.DAMAGE`), and whose text says what stands there.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
NOT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""Opening a pipe then returns at once; Windows has neither."""
FLAGS = os.O_RDONLY | NOT_WAITING | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


FEW_BYTES = 64 << 20
"""Of a file that may be read whole, whatever it is."""
HOLLOW = 8
"""A larger one that has so many times the bytes on the disk is no file that anybody wrote."""


def open_handle(path: Path, *, within: Path | None = None) -> int:
    """Open a regular file for reading; never waits.

    Parameters
    ----------
    within : folder, of a store for instance, that the file must lie in after all links were
        followed; None: anywhere

    Returns
    -------
    A file descriptor, which the caller closes.

    Raises
    ------
    OSError
        As by `os.open`; EBADMSG where a pipe, a device or a socket stands there, EISDIR where a
        folder does, ELOOP where a link leads out of `within`.
    """
    try:
        handle = os.open(path, FLAGS) if within is None else _open_within(path, within)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise OSError(errno.EBADMSG, "It is no regular file", str(path)) from None
        raise
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kind = KINDS.get(stat.S_IFMT(mode), "no file")
            raise OSError(errno.EBADMSG, f"It is {kind}, no regular file", str(path))
        if NOT_WAITING:
            os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_regular(path: Path, *, within: Path | None = None) -> BufferedReader:
    """Open a regular file for reading, buffered.

    Raises
    ------
    OSError
        As by `open_handle`.
    """
    return os.fdopen(open_handle(path, within=within), "rb")


def read_regular(path: Path, *, within: Path | None = None, most: int | None = None) -> bytes:
    """The content of a regular file.

    Parameters
    ----------
    most : bytes that it may have; more are not read

    Raises
    ------
    OSError
        As by `open_handle`; EBADMSG where it is larger than `most`, or as by `check_written`.
    """
    with open_regular(path, within=within) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EBADMSG, f"It has {size} bytes, more than {most}", str(path))
        check_written(file.fileno(), path)
        return file.read()


def check_written(handle: int, path: Path) -> None:
    """Raise where a large file is little but holes, which would fill the memory with zeros.

    Asked of a file that is to be read whole. File systems that know no holes say that there are
    none.

    Raises
    ------
    OSError
        EBADMSG.
    """
    status = os.fstat(handle)
    size, there = status.st_size, 512 * getattr(status, "st_blocks", status.st_size)
    if size <= FEW_BYTES or HOLLOW * there >= size or not hasattr(os, "SEEK_HOLE"):
        return
    at = os.lseek(handle, 0, os.SEEK_CUR)
    hole = os.lseek(handle, 0, os.SEEK_HOLE)
    os.lseek(handle, at, os.SEEK_SET)
    if hole < size:
        text = f"It has {size} bytes, of which only {there} were ever written"
        raise OSError(errno.EBADMSG, text, str(path))


def check_within(path: Path, folder: Path) -> None:
    """Raise where a path leads out of a folder once all links are followed.

    The folder itself may be a link.

    Raises
    ------
    OSError
        ELOOP.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise OSError(errno.ELOOP, "It is a link that leads out of its folder", str(path))


def _open_within(path: Path, folder: Path) -> int:
    """Open what lies in a folder, and nothing else, not even for a moment.

    Following links by name takes ten times as long as asking Linux where a file lies.
    """
    place = getattr(os, "O_PATH", 0)
    if place:
        handle = os.open(path, place | os.O_NOFOLLOW | os.O_CLOEXEC)  # opens nothing yet
        try:
            is_link = stat.S_ISLNK(os.fstat(handle).st_mode)
            if not is_link and _lies_in(handle, os.fspath(folder)):
                return os.open(f"/proc/self/fd/{handle}", FLAGS)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        finally:
            os.close(handle)
    check_within(path, folder)
    return os.open(path, FLAGS)


def _lies_in(handle: int, folder: str) -> bool:
    """Whether Linux says that a file lies in a folder; False: nothing is known."""
    if os.pardir in folder:
        return False
    start = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118 - many times as fast
    try:
        return os.readlink(f"/proc/self/fd/{handle}").startswith(start)  # noqa: PTH115
    except OSError:
        return False
