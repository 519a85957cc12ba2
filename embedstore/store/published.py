"""One published segment: a folder in; its document and small arrays, checked, out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.errors import DamagedSegment, NewerFormat
from embedstore.store.drafts import DOCUMENT, data_folder
from embedstore.store.objects import Place, unless_damage
from embedstore.store.recipe import Recipe
from embedstore.store.segment import NEWEST_FORMAT, SEGMENT_NAME

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

    __slots__ = ("_document", "_held", "folder", "held_bytes", "name", "recipe")

    def __init__(self, folder: Place, recipe: Recipe) -> None:
        self.folder, self.name, self.recipe = folder, folder.name, recipe
        self._document: dict[str, Any] | None = None
        self._held: dict[str, NDArray[Any]] = {}
        self.held_bytes = 0
        """Memory that is kept, about."""

    @property
    def document(self) -> dict[str, Any]:
        """`segment.json`.

        Raises
        ------
        DamagedSegment
            It is gone, is not JSON, or belongs elsewhere.
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
        attempt = self.document.get("data")
        return self.folder if attempt is None else data_folder(self.folder.parent.parent, attempt)

    @property
    def keys(self) -> NDArray[np.uint8]:
        """uint8, shape (N, 16)."""
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
        if "cls/c/0/0" not in self.document["files"]:
            return None
        return self._array("cls", np.float32, (self.recipe.width,))

    def forget(self) -> None:
        """Let go of everything read; it is read again when asked for."""
        self._document, self._held, self.held_bytes = None, {}, 0

    def damaged(self, what: str) -> DamagedSegment:
        """The error of this segment, naming what is wrong."""
        return DamagedSegment(f"Segment {self.name} of {self.recipe.name}: {what}.", REPAIR)

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
        file = f"{name}/c" + "/0" * (1 + len(tail))
        document = self.document
        content = self._read(self.data, file)
        entry = document["files"].get(file)
        if entry is None or f"{crc32c(content):08x}" != entry["crc32c"]:
            raise self.damaged(f"{file} does not match its checksum")
        array = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
        if array.size != document["keys"] * int(np.prod(tail, dtype=np.int64)):
            raise self.damaged(f"{file} does not hold {document['keys']} sequences")
        return array.astype(dtype, copy=False).reshape(document["keys"], *tail)

    def _read_document(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads(self._read(self.folder, DOCUMENT))
            version, recipe = int(document["format"]), document["recipe"]
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(f"segment.json is unreadable ({error!r})") from error
        if version > NEWEST_FORMAT:
            raise NewerFormat(
                f"Segment {self.name} has format {version}; this version reads {NEWEST_FORMAT}.",
                "Install a newer embedstore.",
            )
        if recipe != self.recipe.name:
            raise self.damaged(f"it belongs to {recipe}")
        if not {"files", "keys", "tokens", "bytes"} <= document.keys():
            raise self.damaged("segment.json is not whole")
        if not SEGMENT_NAME.fullmatch(document.get("data", self.name)):
            raise self.damaged("segment.json names no folder of data")
        return document

    def _read(self, folder: Place, name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            unless_damage(error, folder / name)
            raise self.damaged(f"{name} cannot be read ({error.strerror})") from error
