"""Checking one segment against its document: a segment in, what is wrong with it out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google_crc32c import extend as extend_crc32c
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.errors import NewerFormat, StoreError, Unreachable
from embedstore.store.drafts import DOCUMENT
from embedstore.store.objects import ObjectPath, Place, size_of, unless_damage
from embedstore.store.published import Segment
from embedstore.store.segment import TOKENS_SHARD

BLOCK = 4 << 20


@dataclass
class SegmentCheck:
    """What was read of a segment, and what is wrong."""

    problems: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Files of the folder that its document does not know."""
    sequences: int = 0
    """Embeddings compared with their checksums."""
    bytes: int = 0
    """Bytes compared with a checksum."""


def check_segment(segment: Segment, rows: NDArray[np.int64] | None = None) -> SegmentCheck:
    """Compare a segment with its document and checksums.

    Parameters
    ----------
    rows : int64, shape (N,): check these embeddings alone, and of the rest only sizes and, where
        any is given, counts; None: every byte

    Raises
    ------
    NewerFormat, Unreachable
        Nothing can be said about it.
    """
    check = SegmentCheck()
    try:
        check.problems += _document_problems(segment, check, whole=rows is None)
        if rows is None or len(rows):
            check.problems += _array_problems(segment)
            check.problems += _shard_problems(segment, check, rows)
    except (NewerFormat, Unreachable):
        raise
    except StoreError as error:
        check.problems.append(error.problem)
    except OSError as error:
        unless_damage(error, segment.folder)
        check.problems.append(f"it cannot be read ({error.strerror})")
    segment.forget()
    return check


def _document_problems(segment: Segment, check: SegmentCheck, *, whole: bool) -> Iterator[str]:
    document, files = segment.document, segment.document["files"]
    said = {
        "segment": segment.name,
        "width": segment.recipe.width,
        "dtype": segment.recipe.store_dtype,
        "bytes": sum(entry["bytes"] for entry in files.values()),
    }
    for name, value in said.items():
        if document.get(name) != value:
            yield f"segment.json gives {document.get(name)!r} as its {name}, not {value!r}"
    check.strangers += sorted(set(files_below(segment.data)) - {*files, DOCUMENT})
    for name, entry in sorted(files.items()):
        path = segment.data / name
        size = size_of(path)
        if size is None:
            yield f"{name} is gone"
        elif size != entry["bytes"]:
            yield f"{name} has {size} bytes instead of {entry['bytes']}"
        elif whole and name != TOKENS_SHARD:
            check.bytes += size
            if f"{crc32c(path.read_bytes()):08x}" != entry["crc32c"]:
                yield f"{name} does not match its checksum"


def _array_problems(segment: Segment) -> Iterator[str]:
    if hashlib.blake2b(segment.keys.tobytes(), digest_size=16).hexdigest() != segment.name:
        yield "its keys are not those it is named after"
    if (np.cumsum(segment.length) - segment.length != segment.start).any():
        yield "its sequences do not stand end to end"
    if segment.length.sum() != segment.document["tokens"]:
        yield f"its lengths do not sum to {segment.document['tokens']} tokens"


def _shard_problems(
    segment: Segment, check: SegmentCheck, rows: NDArray[np.int64] | None
) -> Iterator[str]:
    row_bytes = segment.recipe.width * np.dtype(segment.recipe.store_dtype).itemsize
    sizes, starts = segment.length * row_bytes, segment.start * row_bytes
    damaged: list[int] = []
    whole = 0
    with (segment.data / TOKENS_SHARD).open("rb") as file:
        for row in np.arange(len(sizes)) if rows is None else np.sort(rows):
            file.seek(int(starts[row]))
            content = file.read(int(sizes[row]))
            check.sequences += 1
            check.bytes += len(content)
            if crc32c(content) != segment.crc32c[row]:
                damaged.append(int(row))
            if rows is None:
                whole = extend_crc32c(whole, content)
        while rows is None and (content := file.read(BLOCK)):
            check.bytes += len(content)
            whole = extend_crc32c(whole, content)
    if damaged:
        first = bytes(segment.keys[damaged[0]]).hex()
        yield f"{len(damaged)} embeddings do not match their checksums, the first is {first}"
    elif rows is None and f"{whole:08x}" != segment.document["files"][TOKENS_SHARD]["crc32c"]:
        yield f"{TOKENS_SHARD} does not match its checksum"


def files_below(folder: Place) -> Iterator[str]:
    """Paths of all files below a folder, with slashes."""
    if isinstance(folder, ObjectPath):
        yield from (path.relative_to(folder).as_posix() for path, _ in folder.below())
        return
    for path, _, names in os.walk(folder):
        for name in names:
            yield (Path(path) / name).relative_to(folder).as_posix()
