"""Files of a folder of weights, which somebody else made: a path in, its bytes or an error by name.

Links are followed, since the hub's cache is made of them; pipes, devices and folders are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from embedstore.errors import BadWeights, MissingWeights
from embedstore.regular_files import open_regular, read_regular
from embedstore.store.objects import DAMAGE, TOO_MANY_OPEN, unless_damage

ANEW = "Download the folder again."
LFS = b"version https://git-lfs.github.com/spec"


def stands(path: Path) -> bool:
    """Whether a name is taken, by a file or by anything else; a link to nothing is no file."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no right to look, a circle of links: opening it says so
        return True
    return True


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says against reading a file of weights into an error that names it.

    Raises
    ------
    MissingWeights
        There is no such file, or it cannot be read now.
    BadWeights
        Something else than a regular file stands there.
    Unreachable
        Too many files are open.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingWeights(f"There is no file {str(path)!r}.", ANEW) from error
    except OSError as error:
        if error.errno in TOO_MANY_OPEN:
            unless_damage(error, path)
        problem = f"{path} cannot be read: {error.strerror or error}."
        if error.errno in DAMAGE:
            raise BadWeights(problem, ANEW) from error
        raise MissingWeights(
            problem, "See to the rights, the disk and the network share."
        ) from error


def read_small(path: Path, most: int) -> bytes:
    """The content of a file that has at most so many bytes.

    Raises
    ------
    MissingWeights, BadWeights
        As by `reading`; BadWeights also where it is larger.
    """
    with reading(path):
        return read_regular(path, most=most)


def open_file(path: Path) -> BufferedReader:
    """A regular file, to read piece by piece.

    Raises
    ------
    MissingWeights, BadWeights
        As by `reading`.
    """
    with reading(path):
        return open_regular(path)
