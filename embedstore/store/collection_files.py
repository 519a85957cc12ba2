"""Files of the collections: a store's folder and a name in, a checked table out.

`collections/NAME.json` is a sealed document with digest, size, rows and columns of the table file
that it names, `collections/NAME.DIGEST.parquet`. A writer makes the table file first and then
replaces the document in one step, so a reader never sees parts of two. Stores of before have
`collections/NAME.parquet` alone, which is read where no document is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from embedstore.documents import (
    MOST_BYTES,
    BadDocument,
    Count,
    Crc32c,
    Digest,
    Document,
    FormatNumber,
    NewerDocument,
    parse_sealed,
)
from embedstore.errors import DamagedSegment, NewerFormat, Unreachable
from embedstore.regular_files import check_within
from embedstore.store.collection_table import BadTable, decode_table, type_name
from embedstore.store.objects import ObjectPath, Place, Version, names_in, read_in, unless_damage

FOLDER = "collections"
QUARANTINE = "quarantine"
DOCUMENT_FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TABLE_NAME = re.compile(rf"({NAME.pattern})\.([0-9a-f]{{32}})\.parquet")
OLD_BYTES = 64 << 30
"""Most bytes of a table file of before, whose size no document tells."""
LOOKS = 100
"""How often a collection is looked at anew while it is being replaced."""
REPAIR = (
    "Run `embedstore repair`, which sets the collection's files aside, then build the input again; "
    "embeddings are kept."
)


class TableFile(Document):
    """What a document says of its table file."""

    digest: Digest
    """BLAKE2b-128 of the whole file."""
    bytes: Count


class Column(Document):
    """One column of a table."""

    name: str
    type: str
    """As by `collection_table.type_name`."""


class CollectionDocument(Document):
    """`collections/NAME.json`."""

    kind: Literal["collection"]
    format: FormatNumber
    checksum: Crc32c
    name: str
    table: TableFile
    rows: Count
    columns: list[Column]


@dataclass(frozen=True)
class State:
    """What a collection was seen to be; a writer replaces this and nothing else."""

    document: bytes | None
    """Content of its document; None: it has none."""
    old: str | None = None
    """Digest of its table file, where that is one of before."""
    version: Version | None = field(default=None, compare=False)
    """Of the document in a bucket."""


NOTHING = State(None)
"""Of a collection that is not there."""


@dataclass(frozen=True)
class Stored:
    """A collection as it was read."""

    table: pa.Table
    state: State


@dataclass(frozen=True)
class Listing:
    """What stands in the folder of the collections."""

    names: list[str]
    """Of collections, sorted."""
    tables: dict[str, list[str]]
    """Names of table files by collection, also of those that no document names."""
    misnamed: list[str]
    """Documents and tables whose names no collection can have."""
    others: list[str]
    """Files that are none of ours."""


def is_name(text: str) -> bool:
    """Whether a collection can have a name; one that looks like a table file's it cannot."""
    return bool(NAME.fullmatch(text)) and not TABLE_NAME.fullmatch(f"{text}.parquet")


def digest_of(content: bytes) -> str:
    """BLAKE2b-128 of the content of a table file: 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def folder_of(root: Place) -> Place:
    """Folder of the collections."""
    return root / FOLDER


def document_path(root: Place, name: str) -> Place:
    """Path of a collection's document."""
    return root / FOLDER / f"{name}.json"


def old_path(root: Place, name: str) -> Place:
    """Path of a collection's table file in stores of before."""
    return root / FOLDER / f"{name}.parquet"


def table_path(root: Place, name: str, digest: str) -> Place:
    """Path of a collection's table file."""
    return root / FOLDER / f"{name}.{digest}.parquet"


def damaged(file: str, what: str, fix: str = REPAIR) -> DamagedSegment:
    """The error of one file of a collection, whose name is given without its folder."""
    return DamagedSegment(f"{FOLDER}/{file} is damaged: {what}.", fix)


def list_collections(root: Place) -> Listing:
    """What stands in the folder of the collections; one listing, in which nothing is opened.

    Raises
    ------
    DamagedSegment
        Something else stands in the place of the folder, or a link that leads out of the store.
    Unreachable
    """
    folder = root / FOLDER
    if isinstance(folder, Path) and isinstance(root, Path) and os.path.lexists(folder):
        try:
            check_within(folder, root)
            if not stat.S_ISDIR(folder.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "It is no folder", str(folder))
        except OSError as error:
            unless_damage(error, folder)
            raise DamagedSegment(f"{FOLDER} is damaged: {error.strerror}.", REPAIR) from error
    names: set[str] = set()
    tables: dict[str, list[str]] = {}
    misnamed, others = [], []
    for entry in names_in(folder):
        stem, dot, ending = entry.rpartition(".")
        if entry.startswith(".") or entry == QUARANTINE:
            continue
        table = TABLE_NAME.fullmatch(entry)
        if table and is_name(table[1]):
            tables.setdefault(table[1], []).append(entry)
        elif ending not in ("json", "parquet") or not dot:
            others.append(entry)
        elif is_name(stem):
            names.add(stem)
        else:
            misnamed.append(entry)
    return Listing(sorted(names), tables, misnamed, others)


