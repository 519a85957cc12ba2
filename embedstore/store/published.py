"""One published segment: a folder in; its document and small arrays, checked, out."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.documents import BadDocument, NewerDocument
from embedstore.errors import DamagedSegment, NewerFormat
from embedstore.store.drafts import data_folder
from embedstore.store.objects import Place, read_in, size_of, unless_damage
from embedstore.store.recipe import Recipe
from embedstore.store.segment_document import (
    CHUNKS,
    DOCUMENT,
    MOST_BYTES,
    MOST_KEYS,
    TOKENS_SHARD,
    SegmentDocument,
    parse_segment,
)

REPAIR = (
    "Run `embedstore repair` on the store, then build again: only this segment's sequences are "
    "embedded anew."
)
DOCUMENT_BYTES = 16 << 10
"""What a parsed segment.json takes in memory, about."""


class Segment:
    """A published segment. Nothing is read before it is asked for; what is read is kept.

    Every array raises `DamagedSegment` where its file is gone or differs from its checksum, and
    `Unreachable` where nothing can be said: no right to read it, a share that does not answer.
    """

    __slots__ = ("_document", "_held", "folder", "held_bytes", "name", "recipe", "root")

    def __init__(
        self, folder: Place, recipe: Recipe, *, name: str | None = None, root: Place | None = None
    ) -> None:
        """Name a segment; nothing is read.

        Parameters
        ----------
        name : what its document is to say; None: the folder's name
        root : out of which no link may lead; None: the folder of the store
        """
        self.folder, self.name, self.recipe = folder, name or folder.name, recipe
        self.root: Place = folder.parent.parent.parent.parent if root is None else root
        self._document: SegmentDocument | None = None
        self._held: dict[str, NDArray[Any]] = {}
        self.held_bytes = 0
        """Memory that is kept, about."""

    @property
    def document(self) -> SegmentDocument:
        """`segment.json`.

        Raises
        ------
        DamagedSegment
            It is gone, a field of it is wrong, or it belongs elsewhere.
        NewerFormat
            A later version wrote it.
        """
        if self._document is None:
            self._document = document = self._read_document()
            self.held_bytes += DOCUMENT_BYTES
            return document  # another thread may forget it meanwhile
        return self._document

    @property
    def data(self) -> Place:
        """Folder of the arrays: its own, or where a writer to a bucket put them.

        Raises
        ------
        DamagedSegment, NewerFormat
        """
        attempt = self.document.data
        return self.folder if attempt is None else data_folder(self.folder.parent.parent, attempt)

    @property
    def keys(self) -> NDArray[np.uint8]:
        """uint8, shape (N, 16); the segment is named after them."""
        return self._array("keys", np.uint8, (16,))

    @property
    def start(self) -> NDArray[np.int64]:
        """int64, shape (N,): first row in `tokens`."""
        return self._array("start", np.int64)

    @property
    def length(self) -> NDArray[np.int64]:
        """int64, shape (N,): rows in `tokens`."""
        return self._array("length", np.int64)

    @property
    def crc32c(self) -> NDArray[np.uint32]:
        """uint32, shape (N,): checksum of each sequence's rows."""
        return self._array("crc32c", np.uint32)

    @property
    def mean(self) -> NDArray[np.float32]:
        """float32, shape (N, D)."""
        return self._array("mean", np.float32, (self.recipe.width,))

    @property
    def cls(self) -> NDArray[np.float32] | None:
        """float32, shape (N, D), where the backbone has one."""
        if not self.document.has_cls:
            return None
        return self._array("cls", np.float32, (self.recipe.width,))

    def forget(self) -> None:
        """Let go of everything read; it is read again when asked for."""
        self._document, self._held, self.held_bytes = None, {}, 0

    def damaged(self, what: str) -> DamagedSegment:
        """The error of this segment, naming what is wrong."""
        return DamagedSegment(f"Segment {self.name} of {self.recipe.name}: {what}.", REPAIR)

    def check_shard(self) -> None:
        """Compare the size of the shard with the document; reads no row.

        Raises
        ------
        DamagedSegment, NewerFormat, Unreachable
        """
        path, wanted = self.data / TOKENS_SHARD, self.document.files[TOKENS_SHARD].bytes
        try:
            size = size_of(path)
        except OSError as error:
            raise self.unreadable(TOKENS_SHARD, path, error) from error
        if size != wanted:
            raise self.damaged(f"{TOKENS_SHARD} has {size} bytes instead of {wanted}")

    def unreadable(self, name: str, path: Place, error: OSError) -> DamagedSegment:
        """The error of a file that is gone or is none.

        Raises
        ------
        Unreachable
            Nothing can be said of it.
        """
        unless_damage(error, path)
        return self.damaged(f"{name} cannot be read ({error.strerror})")

    def mismatch(self, row: int) -> DamagedSegment:
        """The error of a sequence whose stored bytes are not those that were written."""
        key = bytes(self.keys[row]).hex()
        return self.damaged(f"the embedding of {key} does not match its checksum")

    def _array(self, name: str, dtype: Any, tail: tuple[int, ...] = ()) -> NDArray[Any]:
        held = self._held  # another thread may forget it meanwhile
        if name not in held:
            held[name] = array = self._read_array(name, dtype, tail)
            self.held_bytes += array.nbytes
        return held[name]

    def _read_array(self, name: str, dtype: Any, tail: tuple[int, ...]) -> NDArray[Any]:
        document, file = self.document, CHUNKS[name]
        facts = document.files[file]
        content = self._read(self.data, file, facts.bytes)
        if len(content) != facts.bytes:
            raise self.damaged(f"{file} has {len(content)} bytes instead of {facts.bytes}")
        if f"{crc32c(content):08x}" != facts.crc32c:
            raise self.damaged(f"{file} does not match its checksum")
        # the document has checked that so many bytes are so many values
        values = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
        array = values.astype(dtype, copy=False).reshape(document.keys, *tail)
        self._check(name, array)
        return array

    def _check(self, name: str, array: NDArray[Any]) -> None:
        """Raise where values cannot be those of this segment."""
        if name == "keys":
            if hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest() != self.name:
                raise self.damaged("its keys are not those it is named after")
        elif name == "length":
            if array.min() < 0 or array.max() > MOST_KEYS:
                wrong = array.min() if array.min() < 0 else array.max()
                raise self.damaged(f"{CHUNKS[name]} gives a sequence {wrong} tokens")
            if array.sum() != self.document.tokens:
                raise self.damaged(f"its lengths do not sum to {self.document.tokens} tokens")
        elif name == "start" and (array != np.cumsum(self.length) - self.length).any():
            raise self.damaged("its sequences do not stand end to end")

    def _read_document(self) -> SegmentDocument:
        content = self._read(self.folder, DOCUMENT, MOST_BYTES)
        try:
            document = parse_segment(content)
        except NewerDocument as error:
            raise NewerFormat(
                f"Segment {self.name} of {self.recipe.name}: {DOCUMENT} is of a later version; "
                f"{error}.",
                "Install a newer embedstore.",
            ) from None
        except BadDocument as error:
            raise self.damaged(f"{DOCUMENT} is damaged: {error}") from error
        misplaced = document.misplaced(self.name, self.recipe)
        if misplaced is not None:
            raise self.damaged(f"{DOCUMENT} is of another segment: {misplaced}")
        return document

    def _read(self, folder: Place, name: str, most: int) -> bytes:
        try:
            return read_in(self.root, folder / name, most=most)
        except OSError as error:
            raise self.unreadable(name, folder / name, error) from error
