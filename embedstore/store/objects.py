"""Folders of a bucket: a URL in; a path that lists, reads and writes like one on disk out.

Object stores have no folders and no renaming. A write is seen whole or not at all, and `create`
is refused where an object stands already; on these two everything here rests.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import (
    BadInput,
    DamagedSegment,
    NotWritable,
    StoreError,
    Unreachable,
    WriteFailed,
)
from embedstore.regular_files import check_within, open_regular, read_regular

log = logging.getLogger(__name__)

SCHEMES = {"s3": "Amazon S3 and its like", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
PART_BYTES = 16 << 20
"""Large objects are sent in parts of this size, several at a time."""
COALESCE_BYTES = 64 << 10
"""Ranges that lie closer together are fetched by one request."""

Version = dict[str, str]
"""What a bucket tells two contents of one object apart by: `e_tag`, `version`."""

_MEMORY: dict[str, Any] = {}


class ObjectPath:
    """A place below a bucket, named like a path on disk; immutable, small, survives pickling."""

    def __init__(self, url: str, path: str = "") -> None:
        """Name a place; nothing is asked of the network.

        Parameters
        ----------
        url : of the store, e.g. `s3://bucket/genes.store`; region, endpoint and credentials come
            from the environment, as the client's own variables (`AWS_REGION`, ...)
        path : below it, with slashes
        """
        self.url, self.path = url.rstrip("/"), path
        self._bucket = _Bucket(self.url)

    def _at(self, path: str) -> ObjectPath:
        """Another place of the same store, over the same connection."""
        other = ObjectPath(self.url, path)
        other._bucket = self._bucket
        return other

    def __truediv__(self, name: str) -> ObjectPath:
        return self._at(f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        return f"{self.url}/{self.path}" if self.path else self.url

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    def __reduce__(self) -> tuple[type[ObjectPath], tuple[str, str]]:
        return ObjectPath, (self.url, self.path)  # connections stay behind

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path or urlsplit(self.url).path or self.url).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> ObjectPath:
        """The place above."""
        return self._at(self.path.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        """Its neighbour of another name."""
        return self.parent / name

    def resolve(self) -> ObjectPath:
        """Itself: there are no links."""
        return self

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """The path below another place of the same store."""
        return PurePosixPath(self.path).relative_to(other.path)

    @property
    def client(self) -> Any:
        """The connection that all requests of this store go through."""
        return self._bucket.client

    def size(self) -> int | None:
        """Bytes of the object; None where there is none."""
        import obstore

        try:
            with reaching(self):
                return int(obstore.head(self.client, self.path)["size"])
        except FileNotFoundError:
            return None

    def modified(self) -> float:
        """When the object was written, by the clock of the bucket: seconds since 1970."""
        import obstore

        with reaching(self):
            written: float = obstore.head(self.client, self.path)["last_modified"].timestamp()
        return written

    def is_file(self) -> bool:
        """Whether an object stands here."""
        return self.size() is not None

    def is_dir(self) -> bool:
        """Whether any object stands below."""
        return next(self.below(), None) is not None

    def exists(self) -> bool:
        """Whether an object stands here or below."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[ObjectPath]:
        """What stands directly below, sorted: objects, and folders of objects."""
        import obstore

        with reaching(self):
            listed = obstore.list_with_delimiter(self.client, f"{self.path}/" if self.path else "")
        paths = [entry["path"] for entry in listed["objects"]] + list(listed["common_prefixes"])
        for path in sorted(paths):
            yield self._at(path)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Places below that match a pattern of `/`-separated names, one listing a name."""
        first, _, rest = pattern.partition("/")
        if not set(first) & set("*?["):
            found = [self / first] if rest or (self / first).exists() else []
        else:
            found = [each for each in self.iterdir() if fnmatch.fnmatchcase(each.name, first)]
        for each in found:
            yield from each.glob(rest) if rest else [each]

    def below(self) -> Iterator[tuple[ObjectPath, dict[str, Any]]]:
        """Every object below, with what the listing says: `size` and `last_modified`."""
        import obstore

        with reaching(self):
            for chunk in obstore.list(self.client, f"{self.path}/" if self.path else None):
                for entry in chunk:
                    yield self._at(entry["path"]), dict(entry)

    def read_bytes(self, most: int | None = None) -> bytes:
        """The whole object.

        Parameters
        ----------
        most : bytes that it may have; more are not fetched

        Raises
        ------
        FileNotFoundError
        OSError
            EBADMSG: it is larger than `most`.
        Unreachable
        """
        return self.read_version(most)[0]

    def read_version(self, most: int | None = None) -> tuple[bytes, Version]:
        """The whole object, and what tells it from a later one, for `swap`.

        Raises
        ------
        FileNotFoundError, OSError, Unreachable
            As by `read_bytes`.
        """
        import obstore

        with reaching(self):
            got = obstore.get(self.client, self.path)
            size = int(got.meta["size"])
            content = b"" if most is not None and size > most else bytes(got.bytes())
        if most is not None and size > most:
            raise OSError(errno.EBADMSG, f"It has {size} bytes, more than {most}", str(self))
        told = {"e_tag": got.meta.get("e_tag"), "version": got.meta.get("version")}
        return content, {name: value for name, value in told.items() if value is not None}

    def read_ranges(self, starts: list[int], sizes: list[int]) -> list[NDArray[np.uint8]]:
        """Ranges of the object, of which near ones share a request.

        Returns
        -------
        One array a range; a short one where the object ends in the range.

        Raises
        ------
        FileNotFoundError
        Unreachable
            Also where the object ends before a range begins.
        """
        import obstore

        # the client's own joining of ranges panics where the object is too short
        joined, where = _join_ranges(starts, sizes)
        with reaching(self):
            parts = obstore.get_ranges(
                self.client,
                self.path,
                starts=[begin for begin, _ in joined],
                ends=[end for _, end in joined],
                coalesce=0,
            )
        got = [np.frombuffer(memoryview(part), np.uint8) for part in parts]
        return [
            got[number][start - joined[number][0] :][:size]
            for number, start, size in zip(where, starts, sizes, strict=True)
        ]

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The object as a file to read, fetched piece by piece."""
        if mode != "rb":
            raise ValueError("objects are opened for reading; `write` makes them")
        size = self.size()
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "No such object", str(self))
        return io.BufferedReader(_Pieces(self, size), 4 << 20)

    def write(self, content: bytes | Path) -> None:
        """Make or replace the object; a reader sees the old or the new one.

        Parameters
        ----------
        content : the bytes, or the file that holds them

        Raises
        ------
        WriteFailed
        """
        self._put(content, "overwrite")

    def create(self, content: bytes | Path) -> bool:
        """Make the object, unless one stands there; False where one does.

        Raises
        ------
        WriteFailed
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._put(content, "create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def swap(self, content: bytes, seen: Version) -> bool | None:
        """Replace the object that was seen, and no other.

        Parameters
        ----------
        seen : as by `read_version`

        Returns
        -------
        False where another stands there now, or none; None where the bucket has no such request,
        and nothing was written.

        Raises
        ------
        WriteFailed
            It may have been replaced or not.
        """
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        if not seen:
            return None
        try:
            self._put(content, seen)
        except (AlreadyExistsError, PreconditionError):
            return False
        except WriteFailed as error:
            if isinstance(error.__cause__, NotSupportedError):
                return None
            raise
        return True

    def copy_to(self, other: ObjectPath) -> None:
        """Copy the object to another place of the same store, without it passing through here.

        Raises
        ------
        WriteFailed
        """
        import obstore

        with writing(other):
            obstore.copy(self.client, self.path, other.path)

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the object; one that is gone is no error."""
        import obstore

        with writing(self):
            try:
                obstore.delete(self.client, self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def _put(self, content: bytes | Path, mode: Literal["create", "overwrite"] | Version) -> None:
        import obstore

        with writing(self):
            # what is conditional goes in one piece: parts cannot be
            obstore.put(
                self.client,
                self.path,
                content,
                mode=cast(Any, mode),
                chunk_size=PART_BYTES,
                use_multipart=None if mode == "overwrite" else False,
            )


DAMAGE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(getattr(errno, name) for name in ("EBADMSG", "EUCLEAN") if hasattr(errno, name)),
}
"""Errors of a file system that tell of the content: a file that is gone or is none, or one whose
own checksum is wrong. Any other (no right, no file handle, a broken disk) says nothing of it."""
TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}

