"""Replacing a collection in one step: what was seen of it and a new table in, True or False out.

The table file is written first, under a name that no other has, then the document that names it.
Only a collection that still is what the writer has compared its table with is replaced: on disk
under a lock that ends with the process that holds it, in a bucket by a conditional request. A
writer that comes second compares its table with that of the first, and tries again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from embedstore.documents import MOST_BYTES, seal
from embedstore.errors import BadInput, InUse, StoreError, WriteFailed
from embedstore.regular_files import check_within
from embedstore.store.collection_files import (
    DOCUMENT_FORMAT,
    NOTHING,
    State,
    digest_of,
    document_path,
    folder_of,
    old_path,
    parse_document,
    read_old_file,
    read_state,
    table_path,
)
from embedstore.store.collection_table import columns_of, encode_table
from embedstore.store.files import write_atomically, writing_to
from embedstore.store.objects import ObjectPath, Place, size_of

log = logging.getLogger(__name__)

LOCK = ".lock"
"""An empty file in the folder of the collections, where the folder itself cannot be locked."""
WAIT_SECONDS = 60.0
"""How long a writer waits for another, who holds the lock for a few writes of small files."""
DROP_SECONDS = 2.0
"""How long one who gives up waits, to remove its table file."""
NO_LOCKS = {
    *(errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EBADF),
    *(errno.ENOTSUP, errno.EOPNOTSUPP),
}
"""How a file system says that it has no locks."""


class NewTable:
    """A table file that was written and that no document names yet."""

    def __init__(self, root: Place, name: str, table: pa.Table) -> None:
        """Write the file.

        Raises
        ------
        BadInput
            It has so many columns that no document describes them.
        WriteFailed
        """
        self.root, self.name, self._published = root, name, False
        self._content = encode_table(table, unique=isinstance(root, ObjectPath))
        self.path = table_path(root, name, digest_of(self._content))
        self.document = make_document(name, len(table), self._content)
        if isinstance(root, Path):
            folder = folder_of(root)
            assert isinstance(folder, Path)
            with writing_to(folder):
                check_within(folder, root)
        self._write()

    def publish(self, seen: State) -> bool:
        """Let the document name the file; False where the collection is not what was seen.

        What was replaced is removed.

        Raises
        ------
        InUse
            Another process holds the lock and does not move.
        WriteFailed
            It may have been published or not.
        """
        if isinstance(self.root, ObjectPath):
            self._published = self._publish_in_bucket(seen)
            return self._published
        with locked(self.root):
            if _state(self.root, self.name) != seen:
                return False
            self._write_again()  # others may have removed it: `gc`, or who wrote the same table
            write_atomically(document_path(self.root, self.name), self.document, within=self.root)
            self._published = True
            _remove_replaced(self.root, self.name, seen, self.path)
        return True

    def drop(self) -> None:
        """Remove the file, unless the document names it; what cannot be is left to `gc`."""
        if self._published:
            return
        try:
            with locked(self.root, wait=min(WAIT_SECONDS, DROP_SECONDS)):
                _, document = read_state(self.root, self.name)
                named = document and table_path(self.root, self.name, document.table.digest)
                if named != self.path:
                    _unlink(self.path)
        except (StoreError, OSError) as error:
            log.info("%s is left behind: %s", self.path, error)

    def _publish_in_bucket(self, seen: State) -> bool:
        path = document_path(self.root, self.name)
        assert isinstance(path, ObjectPath)
        try:
            if seen.document is None:
                replaced: bool | None = path.create(self.document)
            else:
                replaced = path.swap(self.document, seen.version or {})
        except WriteFailed:
            if _state(self.root, self.name).document != self.document:
                raise
            replaced = True  # only the answer was lost
        if replaced is None:  # no such request there: look, write, and look again
            if _state(self.root, self.name) != seen:
                return False
            path.write(self.document)
        # an answer that was lost is asked for again, and then refused for what it did itself
        if not replaced and _state(self.root, self.name).document != self.document:
            return False
        self._write_again()
        _remove_replaced(self.root, self.name, seen, self.path)
        return True

    def _write(self) -> None:
        write_atomically(self.path, self._content, within=self.root)

    def _write_again(self) -> None:
        if size_of(self.path) != len(self._content):
            self._write()


def make_document(name: str, rows: int, content: bytes) -> bytes:
    """The document of a table file.

    Parameters
    ----------
    rows : of the table
    content : of the table file

    Raises
    ------
    BadInput
        It has so many columns that the document would be too large.
    """
    sealed = seal(
        {
            "kind": "collection",
            "format": DOCUMENT_FORMAT,
            "name": name,
            "table": {"digest": digest_of(content), "bytes": len(content)},
            "rows": rows,
            "columns": [{"name": each, "type": kind} for each, kind in columns_of(content)],
        }
    )
    document = json.dumps(sealed, indent=1).encode()
    if len(document) > MOST_BYTES:
        raise BadInput(
            f"Collection {name!r} has too many columns, {len(sealed['columns'])}.",
            "Leave out labels that nobody needs.",
        )
    return document


@contextmanager
def locked(root: Place, *, wait: float | None = None) -> Iterator[bool]:
    """Keep other writers of collections of this store away until the block ends.

    The system lets go of the lock when the process that holds it ends, however it does. Gives
    False where the file system has no locks; in a bucket there are none.

    Parameters
    ----------
    wait : seconds to wait for another who holds it; None: `WAIT_SECONDS`

    Raises
    ------
    InUse
    WriteFailed
    """
    folder = folder_of(root)
    if isinstance(folder, ObjectPath):
        yield False
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handles: list[int] = []
    try:
        yield _lock(folder, handles, time.monotonic() + (WAIT_SECONDS if wait is None else wait))
    finally:
        for handle in handles:
            os.close(handle)


def _lock(folder: Path, handles: list[int], end: float) -> bool:
    """Lock the folder; a file in it on network shares, which lock only what is open for writing."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    for path, more in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
        with writing_to(path):
            handle = os.open(path, more | (flags if more else os.O_CLOEXEC), 0o666)
        handles.append(handle)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InUse(
                        f"Another process keeps {str(path)!r} locked.",
                        "Wait for it, or end it: it writes a collection of the store.",
                    ) from None
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise WriteFailed(
                        f"{str(path)!r} cannot be locked: {error.strerror}.",
                        "Check the disk or network share, then run the same command again.",
                    ) from error
                log.info("%s cannot be locked (%s).", path, error.strerror)
                break
            else:
                return True
    return False


def _state(root: Place, name: str) -> State:
    """What a writer would replace now, read again."""
    state, document = read_state(root, name)
    if document is not None:
        return state
    old = read_old_file(root, name)
    return NOTHING if old is None else State(None, digest_of(old))


def _remove_replaced(root: Place, name: str, seen: State, but: Place) -> None:
    """Remove the files of what was replaced; what cannot be is left to `gc`."""
    paths = [old_path(root, name)]
    if seen.document is not None:
        digest = parse_document(name, seen.document).table.digest
        paths.append(table_path(root, name, digest))
    for path in paths:
        if path == but:
            continue
        try:
            _unlink(path)
        except (StoreError, OSError) as error:
            log.info("%s is left behind: %s", path, error)


def _unlink(path: Place) -> None:
    path.unlink(missing_ok=True)
