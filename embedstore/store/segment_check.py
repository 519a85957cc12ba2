"""Checking one segment against its document: a segment in, what is wrong with it out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google_crc32c import extend as extend_crc32c
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.errors import NewerFormat, StoreError, Unreachable
from embedstore.store.objects import (
    ObjectPath,
    Place,
    open_in,
    read_in,
    size_of,
    unless_damage,
)
from embedstore.store.published import Segment
from embedstore.store.segment_document import DOCUMENT, TOKENS_SHARD

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
        check.problems += _file_problems(segment, check, whole=rows is None)
        if not check.problems and (rows is None or len(rows)):
            # reading them compares them with each other and with the document
            assert len(segment.keys) == len(segment.start)
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


def _file_problems(segment: Segment, check: SegmentCheck, *, whole: bool) -> Iterator[str]:
    files = segment.document.files
    check.strangers += sorted(set(files_below(segment.data)) - {*files, DOCUMENT})
    for name, facts in sorted(files.items()):
        path = segment.data / name
        size = size_of(path)
        if size is None:
            yield f"{name} is gone, or is no file"
        elif size != facts.bytes:
            yield f"{name} has {size} bytes instead of {facts.bytes}"
        elif whole and name != TOKENS_SHARD:
            check.bytes += size
            try:
                content = read_in(segment.root, path, most=facts.bytes)
            except OSError as error:
                unless_damage(error, path)
                yield f"{name} cannot be read ({error.strerror})"
                continue
            if f"{crc32c(content):08x}" != facts.crc32c:
                yield f"{name} does not match its checksum"


def _shard_problems(
    segment: Segment, check: SegmentCheck, rows: NDArray[np.int64] | None
) -> Iterator[str]:
    row_bytes = segment.recipe.width * np.dtype(segment.recipe.store_dtype).itemsize
    sizes, starts = segment.length * row_bytes, segment.start * row_bytes
    damaged: list[int] = []
    whole = 0
    with open_in(segment.root, segment.data / TOKENS_SHARD) as file:
        for row in np.arange(len(sizes)) if rows is None else np.sort(rows):
            file.seek(int(starts[row]))
            left, checksum = int(sizes[row]), 0
            while left and (content := file.read(min(BLOCK, left))):
                left -= len(content)
                check.bytes += len(content)
                checksum = extend_crc32c(checksum, content)
                if rows is None:
                    whole = extend_crc32c(whole, content)
            check.sequences += 1
            if checksum != segment.crc32c[row]:
                damaged.append(int(row))
        while rows is None and (content := file.read(BLOCK)):
            check.bytes += len(content)
            whole = extend_crc32c(whole, content)
    if damaged:
        first = bytes(segment.keys[damaged[0]]).hex()
        yield f"{len(damaged)} embeddings do not match their checksums, the first is {first}"
    elif rows is None and f"{whole:08x}" != segment.document.files[TOKENS_SHARD].crc32c:
        yield f"{TOKENS_SHARD} does not match its checksum"


def files_below(folder: Place) -> Iterator[str]:
    """Paths of all files below a folder, with slashes."""
    if isinstance(folder, ObjectPath):
        yield from (path.relative_to(folder).as_posix() for path, _ in folder.below())
        return
    for path, _, names in os.walk(folder):
        for name in names:
            yield (Path(path) / name).relative_to(folder).as_posix()
