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
    if within is not None:
        check_within(path, within)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
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
        As by `open_handle`; EBADMSG where it is larger than `most`.
    """
    with open_regular(path, within=within) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EBADMSG, f"It has {size} bytes, more than {most}", str(path))
        return file.read()


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
