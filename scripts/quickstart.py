"""The main job on synthetic genes: embed, probe, and say how much of a planted signal came back.

Example: python scripts/quickstart.py quickstart
"""

from __future__ import annotations

import argparse
import csv
import logging
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from embedstore import create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.specs import find_spec
from embedstore.build import BuildConfig, build
from embedstore.cli import let_idle_threads_sleep
from embedstore.records import read_records
from embedstore.synthetic import WEIGHTS, SyntheticGenes, make_genes
from probe.grid import Grid
from probe.metrics import spearman
from probe.plan import plan_run
from probe.runs import run_grid
from probe.tasks import Task

BACKBONES = ("one-hot-mrna", "one-hot-protein", "codon-composition", "codon-mini")
GENES = 1500
GRID = Grid(batch_sizes=(32,), learning_rates=(3e-4, 9e-4), epochs=12, patience=4)


def main() -> None:
    """Run the whole path in one folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where everything is written")
    let_idle_threads_sleep()
    folder: Path = parser.parse_args().folder
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    genes = make_genes(GENES)
    (folder / "synthetic.csv").write_text(genes.as_csv())
    embed(folder)
    results = probe(folder)
    report(folder, genes, results, time.monotonic() - began)


def embed(folder: Path) -> None:
    """`embedstore build synthetic.csv --store synthetic.store --molecule mrna --backbone ...`"""
    records = read_records(folder / "synthetic.csv", molecule="mrna")
    store = create_store(folder / "synthetic.store")
    for name in BACKBONES:
        prepared = prepare(BackboneConfig(backbone=name))
        done = build(store, records, prepared, BuildConfig(collection="synthetic"))
        print(f"{done.recipe}: {done.embedded} embedded, {done.present} there before")


def probe(folder: Path) -> dict[str, float]:
    """`probe grid synthetic.store --collection synthetic --label label ... -o probes`"""
    shutil.rmtree(folder / "probes", ignore_errors=True)
    task = Task(collection="synthetic", label="label", kind="regression")
    plan = plan_run(open_store(folder / "synthetic.store"), task, BACKBONES, GRID)
    results = run_grid(plan, folder / "probes")["backbones"]
    return {name: result["test_score"] for name, result in results.items()}


def report(folder: Path, genes: SyntheticGenes, scores: dict[str, float], seconds: float) -> None:
    """Scores beside what the planted parts that a view shows would reach on the same test rows."""
    usage = WEIGHTS["codon_usage"] * genes.parts["codon_usage"]
    motif = WEIGHTS["motif"] * genes.parts["motif"]
    with (folder / "probes" / "predictions" / f"{BACKBONES[0]}.csv").open() as file:
        tested = {row["id"] for row in csv.DictReader(file)}
    rows = np.array([name in tested for name in genes.ids])
    print(f"\nSYNTHETIC genes, planted signal, {rows.sum()} test rows, Spearman:")
    print(f"{'backbone':20}{'test':>7}{'planted':>9}{'share':>8}   what the view shows")
    for name, score in scores.items():
        protein = find_spec(name).view == "protein"
        planted = motif if protein else usage + motif
        limit = spearman(planted[rows], genes.label[rows])
        shows = "motif" if protein else "codon usage and motif"
        print(f"{name:20}{score:7.3f}{limit:9.3f}{score / limit:8.0%}   {shows}")
    print("\n'planted' is what the planted parts themselves reach: no head can do much better.")
    print(f"Table and plots: {folder / 'probes'}/results.md and report.html. {seconds:.0f} s.")


if __name__ == "__main__":
    main()
