"""`segment.json`: bytes in, a checked document of one segment out; and the bytes to write.

A segment has a closed set of files, and the size of each array follows from the counts. So nothing
that the document says is joined to a path, or allocated, before it was checked.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, model_validator

from embedstore.documents import (
    Count,
    Crc32c,
    Digest,
    Document,
    FormatNumber,
    canonical,
    parse_sealed,
    seal,
)
from embedstore.store.recipe import Recipe, RecipeName, StoredDtype, Width
from embedstore.store.zarr_files import shard_bytes

DOCUMENT = "segment.json"
SEGMENT_FORMAT = 3
"""Of what is written. 1 lies on disk, 2 names the folder of its data; neither has a checksum."""
SEALED_FROM = 3
MOST_BYTES = 1 << 20
"""Largest `segment.json`, and largest `zarr.json`."""
GROUP = "zarr.json"
TOKENS_SHARD = "tokens/c/0/0"
CHUNKS = {
    "tokens": TOKENS_SHARD,
    "start": "start/c/0",
    "length": "length/c/0",
    "keys": "keys/c/0/0",
    "crc32c": "crc32c/c/0",
    "mean": "mean/c/0/0",
    "cls": "cls/c/0/0",
}
"""The one file of values of each array; `cls` is there where the backbone has it."""
NAMES = {GROUP, *(f"{array}/zarr.json" for array in CHUNKS), *CHUNKS.values()}
CLS_NAMES = {"cls/zarr.json", CHUNKS["cls"]}
ITEM_BYTES = {"float16": 2, "float32": 4}
MOST_KEYS = 2**31 - 1
"""Keys of a segment, and rows of a sequence: the index keeps them as int32."""


class FileFacts(Document):
    """What a file of a segment is."""

    bytes: Count
    crc32c: Crc32c


class SegmentDocument(Document):
    """One segment: N keys, T tokens, D wide."""

    format: FormatNumber
    checksum: Crc32c | None = None
    segment: Digest
    """Its name: the digest of its keys."""
    recipe: RecipeName
    keys: Annotated[int, Field(ge=1, le=MOST_KEYS)]
    tokens: Annotated[int, Field(ge=0, le=2**40)]
    width: Width
    dtype: StoredDtype
    bytes: Count
    """Of all files together, without this document."""
    files: dict[str, FileFacts]
    data: Digest | None = None
    """In a bucket: the attempt whose folder holds the files."""
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    """For people, never for decisions."""

    @property
    def has_cls(self) -> bool:
        """Whether the segment has the array `cls`."""
        return CHUNKS["cls"] in self.files

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.format == 1 and self.data is not None) or (self.format == 2 and self.data is None):
            raise ValueError(f"its field 'data' does not go with format {self.format}")
        strange = sorted(self.files.keys() - NAMES)
        if strange:
            raise ValueError(f"its file {strange[0][:60]!r} is none that a segment has")
        absent = sorted(NAMES - self.files.keys())
        if absent and set(absent) != CLS_NAMES:
            raise ValueError(f"its file {absent[0]!r} is missing")
        sizes = array_bytes(self.keys, self.tokens, self.width, self.dtype)
        for name, facts in self.files.items():
            if name in sizes and facts.bytes != sizes[name]:
                raise ValueError(f"its file {name!r} has {facts.bytes} bytes, not {sizes[name]}")
            if name not in sizes and facts.bytes > MOST_BYTES:
                raise ValueError(f"its file {name!r} has {facts.bytes} bytes, too many")
        total = sum(facts.bytes for facts in self.files.values())
        if self.bytes != total:
            raise ValueError(f"its field 'bytes' is {self.bytes}, and its files have {total}")
        canonical(self.provenance)  # whose numbers are finite
        return self

    def misplaced(self, name: str, recipe: Recipe) -> str | None:
        """Why it is not the document of a segment of this name and recipe; None: it is."""
        wanted = {
            "segment": name,
            "recipe": recipe.name,
            "width": recipe.width,
            "dtype": recipe.store_dtype,
        }
        for field, value in wanted.items():
            if getattr(self, field) != value:
                return f"its field {field!r} is {getattr(self, field)!r}, not {value!r}"
        return None

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name."""
        return {name: facts.bytes for name, facts in self.files.items()}


def array_bytes(keys: int, tokens: int, width: int, dtype: str) -> dict[str, int]:
    """Bytes of the file of each array, by its name."""
    return {
        TOKENS_SHARD: shard_bytes(tokens, width, ITEM_BYTES[dtype]),
        CHUNKS["start"]: 8 * keys,
        CHUNKS["length"]: 8 * keys,
        CHUNKS["keys"]: 16 * keys,
        CHUNKS["crc32c"]: 4 * keys,
        CHUNKS["mean"]: 4 * keys * width,
        CHUNKS["cls"]: 4 * keys * width,
    }


def parse_segment(content: bytes) -> SegmentDocument:
    """Check a `segment.json` in itself; `misplaced` compares it with where it lies.

    Raises
    ------
    NewerDocument
    BadDocument
        Names the first field or file that is wrong.
    """
    return parse_sealed(
        SegmentDocument,
        content,
        newest=SEGMENT_FORMAT,
        sealed_from=SEALED_FROM,
        most=MOST_BYTES,
    )


def write_document(values: dict[str, Any]) -> bytes:
    """The bytes of a document of the newest format, sealed.

    Parameters
    ----------
    values : by field, without format and checksum

    Raises
    ------
    ValueError
        They are no segment: a bug of the writer.
    """
    document = {"format": SEGMENT_FORMAT, **values}
    content = json.dumps(seal(document), indent=1).encode()
    parse_segment(content)
    return content


def moved_document(document: SegmentDocument, data: str | None) -> bytes:
    """The bytes of the same segment's document where its files lie elsewhere.

    Parameters
    ----------
    data : the attempt in a bucket; None: the files lie beside it
    """
    values = document.model_dump(exclude={"format", "checksum", "data"})
    return write_document(values if data is None else values | {"data": data})
