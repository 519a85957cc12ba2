"""The key index as one file: a table in, the same table, checked, out.

Layout: MAGIC, the length of the header and its crc32c as little-endian uint32, the header as JSON
(`IndexHeader`), then the arrays, each at a multiple of 64 bytes. The file is derived from the
segments and may be removed at any time. It is read into memory, 28 bytes a key, and not mapped:
whoever cuts a mapped file ends every process that reads it.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import fields
from io import BufferedReader, BytesIO
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from google_crc32c import value as crc32c
from pydantic import Field

from embedstore.documents import BadDocument, Count, Document, parse
from embedstore.regular_files import check_written
from embedstore.store.files import replacing
from embedstore.store.index import Entries, KeyTable
from embedstore.store.objects import ObjectPath, Place, open_in, unless_damage

MAGIC = b"EMBIDX01"
PREFIX = struct.Struct("<8sII")
ALIGN = 64
DTYPES = {"high": "<u8", "low": "<u8", "segment": "<i4", "row": "<i4", "length": "<i4"}
"""Of every array, in the order of the file."""
MOST_HEADER_BYTES = 256 << 20
"""More than a header of a million segments has."""
BLOCK = 1 << 16
"""Entries that are checked at a time: they stay in the processor's cache."""

Number = Annotated[int, Field(ge=0, le=2**32 - 1)]


class IndexArray(Document):
    """Where an array lies, and its checksum."""

    dtype: str
    offset: Count
    """Bytes from the end of the header."""
    crc32c: Number


class IndexHeader(Document):
    """The header of `index/keys.bin`; a checksum of itself stands before it."""

    entries: Count
    segments: list[Annotated[str, Field(min_length=1, max_length=64)]]
    """Names, sorted."""
    keys: list[Count]
    """Of each segment, like the next two."""
    tokens: list[Count]
    bytes: list[Count]
    arrays: dict[str, IndexArray]


class UnusableIndex(Exception):
    """The file is not there, damaged, or of another version; never shown, for it is made anew."""


def write_index(path: Place, table: KeyTable) -> None:
    """Replace the file in one step. Writers side by side are harmless: the last one stays."""
    arrays: dict[str, dict[str, Any]] = {}
    offset = 0  # from the end of the header
    columns = dict(zip([field.name for field in fields(Entries)], table.entries, strict=True))
    for name, column in columns.items():
        little = column.astype(column.dtype.newbyteorder("<"), copy=False)
        columns[name] = little = np.ascontiguousarray(little)
        arrays[name] = {"dtype": little.dtype.str, "offset": offset, "crc32c": crc32c(little)}
        offset += _padded(little.nbytes)
    header = json.dumps(
        {
            "entries": len(table.entries),
            "segments": table.names,
            "keys": table.keys.tolist(),
            "tokens": table.tokens.tolist(),
            "bytes": table.bytes.tolist(),
            "arrays": arrays,
        }
    ).encode()
    header += b" " * (_padded(PREFIX.size + len(header)) - PREFIX.size - len(header))
    # not synced: after a power cut a checksum tells, and the file is made anew
    with replacing(path, sync=False, within=_root(path)) as file:
        file.write(PREFIX.pack(MAGIC, len(header), crc32c(header)))
        file.write(header)
        for column in columns.values():
            file.write(column.data)
            file.write(bytes(_padded(column.nbytes) - column.nbytes))


def read_index(path: Place) -> KeyTable:
    """Read the index of a recipe; every byte is checked, and every entry is one that can be.

    Raises
    ------
    UnusableIndex
    Unreachable
        It cannot be read now.
    """
    root = _root(path)
    try:
        if isinstance(path, ObjectPath):
            content = path.read_bytes()
            return _read(BytesIO(content), len(content))
        with open_in(root, path) as file:
            check_written(file.fileno(), path)
            return _read(file, os.fstat(file.fileno()).st_size)
    except (OSError, BadDocument, MemoryError) as error:
        if isinstance(error, OSError):
            unless_damage(error, path)
        raise UnusableIndex(f"it cannot be read ({error})") from error