Place = Path | ObjectPath
"""Where a store or a part of it lies: on disk, or in a bucket."""


def locate(place: str | Place) -> Place:
    """The place that a path or URL names.

    Parameters
    ----------
    place : a path; `file:///...`, which is one; `s3://`, `gs://` or `az://` with a bucket and a
        folder in it; `memory://NAME`, which ends with this process

    Raises
    ------
    BadInput
        The URL has no bucket, or another scheme.
    """
    if not isinstance(place, str):
        return place
    scheme, sign, _ = place.partition("://")
    if not sign:
        return Path(place)
    parts = urlsplit(place)
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise BadInput(f"{place} is not on this machine.", "Write file:///absolute/path.")
        return Path(url2pathname(unquote(parts.path)))
    if scheme not in SCHEMES and scheme != "memory":
        known = ", ".join(f"{name}://" for name in [*SCHEMES, "file", "memory"])
        raise BadInput(f"{place} has a scheme that no store can have.", f"Known: {known}.")
    if not parts.netloc or parts.query or parts.fragment:
        raise BadInput(f"{place} is not a bucket's folder.", f"Write {scheme}://BUCKET/FOLDER.")
    if scheme == "memory":  # one for all folders in it
        return ObjectPath(f"memory://{parts.netloc}", parts.path.strip("/"))
    return ObjectPath(place)


