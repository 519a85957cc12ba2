"""A build that is killed and rerun: nothing half-written is seen, the end is the same."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedstore import Store, create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import StoreError
from embedstore.records import read_records
from embedstore.synthetic import make_genes

BUILD = """
import sys
from pathlib import Path
from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import read_records
table, store, weights = map(Path, sys.argv[1:])
records = read_records(table, molecule="mrna")
prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=weights, device="cpu"))
config = BuildConfig(collection="genes", segment_bytes=4_000, batch_tokens=300, quiet=True)
print("start", flush=True)
build(create_store(store), records, prepared, config)
"""
KILLS = 3


def embeddings(store: Store) -> dict[str, np.ndarray]:
    reader = store.recipe("esm2-8m")
    return {key: reader.get(key) for key in sorted(reader.keys())}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "genes.csv"
    path.write_text(make_genes(300, seed=5).as_csv())
    return path


def test_a_killed_build_shows_only_whole_embeddings_and_ends_the_same(tmp_path, table, tiny_esm):
    undisturbed = create_store(tmp_path / "undisturbed")
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
    config = BuildConfig(collection="genes", segment_bytes=4_000, batch_tokens=300, quiet=True)
    build(undisturbed, read_records(table, molecule="mrna"), prepared, config)
    truth = embeddings(undisturbed)

    words = [sys.executable, "-c", BUILD, table, tmp_path / "killed", tiny_esm]
    rng = random.Random()
    seen = 0
    for _ in range(KILLS):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.6))
            process.kill()
        try:
            part = embeddings(open_store(tmp_path / "killed"))
        except StoreError as error:
            assert error.code in ("not-a-store", "missing-recipe")
            continue
        assert len(part) >= seen  # nothing published is ever lost
        seen = len(part)
        for key, rows in part.items():
            np.testing.assert_array_equal(rows, truth[key])
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    finished = embeddings(open_store(tmp_path / "killed"))
    assert finished.keys() == truth.keys()
    for key, rows in finished.items():
        np.testing.assert_array_equal(rows, truth[key])
    names = [
        [path.name for path in each.segment_folders(prepared.recipe.name)]
        for each in (undisturbed, open_store(tmp_path / "killed"))
    ]
    assert names[0] == names[1]  # the same segments, not only the same embeddings
