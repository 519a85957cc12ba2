"""The key index as one file: a table in, arrays mapped into memory out.

Layout: MAGIC, the length of the header and its crc32c as little-endian uint32, the header as JSON
(segments with their counts; dtype, offset and crc32c of every array), then the arrays, each at a
multiple of 64 bytes. The file is derived from the segments and may be removed at any time.
"""

from __future__ import annotations

import json
import mmap
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from embedstore.store.files import replacing
from embedstore.store.index import Entries, KeyTable
from embedstore.store.objects import ObjectPath, Place, unless_damage

MAGIC = b"EMBIDX01"
PREFIX = struct.Struct("<8sII")
ALIGN = 64


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
    with replacing(path, sync=False) as file:
        file.write(PREFIX.pack(MAGIC, len(header), crc32c(header)))
        file.write(header)
        for column in columns.values():
            file.write(column.data)
            file.write(bytes(_padded(column.nbytes) - column.nbytes))


def read_index(path: Place) -> KeyTable:
    """Map the file into memory, or fetch the object; every byte is checked.

    Raises
    ------
    UnusableIndex
    Unreachable
        It cannot be read now.
    """
    try:
        content = path.read_bytes() if isinstance(path, ObjectPath) else _mapped(path)
        magic, size, checksum = PREFIX.unpack_from(content)
        if magic != MAGIC:
            raise UnusableIndex("it has another format")
        text = content[PREFIX.size : PREFIX.size + size]
        if len(text) != size or crc32c(text) != checksum:
            raise UnusableIndex("its header does not match its checksum")
        header = json.loads(text)
        columns = []
        for field in fields(Entries):
            array = header["arrays"][field.name]
            at = PREFIX.size + size + array["offset"]
            column = np.frombuffer(content, np.dtype(array["dtype"]), header["entries"], at)
            if crc32c(column) != array["crc32c"]:
                raise UnusableIndex(f"{field.name} does not match its checksum")
            columns.append(column)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        if isinstance(error, OSError):
            unless_damage(error, path)
        raise UnusableIndex(f"it cannot be read ({error!r})") from error
    return KeyTable(
        names=header["segments"],
        keys=np.array(header["keys"], np.int64),
        tokens=np.array(header["tokens"], np.int64),
        bytes=np.array(header["bytes"], np.int64),
        entries=Entries(*columns),
    )


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    content.madvise(mmap.MADV_WILLNEED)
    return content


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
