"""A small store made by a real build: one collection, one recipe, several segments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from embedstore import Store, create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build

Snapshot = dict[str, str]


@pytest.fixture
def rebuild(genes) -> Callable[[Store], int]:
    """Build the genes into a store; tells how many were embedded."""

    def run(store: Store, collection: str = "genes") -> int:
        config = BuildConfig(collection=collection, segment_bytes=1000, quiet=True)
        prepared = prepare(BackboneConfig(backbone="one-hot-protein"))
        return build(store, genes, prepared, config).embedded

    return run


@pytest.fixture
def built(tmp_path, rebuild) -> Store:
    """The store, under a path with spaces and letters of several scripts."""
    store = create_store(tmp_path / "ein Speicher für 配列" / "genes.store")
    rebuild(store)
    assert len(store.segment_folders(store.recipes()[0])) > 3
    return store


@pytest.fixture
def snapshot() -> Callable[[Path], Snapshot]:
    """Digest of every file below a folder, by path."""

    def take(folder: Path) -> Snapshot:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return take