def names_in(folder: Place, root: Place | None = None) -> list[str]:
    """Names of what stands directly in a folder, sorted; none where there is no folder.

    Parameters
    ----------
    root : folder of the store, out of which no link may lead; None: not asked

    Raises
    ------
    DamagedSegment
        The folder is a link that leads out of `root`, or something else stands there.
    Unreachable
        It cannot be listed now, which `Path.glob` takes for an empty folder.
    """
    if isinstance(folder, ObjectPath):
        return sorted(each.name for each in folder.iterdir())
    if root is not None and leads_out(folder, root):
        raise DamagedSegment(
            f"{str(folder)!r} is a link that leads out of its store.",
            "Remove the link, and put the folder itself in its place.",
        )
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        unless_damage(error, folder)
        if root is not None and os.path.lexists(folder):
            raise DamagedSegment(
                f"{str(folder)!r} is no folder ({error.strerror}).",
                "Move away what stands there, then run `embedstore verify`.",
            ) from error
        return []


def matching(folder: Place, pattern: str) -> list[Place]:
    """Places below a folder that match a pattern of `/`-separated names, sorted.

    No link that leads out of the folder is followed; the last name may be one.

    Raises
    ------
    Unreachable
    """
    if isinstance(folder, ObjectPath):
        return sorted(folder.glob(pattern), key=str)
    return list(_matching(folder, pattern, folder))


def _matching(folder: Path, pattern: str, root: Path) -> Iterator[Place]:
    first, _, rest = pattern.partition("/")
    if set(first) & set("*?["):
        found = [folder / name for name in names_in(folder) if fnmatch.fnmatchcase(name, first)]
    else:
        found = [folder / first] if os.path.lexists(folder / first) else []
    for each in found:
        if not rest:
            yield each
        elif not leads_out(each, root):
            yield from _matching(each, rest, root)
        else:
            log.warning("%s is passed over: it is a link that leads out of its folder.", each)


def may_exist(path: Place) -> bool:
    """Whether something is in a place, or may be and cannot be looked at."""
    if isinstance(path, ObjectPath):
        return path.exists()
    try:
        path.stat()
    except OSError as error:
        return error.errno not in DAMAGE
    return True


def leads_out(path: Place, root: Place) -> bool:
    """Whether a path on disk leads out of a folder once links are followed."""
    if isinstance(path, ObjectPath):
        return False
    assert isinstance(root, Path)
    try:
        check_within(path, root)
    except OSError:
        return True
    return False


def below(path: Place, folder: Place) -> str:
    """Path of a place below a folder, with slashes."""
    if isinstance(path, ObjectPath):
        assert isinstance(folder, ObjectPath)
        return path.relative_to(folder).as_posix()
    assert not isinstance(folder, ObjectPath)
    return path.relative_to(folder).as_posix()