def read_collection(root: Place, name: str) -> Stored | None:
    """One collection, every byte of it checked; None where there is none.

    Parameters
    ----------
    root : folder of the store
    name : one that `is_name`

    Raises
    ------
    DamagedSegment
        Names the file, and the field or column.
    NewerFormat
        A later version wrote it.
    Unreachable
    """
    before: State | None = None
    same = 0
    for _ in range(LOOKS):
        state, document = read_state(root, name)
        if document is not None:
            content = read_table_file(root, name, document.table)
            if content is not None:
                return Stored(_checked(name, document, content), state)
            missing = damaged(f"{name}.{document.table.digest}.parquet", "it is not there")
        else:
            content = read_old_file(root, name)
            if content is not None:
                old = State(None, digest_of(content))
                try:
                    return Stored(decode_table(content), old)
                except BadTable as error:
                    raise damaged(f"{name}.parquet", str(error)) from error
            missing = None
        # a writer may have replaced the document between the two looks, and then removed the
        # table; what is the same three times over is so
        same = same + 1 if state == before else 1
        if same == 3:
            if missing is not None:
                raise missing
            return None
        before = state
    raise Unreachable(
        f"{FOLDER}/{name}.json is being replaced all the time.", "Run the same command again."
    )


def read_state(root: Place, name: str) -> tuple[State, CollectionDocument | None]:
    """The document of a collection, and what a writer would replace.

    Raises
    ------
    DamagedSegment, NewerFormat, Unreachable
    """
    path = document_path(root, name)
    version = None
    try:
        if isinstance(path, ObjectPath):
            content, version = path.read_version(MOST_BYTES)
        else:
            content = read_in(root, path, most=MOST_BYTES)
    except FileNotFoundError:
        if isinstance(path, Path) and path.is_symlink():
            raise damaged(path.name, "it is a link to nothing") from None
        return NOTHING, None
    except OSError as error:
        unless_damage(error, path)
        raise damaged(path.name, str(error.strerror)) from error
    return State(content, None, version), parse_document(name, content)


def parse_document(name: str, content: bytes) -> CollectionDocument:
    """The document of a collection.

    Raises
    ------
    DamagedSegment, NewerFormat
    """
    try:
        document = parse_sealed(
            CollectionDocument, content, newest=DOCUMENT_FORMAT, sealed_from=DOCUMENT_FORMAT
        )
    except NewerDocument as error:
        raise NewerFormat(
            f"{FOLDER}/{name}.json has format {error.number}; this version reads "
            f"{DOCUMENT_FORMAT}.",
            "Install a newer embedstore.",
        ) from None
    except BadDocument as error:
        raise damaged(f"{name}.json", str(error)) from error
    if document.name != name:
        raise damaged(f"{name}.json", f"it is that of collection {document.name[:60]!r}")
    return document


def read_table_file(root: Place, name: str, table: TableFile) -> bytes | None:
    """The table file that a document names, compared with its size and digest.

    None where there is none.

    Raises
    ------
    DamagedSegment, Unreachable
    """
    path = table_path(root, name, table.digest)
    try:
        content = read_in(root, path, most=table.bytes)
    except FileNotFoundError:
        return None
    except OSError as error:
        unless_damage(error, path)
        raise damaged(path.name, str(error.strerror)) from error
    if len(content) != table.bytes:
        raise damaged(path.name, f"it has {len(content)} bytes and had {table.bytes}")
    if digest_of(content) != table.digest:
        raise damaged(path.name, "it does not match the digest in its name")
    return content


def _checked(name: str, document: CollectionDocument, content: bytes) -> pa.Table:
    """The table of a file, compared with the document."""
    file = f"{name}.{document.table.digest}.parquet"
    try:
        table = decode_table(content)
    except BadTable as error:
        raise damaged(file, str(error)) from error
    if len(table) != document.rows:
        raise damaged(file, f"it has {len(table)} rows, and its document says {document.rows}")
    columns = [Column(name=each.name, type=type_name(each.type)) for each in table.schema]
    for ours, theirs in zip(columns, document.columns, strict=False):
        if ours != theirs:
            raise damaged(
                file,
                f"its column {ours.name[:60]!r} of type {ours.type[:60]} is {theirs.name[:60]!r} "
                f"of type {theirs.type[:60]} in its document",
            )
    if len(columns) != len(document.columns):
        raise damaged(
            file, f"it has {len(columns)} columns, and its document {len(document.columns)}"
        )
    return table


def read_old_file(root: Place, name: str) -> bytes | None:
    """The table file of a collection in stores of before; None where there is none.

    Raises
    ------
    DamagedSegment
    Unreachable
    """
    path = old_path(root, name)
    try:
        return read_in(root, path, most=OLD_BYTES)
    except FileNotFoundError:
        if isinstance(path, Path) and path.is_symlink():
            raise damaged(path.name, "it is a link to nothing") from None
        return None
    except OSError as error:
        unless_damage(error, path)
        raise damaged(path.name, str(error.strerror)) from error
