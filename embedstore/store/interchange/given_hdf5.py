"""HDF5 files that somebody else wrote: a path in, data sets whose values can be read out.

A data set is a description: where its values are, how many, how they were packed. Each of these may
lead to other files of this machine, or to far more memory than the file has bytes, so all are
checked before a value is read. Nothing here follows a link that has a target of its own.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from embedstore.errors import BadInput, StoreError, Unreachable
from embedstore.regular_files import open_handle
from embedstore.store.objects import TOO_MANY_OPEN, unless_damage

MOST_OBJECTS = 10_000_000
"""Groups and data sets of a file."""
DEEPEST = 64
"""Groups within groups."""
MOST_WIDTH = 1 << 16
"""Numbers in a row of an embedding; the widest models have some ten thousand."""
MOST_CHUNK = 64 << 20
"""Bytes of a chunk that is larger than its data set."""
MOST_PACKED = 100
"""How many times as large as on disk a large data set may be; embeddings pack to a half."""
FREE = 64 << 20
"""Bytes that a data set may have however small it is packed, as one of zeros is."""
_DEFLATE, _SHUFFLE, _FLETCHER, _LZF = h5py.h5z.FILTER_DEFLATE, 2, 3, 32000
_FILTERS = (_DEFLATE, _SHUFFLE, _FLETCHER, _LZF)
_ROOM = 1 << 10  # what a filter may add to a chunk that it cannot make smaller, with 1 %
_MOST_INFLATED = 1032  # what one byte of deflate can become
_AGAIN = "Write the file anew, with its own values in plain or gzip data sets."


def open_given(path: Path) -> h5py.File:
    """Open a file that may be none.

    Raises
    ------
    BadInput
        There is none, it is a pipe, a device or a folder, or it is no HDF5.
    Unreachable
        Too many files are open.
    """
    try:
        os.close(open_handle(path))
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise BadInput(f"There is no file {str(path)!r}.", "Check the path.") from None
    except Exception as error:  # h5py's own kinds differ with what is wrong in the file
        if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
            unless_damage(error, path)
        raise BadInput(
            f"{path} cannot be read as HDF5: {_words(error)}.",
            "Give an HDF5 file that is whole, and that nobody is writing.",
        ) from error


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever h5py raises on a damaged file into an error that names it.

    Raises
    ------
    BadInput
    Unreachable
        Too many files are open, or there is too little memory.
    """
    try:
        yield
    except StoreError:
        raise
    except MemoryError as error:  # which says nothing of the file
        raise Unreachable(
            f"{path}: {what} cannot be read now: there is too little memory.",
            "Try again when there is more.",
        ) from error
    except Exception as error:  # by what is wrong: OSError, KeyError, RuntimeError, TypeError, ...
        if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
            unless_damage(error, path)
        raise BadInput(
            f"{path}: {what} cannot be read ({_words(error)}).", "Get it again."
        ) from error


