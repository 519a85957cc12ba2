"""A small store of synthetic genes, built once through the library."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from embedstore import Store, create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import read_records
from embedstore.synthetic import make_genes
from probe.grid import Grid
from probe.heads import make_head

GENES = 60
NO_LABEL = "synthetic-2"  # a record of the table below with an empty label
NO_PROTEIN = "synthetic-3"  # one whose length is no multiple of three

torch.set_num_threads(1)


def assert_trained_alike(one, alone, kind="textcnn"):
    """Two trainings of one configuration that differ by rounding end in the same head.

    All weights together, within a thousandth of the way that they went: in float32 AdamW moves a
    weight whose gradient is all rounding as far as any other, in a direction that depends on the
    machine. Another learning rate or seed would lie far outside.
    """
    sizes = {name: value for name, value in one.head.sizes.items() if name != "dropout"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(one.config.seed)
        start = make_head(kind, sizes["width"], sizes["outputs"])
    mine, theirs, before = (
        torch.cat([p.detach().flatten() for p in head.parameters()])
        for head in (one.head, alone.head, start)
    )
    assert (mine - theirs).norm() < 1e-3 * (theirs - before).norm()


def one_swap(rows):
    """How far Spearman's correlation moves where two neighbours among so many rows swap ranks."""
    return 12 / (rows * (rows**2 - 1)) * (1 + 1e-9)


@pytest.fixture(scope="session")
def genes_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns id, sequence, label, expression (positive) and side (`high` or `low`)."""
    genes = make_genes(GENES, seed=1)
    path = tmp_path_factory.mktemp("input") / "genes.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "label", "expression", "side"])
        for id, sequence, label in zip(genes.ids, genes.sequences, genes.label, strict=True):
            shown = "" if id == NO_LABEL else f"{label:.6f}"
            text = sequence + "A" if id == NO_PROTEIN else sequence
            writer.writerow([id, text, shown, f"{2**label:.6f}", "high" if label > 0 else "low"])
    return path


@pytest.fixture(scope="session")
def store(genes_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The collection `genes`, embedded with one-hot-mrna and one-hot-protein."""
    opened = create_store(tmp_path_factory.mktemp("stores") / "genes.store")
    records = read_records(genes_csv, molecule="mrna")
    for backbone in ("one-hot-mrna", "one-hot-protein"):
        prepared = prepare(BackboneConfig(backbone=backbone))
        build(opened, records, prepared, BuildConfig(collection="genes", quiet=True))
    return opened


@pytest.fixture
def quick() -> Grid:
    """Two configurations of two epochs."""
    return Grid(batch_sizes=(16,), learning_rates=(3e-4, 9e-4), epochs=2)
