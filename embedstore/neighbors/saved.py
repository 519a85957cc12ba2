"""Neighbour indexes on disk: derived from the segments, and may be removed at any time.

`recipes/RECIPE/neighbors/METRIC-KIND-DIGEST/` is published by one rename and never changes: DIGEST
is that of the segments in it. It holds plain arrays, and `index.json` with their checksums:
`keys.npy` and `vectors.npy`; for inverted lists the vectors list by list, and `centroids.npy`,
`lists.npy` (how many are in each) and `rows.npy` (whose they are). All is read into memory, not
mapped: whoever cuts a mapped file ends every process that reads it. faiss parses no file.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from google_crc32c import extend as extend_crc32c
from numpy.typing import NDArray
from pydantic import Field

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
    seal,
)
from embedstore.errors import StoreError
from embedstore.neighbors.arrays import ArrayFile, WrongArray, write_array
from embedstore.neighbors.index import (
    Exact,
    Excluded,
    IndexInfo,
    InvertedLists,
    Metric,
    NeighborIndex,
    Searcher,
)
from embedstore.regular_files import check_within
from embedstore.store.files import move_away, publish_folder, remove_tree, writing_to
from embedstore.store.objects import names_in, read_in, unless_damage

log = logging.getLogger(__name__)

FORMAT = 2
BLOCK = 4 << 20
INFO, KEYS, VECTORS = "index.json", "keys.npy", "vectors.npy"
CENTROIDS, LISTS, ROWS = "centroids.npy", "lists.npy", "rows.npy"
FILES: dict[str, tuple[str, ...]] = {
    "exact": (KEYS, VECTORS),
    "ivf": (KEYS, VECTORS, CENTROIDS, LISTS, ROWS),
}
"""Of each kind of index, beside `index.json`."""

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]


class UnusableIndex(Exception):
    """Damaged, or of an older version; never shown, for the index is made anew."""


class NewerIndex(Exception):
    """A later version made it, and it is left alone; never shown."""


class ExcludedDocument(Document):
    """`Excluded`."""

    segment: str
    problem: str


class InfoDocument(Document):
    """`IndexInfo`."""

    recipe: str
    metric: Literal["cosine", "l2"]
    kind: Literal["exact", "ivf"]
    vectors: Positive
    width: Positive
    segments: Digest
    recall: Annotated[float, Field(ge=0, le=1)]
    recall_queries: Positive | None
    probed_lists: Positive | None
    excluded: tuple[ExcludedDocument, ...]


class FileFacts(Document):
    """Size and checksum of a file."""

    bytes: Count
    crc32c: Annotated[int, Field(ge=0, le=2**32 - 1)]


class NeighborsDocument(Document):
    """`index.json`."""

    kind: Literal["neighbors"]
    format: FormatNumber
    checksum: Crc32c | None = None
    info: InfoDocument
    lists: Positive | None
    """Inverted lists; None for exact."""
    files: dict[str, FileFacts]


def neighbors_folder(recipe_folder: Path) -> Path:
    """Where the indexes of a recipe lie."""
    return recipe_folder / "neighbors"


def saved_indexes(recipe_folder: Path, metric: Metric) -> Iterator[Path]:
    """Folders of the saved indexes of a metric, the newest first."""
    folder, found = neighbors_folder(recipe_folder), []
    try:
        names = names_in(folder, _root(recipe_folder))
    except StoreError as error:
        log.warning("No neighbour index is read: %s", error)
        names = []
    for path in (folder / name for name in names if name.startswith(f"{metric}-")):
        try:
            found.append((path.lstat().st_mtime_ns, path))
        except FileNotFoundError:
            continue  # gc was first
    return (path for _, path in sorted(found, reverse=True))


def save_index(index: NeighborIndex, recipe_folder: Path) -> Path:
    """Publish an index at once; where the same one is there, that one stays.

    Raises
    ------
    WriteFailed
        Also where the store may only be read; nothing is left behind.
    """
    info = index.info
    final = neighbors_folder(recipe_folder) / f"{info.metric}-{info.kind}-{info.segments}"
    draft = recipe_folder / "drafts" / uuid.uuid4().hex
    with writing_to(final):
        for folder in (final.parent, draft.parent):
            check_within(folder, _root(recipe_folder))
        draft.mkdir(parents=True, exist_ok=True)  # nobody else has its name
        try:
            write_array(draft / KEYS, "|u1", index.keys.shape, [index.keys])
            lists = _write_searcher(index.searcher, draft)
            document: dict[str, Any] = {
                "kind": "neighbors",
                "format": FORMAT,
                "info": info.as_json(),
                "lists": lists,
                "files": {name: _facts(draft / name) for name in FILES[info.kind]},
            }
            text = json.dumps(seal(document), indent=1).encode()
            (draft / INFO).write_bytes(text)
            sizes = {name: facts["bytes"] for name, facts in document["files"].items()}
            publish_folder(draft, final, sizes | {INFO: len(text)})
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return final


def load_index(folder: Path) -> NeighborIndex:
    """Read a saved index; every byte is checked.

    Raises
    ------
    UnusableIndex
    NewerIndex
    Unreachable
        It cannot be read now.
    """
    root = _root(folder.parent.parent)
    try:
        content = read_in(root, folder / INFO, most=MOST_BYTES)
        document = parse_sealed(NeighborsDocument, content, newest=FORMAT, sealed_from=FORMAT)
        info = _info_of(document)
        if folder.name != f"{info.metric}-{info.kind}-{info.segments}":
            raise UnusableIndex("it is not the one that its folder is named after")
        files = _Files(root, folder, document)
        keys = files.whole(KEYS, "|u1", (info.vectors, 16))
        return NeighborIndex(info, keys, _read_searcher(files))
    except NewerDocument as error:
        raise NewerIndex(str(error)) from error
    except (OSError, BadDocument, WrongArray, MemoryError) as error:
        if isinstance(error, OSError):
            unless_damage(error, folder)
        raise UnusableIndex(f"it cannot be read ({error})") from error


def discard_index(folder: Path) -> None:
    """Remove a saved index that cannot be used; where nothing may be written, it stays."""
    doomed = folder.parent.parent / "drafts" / uuid.uuid4().hex
    try:
        with writing_to(folder):
            for each in (doomed.parent, folder.parent):
                check_within(each, _root(folder.parent.parent))
            doomed.parent.mkdir(exist_ok=True)
            if move_away(folder, doomed):
                remove_tree(doomed)
    except StoreError as error:
        log.info("%s stays: %s", folder, error)


def _root(recipe_folder: Path) -> Path:
    """The store's folder."""
    return recipe_folder.parent.parent


