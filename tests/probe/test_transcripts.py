"""Probes on transcripts with UTRs: the numbers of the coding sequence alone, nothing made twice."""

import csv
import json
import random

import numpy as np
import pytest
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.cli import app
from embedstore.dogma import Coding
from embedstore.errors import BadInput
from embedstore.records import Record
from embedstore.synthetic import make_genes
from probe import cli
from probe.head_rules import BY_TOKEN, check_positions

QUICK = ["--batch-size", "16", "--learning-rate", "9e-4", "--epochs", "1", "--threads", "1"]
COUNT = 40


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """alone.csv holds coding sequences, utrs.csv the same in transcripts, with positions from 1."""
    folder = tmp_path_factory.mktemp("tables")
    genes, rng = make_genes(COUNT, seed=3), random.Random(0)
    alone, whole = [], []
    for id, text, label in zip(genes.ids, genes.sequences, genes.label, strict=True):
        before, after = ("".join(rng.choices("ACGU", k=rng.randint(0, 60))) for _ in range(2))
        shared = {"id": id, "label": f"{label:.6f}"}
        alone.append(shared | {"sequence": text})
        region = {"first": len(before) + 1, "last": len(before + text)}
        whole.append(shared | {"sequence": before + text + after} | region)
    for name, rows in (("alone", alone), ("utrs", whole)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


def call(commands, *asked):
    done = CliRunner().invoke(commands, [str(each) for each in asked])
    assert done.exit_code == 0, done.output
    return done.stdout


def build(tables, name, store, *options):
    backbones = "one-hot-protein,codon-composition"
    asked = ["build", tables / f"{name}.csv", "--store", store, "--backbone", backbones, "--json"]
    return [json.loads(line) for line in call(app, *asked, *options).splitlines()]


@pytest.mark.parametrize("backbone", ["one-hot-protein", "codon-composition", "both"])
def test_utrs_change_no_number_of_backbones_that_read_the_coding_region(tables, tmp_path, backbone):
    store = tmp_path / "s"
    first = build(tables, "alone", store)
    second = build(tables, "utrs", store, "--cds-columns", "first,last")
    assert [each["embedded"] for each in first] == [COUNT, COUNT]
    assert [(each["embedded"], each["present"]) for each in second] == [(0, COUNT)] * 2
    names = "one-hot-protein+codon-composition"
    found = []
    for name in ("alone", "utrs"):
        run = tmp_path / f"run-{name}"
        asked = ["grid", store, "--collection", name, "--label", "label", "-o", run, *QUICK]
        more = ["--align", "codon"] if backbone == "both" else []
        asked += ["--backbone", names if backbone == "both" else backbone, *more]
        call(cli.app, *asked)
        predictions = sorted((run / "predictions").glob("*.csv"))
        assert predictions
        found.append([path.read_text() for path in predictions])
    assert found[0] == found[1]


def test_predictions_of_stored_transcripts_use_their_regions(tables, tmp_path):
    store, run = tmp_path / "s", tmp_path / "run"
    build(tables, "alone", store)
    build(tables, "utrs", store, "--orf", "longest")
    asked = ["grid", store, "--collection", "alone", "--label", "label", "-o", run, *QUICK]
    call(cli.app, *asked, "--backbone", "one-hot-protein")
    found = []
    for name in ("alone", "utrs"):
        output = tmp_path / f"{name}.csv"
        call(cli.app, "predict", run, store, "--collection", name, "-o", output)
        found.append(output.read_text())
    records = open_store(store).collection("utrs").records()
    longest = [row.view("cds").text for row in records]
    alone = [row.sequence for row in open_store(store).collection("alone").records()]
    same = [at for at, text in enumerate(longest) if alone[at] == text]
    assert len(same) > COUNT / 2  # by chance an upstream start or another frame is longer
    rows = [list(csv.reader(text.splitlines())) for text in found]
    for at in same:
        assert rows[0][at + 1] == rows[1][at + 1]


def test_clusters_are_of_the_protein_not_of_the_transcript(tables, tmp_path):
    from probe.split_rules import _comparable

    record = Record("t", "CCAUGGCUUAACC", "mrna", Coding(2, 11))
    assert _comparable(record) == ("protein", "MA")
    outside = Record("t", "CCAUGGCUUAACC", "mrna", Coding(absent="no-orf"))
    assert _comparable(outside) == ("dna", "CCATGGCTTAACC")


class _Reader:
    """A reader of a recipe, as far as the rules of heads look at one."""

    def __init__(self, backbone, view):
        from embedstore import Recipe

        self.recipe = Recipe(backbone=backbone, view=view, width=4, weights=None)


def test_labels_of_positions_are_those_of_the_record_and_no_shifted_view_passes():
    utrs = [Record("w", "AUGGCUUAA", "mrna"), Record("t", "CAUGGCUUAA", "mrna", Coding(1, 10))]
    count = np.array([9, 9])
    check_positions(BY_TOKEN, count, {"b": _Reader("one-hot-mrna", "mrna")}, utrs)
    # a model of single letters that reads the coding region: whole in one row, shifted in another
    letters = {"cds-letters": _Reader("one-hot-mrna", "cds")}
    check_positions(BY_TOKEN, count[:1], letters, utrs[:1])
    for rows in (utrs, utrs[::-1], [Record("t", "AUGGCUUAAC", "mrna", Coding(0, 9)), utrs[0]]):
        with pytest.raises(BadInput, match="cds-letters has no token for each position"):
            check_positions(BY_TOKEN, count, letters, rows)
