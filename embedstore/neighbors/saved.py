"""Neighbour indexes on disk: derived from the segments, and may be removed at any time.

`recipes/RECIPE/neighbors/METRIC-KIND-DIGEST/` is published by one rename and never changes: DIGEST
is that of the segments in it. `keys.npy` and `vectors.npy` or `lists.faiss` are read into memory;
from `MAPPED_BYTES` on they are mapped, so that the processes of one machine share them.
`index.json` holds their checksums.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import extend as extend_crc32c
from numpy.typing import NDArray

from embedstore.errors import StoreError
from embedstore.neighbors.index import (
    Exact,
    Excluded,
    IndexInfo,
    InvertedLists,
    Metric,
    NeighborIndex,
    Searcher,
)
from embedstore.store.files import publish_folder, writing_to
from embedstore.store.objects import unless_damage

log = logging.getLogger(__name__)

FORMAT = 1
BLOCK = 4 << 20
MAPPED_BYTES = 256 << 20
"""Size from which a file is mapped: whoever cuts a mapped file ends every process that reads it."""
INFO, KEYS, VECTORS, LISTS = "index.json", "keys.npy", "vectors.npy", "lists.faiss"


class UnusableIndex(Exception):
    """Damaged, or of another version; never shown, for the index is made anew."""


def neighbors_folder(recipe_folder: Path) -> Path:
    """Where the indexes of a recipe lie."""
    return recipe_folder / "neighbors"


def saved_indexes(recipe_folder: Path, metric: Metric) -> Iterator[Path]:
    """Folders of the saved indexes of a metric, the newest first."""
    found = []
    for path in neighbors_folder(recipe_folder).glob(f"{metric}-*-*"):
        try:
            found.append((path.stat().st_mtime_ns, path))
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
        draft.mkdir(parents=True)
        try:
            np.save(draft / KEYS, index.keys, allow_pickle=False)
            _write_searcher(index.searcher, draft)
            document: dict[str, Any] = {
                "kind": "neighbors",
                "format": FORMAT,
                "info": info.as_json(),
                "files": {name: _facts(draft / name) for name in (KEYS, _file_of(index.searcher))},
            }
            text = json.dumps(document, indent=1).encode()
            (draft / INFO).write_bytes(text)
            sizes = {name: facts["bytes"] for name, facts in document["files"].items()}
            publish_folder(draft, final, sizes | {INFO: len(text)})
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return final


def load_index(folder: Path) -> NeighborIndex:
    """Read or map a saved index; every byte is checked first.

    Raises
    ------
    UnusableIndex
    Unreachable
        It cannot be read now.
    """
    try:
        document = json.loads((folder / INFO).read_bytes())
        if document["format"] != FORMAT:
            raise UnusableIndex("it has another format")
        info = _info_of(document["info"])
        for name in (KEYS, VECTORS if info.kind == "exact" else LISTS):
            if document["files"][name] != _facts(folder / name):
                raise UnusableIndex(f"{name} does not match its checksum")
        if folder.name != f"{info.metric}-{info.kind}-{info.segments}":
            raise UnusableIndex("it is not the one that its folder is named after")
        keys = _read_array(folder / KEYS)
        searcher = _read_searcher(info, folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, OSError):
            unless_damage(error, folder)
        if "Too many open files" in str(error):  # faiss tells it in words only
            unless_damage(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), folder)
        raise UnusableIndex(f"it cannot be read ({error!r})") from error
    if keys.shape != (info.vectors, 16):
        raise UnusableIndex(f"{KEYS} does not hold {info.vectors} keys")
    return NeighborIndex(info, keys, searcher)


def discard_index(folder: Path) -> None:
    """Remove a saved index that cannot be used; where nothing may be written, it stays."""
    doomed = folder.parent.parent / "drafts" / uuid.uuid4().hex
    try:
        with writing_to(folder):
            doomed.parent.mkdir(exist_ok=True)
            folder.rename(doomed)
            shutil.rmtree(doomed)
    except StoreError as error:
        log.info("%s stays: %s", folder, error)


def _info_of(values: dict[str, Any]) -> IndexInfo:
    info = IndexInfo(**values)
    return replace(info, excluded=tuple(Excluded(**each) for each in values["excluded"]))


def _file_of(searcher: Searcher) -> str:
    return VECTORS if isinstance(searcher, Exact) else LISTS


def _write_searcher(searcher: Searcher, folder: Path) -> None:
    if isinstance(searcher, Exact):
        np.save(folder / VECTORS, searcher.vectors, allow_pickle=False)
        return
    assert isinstance(searcher, InvertedLists)
    import faiss

    try:
        faiss.write_index(searcher.index, str(folder / LISTS))
    except RuntimeError as error:  # faiss tells of a full disk in words only
        raise OSError(5, f"faiss: {error}") from error


def _read_searcher(info: IndexInfo, folder: Path) -> Searcher:
    if info.kind == "exact":
        vectors = _read_array(folder / VECTORS)
        if vectors.shape != (info.vectors, info.width) or vectors.dtype != np.float32:
            raise UnusableIndex(f"{VECTORS} does not hold {info.vectors} vectors")
        return Exact(vectors, info.metric)
    import faiss

    path = folder / LISTS
    mapped = _is_mapped(path)
    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0
    index: Any = faiss.read_index(str(path), flags)
    if mapped:
        # its threads would go on reading the map when a search has ended
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0
    if (index.ntotal, index.d) != (info.vectors, info.width):
        raise UnusableIndex(f"{LISTS} does not hold {info.vectors} vectors")
    index.nprobe = info.probed_lists
    return InvertedLists(index)


def _read_array(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(
        path, mmap_mode="r" if _is_mapped(path) else None, allow_pickle=False
    )
    return array


def _is_mapped(path: Path) -> bool:
    return path.stat().st_size >= MAPPED_BYTES


def _facts(path: Path) -> dict[str, int]:
    """Bytes and crc32c of a file, read in blocks."""
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            checksum = extend_crc32c(checksum, block)
    return {"bytes": size, "crc32c": checksum}