def _read(file: BytesIO | BufferedReader, size: int) -> KeyTable:
    """The table in a file of a size: nothing is allocated that the file does not hold."""
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise UnusableIndex("it ends too early")
    magic, header_size, checksum = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise UnusableIndex("it has another format")
    if header_size > min(MOST_HEADER_BYTES, size - PREFIX.size):
        raise UnusableIndex(f"its header has {header_size} bytes")
    text = file.read(header_size)
    if len(text) != header_size or crc32c(text) != checksum:
        raise UnusableIndex("its header does not match its checksum")
    header = parse(IndexHeader, text, most=MOST_HEADER_BYTES)
    _check_header(header, PREFIX.size + header_size, size)
    columns = []
    for name, dtype in DTYPES.items():
        column = np.empty(header.entries, dtype)
        padded = _padded(column.nbytes) - column.nbytes
        got = file.readinto(column.view(np.uint8).data)
        if got != column.nbytes or len(file.read(padded)) != padded:
            raise UnusableIndex("it ends too early")
        if crc32c(column) != header.arrays[name].crc32c:
            raise UnusableIndex(f"{name} does not match its checksum")
        columns.append(column.astype(column.dtype.newbyteorder("="), copy=False))
    table = KeyTable(
        names=header.segments,
        keys=np.array(header.keys, np.int64),
        tokens=np.array(header.tokens, np.int64),
        bytes=np.array(header.bytes, np.int64),
        entries=Entries(*columns),
    )
    _check_entries(table)
    return table


def _check_header(header: IndexHeader, begin: int, size: int) -> None:
    """Raise where a header contradicts itself or the size of its file.

    Parameters
    ----------
    begin : first byte behind the header
    size : bytes of the file
    """
    names, counts = header.segments, (header.keys, header.tokens, header.bytes)
    if any(one >= other for one, other in pairwise(names)):
        raise UnusableIndex("its segments are not sorted")
    if any(len(each) != len(names) for each in counts):
        raise UnusableIndex("it does not count every segment")
    if sum(header.keys) != header.entries:
        raise UnusableIndex(f"its segments do not have {header.entries} keys")
    if header.arrays.keys() != DTYPES.keys():
        raise UnusableIndex("it has other arrays")
    offset = 0
    for name, dtype in DTYPES.items():
        array = header.arrays[name]
        if array.dtype != dtype or array.offset != offset:
            raise UnusableIndex(f"{name} has another type or place")
        offset += _padded(header.entries * np.dtype(dtype).itemsize)
    if begin + offset != size:
        raise UnusableIndex(f"it has {size} bytes and should have {begin + offset}")


def _check_entries(table: KeyTable) -> None:
    """Raise where an entry is out of order or names what no segment has."""
    entries = table.entries
    counted = np.zeros(len(table.names), np.int64)
    for first in range(0, len(entries), BLOCK):
        # one before: order is checked from there
        high, low = (
            each[max(0, first - 1) : first + BLOCK] for each in (entries.high, entries.low)
        )
        part = slice(first, first + BLOCK)
        segment, row, length = entries.segment[part], entries.row[part], entries.length[part]
        if (high[1:] < high[:-1]).any():
            raise UnusableIndex("its keys are not sorted")
        tied = np.flatnonzero(high[1:] == high[:-1])
        if (low[tied + 1] < low[tied]).any():
            raise UnusableIndex("its keys are not sorted")
        if segment.min() < 0 or segment.max() >= len(table.names):
            raise UnusableIndex("an entry names no segment")
        if row.min() < 0 or (row >= table.keys[segment]).any():
            raise UnusableIndex("an entry names no row of its segment")
        if length.min() < 0:
            raise UnusableIndex("an entry has no length")
        counted += np.bincount(segment, minlength=len(counted))
    if (counted != table.keys).any():
        raise UnusableIndex("its entries are not those of its segments")


def _root(path: Place) -> Place:
    """The store's folder of STORE/recipes/RECIPE/index/keys.bin."""
    return path.parent.parent.parent.parent


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