def _info_of(document: NeighborsDocument) -> IndexInfo:
    """What an index is, where its document agrees with itself."""
    values = document.info.model_dump()
    excluded = tuple(Excluded(**each) for each in values.pop("excluded"))
    info = IndexInfo(**values, excluded=excluded)
    lists = (document.lists, info.probed_lists, info.recall_queries)
    if info.kind == "exact" and any(each is not None for each in lists):
        raise UnusableIndex("it counts lists that it does not have")
    if info.kind == "ivf":
        if any(each is None for each in lists):
            raise UnusableIndex("it does not count its lists")
        assert document.lists is not None
        assert info.probed_lists is not None
        if info.probed_lists > document.lists:
            raise UnusableIndex(f"it reads {info.probed_lists} of {document.lists} lists")
    if document.files.keys() != set(FILES[info.kind]):
        raise UnusableIndex("it names other files")
    return info


class _Files:
    """The arrays of one index."""

    def __init__(self, root: Path, folder: Path, document: NeighborsDocument) -> None:
        self.document, self.info = document, document.info
        self._root, self._folder = root, folder

    def open(self, name: str, dtype: str, shape: tuple[int, ...]) -> ArrayFile:
        facts, path = self.document.files[name], self._folder / name
        return ArrayFile(self._root, path, dtype, shape, size=facts.bytes, checksum=facts.crc32c)

    def whole(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        with self.open(name, dtype, shape) as file:
            array = file.take(shape[0])
            file.finish()
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def _write_searcher(searcher: Searcher, folder: Path) -> int | None:
    """Write what searches; how many lists it has."""
    if isinstance(searcher, Exact):
        write_array(folder / VECTORS, "<f4", searcher.vectors.shape, [searcher.vectors])
        return None
    assert isinstance(searcher, InvertedLists)
    sizes, count = searcher.sizes(), searcher.count
    write_array(folder / CENTROIDS, "<f4", searcher.centroids().shape, [searcher.centroids()])
    write_array(folder / LISTS, "<i8", sizes.shape, [sizes])
    write_array(folder / ROWS, "<i8", (count,), (rows for rows, _ in searcher.lists()))
    shape = (count, searcher.width)
    write_array(folder / VECTORS, "<f4", shape, (vectors for _, vectors in searcher.lists()))
    return len(sizes)


def _read_searcher(files: _Files) -> Searcher:
    info = files.info
    shape = (info.vectors, info.width)
    if info.kind == "exact":
        return Exact(files.whole(VECTORS, "<f4", shape), info.metric)
    lists, probed = files.document.lists, info.probed_lists
    assert lists is not None
    assert probed is not None
    sizes = files.whole(LISTS, "<i8", (lists,))
    if sizes.min() < 0 or sizes.max() > info.vectors or sum(sizes.tolist()) != info.vectors:
        raise UnusableIndex(f"{LISTS} does not count {info.vectors} vectors")
    rows = files.whole(ROWS, "<i8", (info.vectors,))
    if rows.min() < 0 or rows.max() >= info.vectors or np.bincount(rows).min() != 1:
        raise UnusableIndex(f"{ROWS} does not name every vector once")
    searcher = InvertedLists.empty(files.whole(CENTROIDS, "<f4", (lists, info.width)), info.metric)
    with files.open(VECTORS, "<f4", shape) as file:
        filled = 0
        for number, size in enumerate(sizes.tolist()):
            searcher.fill(number, rows[filled : filled + size], file.take(size))
            filled += size
        file.finish()
    searcher.index.nprobe = probed
    return searcher


def _facts(path: Path) -> dict[str, int]:
    """Bytes and crc32c of a file, read in blocks."""
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            checksum = extend_crc32c(checksum, block)
    return {"bytes": size, "crc32c": checksum}