def unless_damage(error: OSError, place: Place) -> None:
    """Raise where a read failed for a reason that is none of the file's own.

    Raises
    ------
    Unreachable
    """
    if error.errno is None or error.errno in DAMAGE:  # libraries tell of content without a number
        return
    fix = "See to the rights, the disk and the network share, then run it again."
    if error.errno in TOO_MANY_OPEN:
        fix = "Raise the limit of open files (`ulimit -n 4096`), then run it again."
    raise Unreachable(f"{str(place)!r} cannot be read now: {error.strerror}.", fix) from error


def read_in(root: Place, path: Place, *, most: int | None = None) -> bytes:
    """The content of a file or object of a store.

    Parameters
    ----------
    root : folder of the store, out of which no link may lead
    most : bytes that it may have; more are not read

    Raises
    ------
    OSError
        Of a file: as by `regular_files.read_regular`. Of an object: FileNotFoundError, and EBADMSG
        where it is larger than `most`.
    Unreachable
        The bucket does not answer.
    """
    if isinstance(path, ObjectPath):
        return path.read_bytes(most)
    assert isinstance(root, Path)
    return read_regular(path, within=root, most=most)


def open_in(root: Place, path: Place) -> io.BufferedReader:
    """A file or object of a store, to read piece by piece.

    Raises
    ------
    OSError
        As by `read_in`.
    """
    if isinstance(path, ObjectPath):
        return path.open("rb")
    assert isinstance(root, Path)
    return open_regular(path, within=root)


def size_of(path: Place) -> int | None:
    """Bytes of a file or object; None where there is none."""
    if isinstance(path, ObjectPath):
        return path.size()
    return path.stat().st_size if path.is_file() else None


@contextmanager
def reaching(place: ObjectPath) -> Iterator[None]:
    """Turn what a client says against reading into our errors; absence stays FileNotFoundError.

    Raises
    ------
    Unreachable
        Nothing is known of the object: no network, no right, a server that fails.
    """
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except StoreError:  # some are ValueErrors too
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise Unreachable(
            f"{place} may not be read.", "Check the credentials, and the rights they carry."
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "No such object", str(place)) from error
    except (BaseError, OSError, ValueError) as error:
        raise Unreachable(
            f"{place} cannot be reached: {_first_line(error)}.",
            "Check the network, the endpoint and the bucket's name, then run it again.",
        ) from error


@contextmanager
def writing(place: ObjectPath) -> Iterator[None]:
    """Turn what a client says against writing into our errors; what is created twice stays.

    Raises
    ------
    WriteFailed
    """
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    try:
        yield
    except (StoreError, AlreadyExistsError, PreconditionError):  # some of ours are ValueErrors
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise NotWritable(
            f"{place} may not be written.", "Check the credentials, and the rights they carry."
        ) from error
    except (BaseError, OSError, ValueError) as error:
        raise WriteFailed(
            f"{place} cannot be written: {_first_line(error)}.",
            "Check the network and the bucket, then run the same command again: what was "
            "published stays.",
        ) from error


class _Bucket:
    """The connection to one store, made when first used; places of the store share it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def client(self) -> Any:
        """The connection; a new one asks for credentials and a handshake anew."""
        scheme = urlsplit(self._url).scheme
        if scheme == "memory":
            from obstore.store import MemoryStore

            return _MEMORY.setdefault(self._url, MemoryStore())
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        try:
            return from_url(self._url, retry_config={"retry_timeout": timedelta(seconds=60)})
        except (BaseError, ValueError) as error:
            raise BadInput(
                f"{self._url} cannot be used: {_first_line(error)}.",
                f"Give {scheme}://BUCKET/FOLDER, and set the client's environment variables.",
            ) from error


class _Pieces(io.RawIOBase):
    """An object read in ranges, each asked for when it is wanted."""

    def __init__(self, path: ObjectPath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        (part,) = self._path.read_ranges([self._at], [count])
        buffer[: len(part)] = part.data
        self._at += len(part)
        return len(part)


def _join_ranges(starts: list[int], sizes: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Begin and end of each range to ask for; for each one wanted, which of them holds it."""
    joined: list[tuple[int, int]] = []
    where = [0] * len(starts)
    for at in sorted(range(len(starts)), key=starts.__getitem__):
        begin, end = starts[at], starts[at] + sizes[at]
        if joined and begin <= joined[-1][1] + COALESCE_BYTES:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
        where[at] = len(joined) - 1
    return joined, where


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300] or type(error).__name__