def data_sets(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set of a file with its path, `a/b` for one in a group, in the order of names.

    Soft links are left alone: they may lead in a circle. A group that is met again is passed over.

    Raises
    ------
    BadInput
        A link or a data set leads to another file, or there are too many objects or levels.
    """
    seen = {_address(file)}
    levels: list[tuple[str, h5py.Group, Iterator[str]]] = [("", file, iter(file))]
    met = 0
    while levels:
        within, group, names = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
            continue
        met += 1
        if met > MOST_OBJECTS:
            raise BadInput(f"{path} has more than {MOST_OBJECTS} objects.", _AGAIN)
        whole = within + name
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise BadInput(f"{whole[:200]!r} of {path} is a link to another file.", _AGAIN)
        if not isinstance(link, h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset):
            _check_place(path, whole, item)
            yield whole, item
        elif isinstance(item, h5py.Group) and (address := _address(item)) not in seen:
            if len(levels) >= DEEPEST:
                raise BadInput(f"{path} has groups more than {DEEPEST} deep.", _AGAIN)
            seen.add(address)
            levels.append((f"{whole}/", item, iter(item)))


def text_of(path: Path, name: str, data: h5py.Dataset, attribute: str) -> str | None:
    """An attribute that is a text or a whole number; None where there is none.

    Raises
    ------
    BadInput
        It is something else.
    """
    if attribute not in data.attrs:
        return None
    held = data.attrs.get_id(attribute)
    text = held.dtype.kind in "SU" or h5py.check_string_dtype(held.dtype) is not None
    if held.shape != () or not (text or held.dtype.kind in "iu"):
        raise BadInput(
            f"Attribute {attribute!r} of data set {name[:200]!r} of {path} is no text.", _AGAIN
        )
    value = data.attrs[attribute]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check_values(path: Path, name: str, data: h5py.Dataset) -> None:
    """Check that a data set has all its values in the file, packed so that reading them is safe.

    Parameters
    ----------
    data : of shape and type that were checked

    Raises
    ------
    BadInput
        Names the data set, and what it declares against what is stored.
    """
    stored = data.id.get_storage_size()
    if data.chunks is None:
        if stored != data.nbytes:
            raise _unlike(path, name, data, stored)
        return
    if data.nbytes > FREE and data.nbytes > MOST_PACKED * stored:
        raise _unlike(path, name, data, stored)
    wanted = math.prod(-(-n // step) for n, step in zip(data.shape, data.chunks, strict=True))
    if data.id.get_num_chunks() != wanted:
        raise _unlike(path, name, data, stored)
    _check_chunks(path, name, data)


def _check_chunks(path: Path, name: str, data: h5py.Dataset) -> None:
    shown = f"Data set {name[:200]!r} of {path}"
    properties = data.id.get_create_plist()
    filters = [properties.get_filter(at)[0] for at in range(properties.get_nfilters())]
    other = next((each for each in filters if each not in _FILTERS), None)
    if other is not None:
        raise BadInput(f"{shown} is packed by HDF5 filter {other}, which is not read.", _AGAIN)
    packing = [each for each in filters if each in (_DEFLATE, _LZF)]
    if len(set(filters)) < len(filters) or len(packing) > 1:
        raise BadInput(f"{shown} is packed several times over.", _AGAIN)
    chunk = math.prod(data.chunks) * data.dtype.itemsize
    if chunk > max(MOST_CHUNK, data.nbytes):
        raise BadInput(f"{shown} has chunks of {chunk} bytes, more than {MOST_CHUNK}.", _AGAIN)
    pieces: list[tuple[tuple[int, ...], int]] = []
    data.id.chunk_iter(lambda info: pieces.append((info.chunk_offset, info.size)))
    for offset, size in pieces:
        if size > chunk + chunk // 100 + _ROOM or (not packing and size < chunk):
            raise BadInput(f"{shown} has a chunk of {size} bytes in place of {chunk}.", _AGAIN)
        # HDF5 inflates a chunk to its end, however far beyond the declared size that lies
        if packing == [_DEFLATE] and size * _MOST_INFLATED > MOST_CHUNK:
            packed = data.id.read_direct_chunk(offset)[1]
            left, inflate = chunk + _ROOM, zlib.decompressobj()
            while left > 0 and packed and not inflate.eof:
                left -= len(inflate.decompress(packed, 1 << 20))
                packed = inflate.unconsumed_tail
            if left <= 0:
                raise BadInput(f"{shown} has a chunk that unpacks to more than it is.", _AGAIN)


def _check_place(path: Path, name: str, data: h5py.Dataset) -> None:
    """Before anything is asked of a data set that may open another file."""
    properties = data.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise BadInput(
            f"Data set {name[:200]!r} of {path} is virtual: its values lie elsewhere.", _AGAIN
        )
    if properties.get_external_count():
        raise BadInput(f"Data set {name[:200]!r} of {path} has its values in another file.", _AGAIN)


def _address(group: h5py.Group) -> tuple[int, int]:
    info = h5py.h5o.get_info(group.id)
    return int(info.fileno), int(info.addr)


def _unlike(path: Path, name: str, data: h5py.Dataset, stored: int) -> BadInput:
    return BadInput(
        f"Data set {name[:200]!r} of {path} declares shape {data.shape} of {data.dtype}, "
        f"{data.nbytes} bytes, and the file has {stored} bytes of it.",
        _AGAIN,
    )


def _words(error: Exception) -> str:
    """What a library says, in one line."""
    said = " ".join(str(error).split()).rstrip(".")
    return said[:200] or type(error).__name__
