"""Builds: what is stored, what is skipped, what a rerun does, and what an error leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from embedstore import create_store, key_of, open_store
from embedstore.backbones.load import BackboneConfig, PreparedBackbone, prepare
from embedstore.build import BuildConfig, build
from embedstore.build.worker import Tally, Worker
from embedstore.cli import app
from embedstore.errors import StoreFull
from embedstore.records import Record, Records

QUIET = BuildConfig(collection="genes", segment_bytes=2000, batch_tokens=100, quiet=True)


@pytest.fixture
def prepared(tiny_esm: Path) -> PreparedBackbone:
    return prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))


def working(backbone, batch_tokens: int) -> Worker:
    class Loaded:
        load = staticmethod(lambda: backbone)

    return Worker(Path("nowhere"), Loaded(), batch_tokens)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def write_csv(path: Path, rows: dict[str, str]) -> Path:
    path.write_text("id,sequence\n" + "".join(f"{name},{text}\n" for name, text in rows.items()))
    return path


def test_a_rerun_embeds_nothing_and_writes_nothing(tmp_path, genes, prepared):
    store = create_store(tmp_path / "s")
    first = build(store, genes, prepared, QUIET)
    assert (first.embedded, first.present, first.complete) == (38, 0, True)
    before = snapshot(store.folder)
    again = build(store, genes, prepared, QUIET)
    assert (again.embedded, again.present, again.segments) == (0, 38, 0)
    assert snapshot(store.folder) == before


def test_new_rows_alone_are_embedded(tmp_path, genes, prepared):
    store = create_store(tmp_path / "s")
    part = Records(genes.rows[:30], genes.labels.slice(0, 30), 0, [])
    build(store, part, prepared, QUIET)
    whole = build(store, genes, prepared, QUIET)
    assert whole.present + whole.embedded == 38
    assert whole.embedded == 10


def test_a_changed_sequence_under_the_same_id_gets_its_own_embedding(tmp_path, genes, prepared):
    store = create_store(tmp_path / "s")
    build(store, genes, prepared, QUIET)
    before = store.recipe("esm2-8m").get(genes.rows[7].id)
    rows = list(genes.rows)
    rows[7] = replace(rows[7], sequence="AUGUGGUGGUGGUAA")
    build(store, replace(genes, rows=rows), prepared, replace(QUIET, replace=True))
    after = store.recipe("esm2-8m").get(genes.rows[7].id)
    assert after.shape == (4, 16) != before.shape


def test_embeddings_do_not_depend_on_their_batch(tmp_path, genes, prepared):
    """Largest difference: one float16 rounding step, from another order of float32 sums."""
    found = []
    for number, tokens in enumerate((1, 64, 100_000)):
        store = create_store(tmp_path / f"s{number}")
        build(store, genes, prepared, replace(QUIET, batch_tokens=tokens))
        reader = store.recipe("esm2-8m")
        found.append(reader.batch(reader.keys()).tokens.astype(np.float64))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=2**-10, atol=1e-6)


def test_what_the_view_cannot_read_is_skipped_with_its_reason_and_exit_code_3(tmp_path):
    table = write_csv(
        tmp_path / "t.csv",
        {"good": "AUGGCCUAA", "short": "AUGGC", "start": "GUGUAA", "inner": "AUGUAAUAA"},
    )
    words = ("build", table, "--store", tmp_path / "s", "--backbone", "one-hot-protein", "--json")
    result = invoke(*words)
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert report["failures"] == {
        "inner-stop-codon": 1,
        "length-not-codons": 1,
        "no-start-codon": 1,
    }
    store = open_store(tmp_path / "s")
    folder = store.recipe_folder(report["recipe"]) / "failures"
    lines = [
        json.loads(line) for line in (folder / report["failures_file"]).read_text().splitlines()
    ]
    assert {line["id"]: line["reason"] for line in lines} == {
        "short": "length-not-codons",
        "start": "no-start-codon",
        "inner": "inner-stop-codon",
    }
    assert "stop UAA at nt 3" in next(line["detail"] for line in lines if line["id"] == "inner")
    assert store.recipe("one-hot-protein").get("good").shape == (2, 20)
    listed = invoke("missing", tmp_path / "s", "--backbone", "one-hot-protein", "--json")
    assert {row["id"] for row in json.loads(listed.stdout)} == {"short", "start", "inner"}


def test_strict_refuses_instead_and_writes_nothing(tmp_path):
    table = write_csv(tmp_path / "t.csv", {"good": "AUGGCCUAA", "short": "AUGGC"})
    words = ("build", table, "--store", tmp_path / "s", "--backbone", "one-hot-protein", "--strict")
    result = invoke(*words)
    assert result.exit_code == 1
    assert "'short': 5 nt is not divisible by 3" in result.stderr
    assert not (tmp_path / "s").exists()


def test_too_long_writes_nothing_and_names_the_fix(tmp_path):
    table = write_csv(tmp_path / "t.csv", {"a": "MKTW", "b": "MKTWMKTW"})
    words = ("build", table, "--store", tmp_path / "s", "--backbone", "one-hot-protein")
    result = invoke(*words, "--molecule", "protein", "--max-tokens", 5)
    assert result.exit_code == 1
    assert "--long" in result.stderr
    assert not (tmp_path / "s").exists()


def test_what_was_cut_is_listed_but_is_no_gap(tmp_path):
    table = write_csv(tmp_path / "t.csv", {"a": "MKTW", "b": "MKTWMKTW"})
    words = ("build", table, "--store", tmp_path / "s", "--backbone", "one-hot-protein", "--json")
    words = (*words, "--molecule", "protein", "--max-tokens", 5, "--long", "truncate")
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["cut"], report["failures"], report["tokens"]) == (1, {}, 9)
    folder = open_store(tmp_path / "s").recipe_folder(report["recipe"]) / "failures"
    (line,) = (folder / report["failures_file"]).read_text().splitlines()
    assert json.loads(line) == {
        "id": "b",
        "view": "protein",
        "reason": "truncated",
        "detail": "the first 5 of 8 tokens are stored",
    }


def test_windows_store_every_token(tmp_path, tiny_esm):
    table = write_csv(tmp_path / "t.csv", {"a": "MKTW", "b": "MKTWAGHE" * 5})
    words = ("build", table, "--store", tmp_path / "s", "--backbone", "esm2-8m", "--json")
    words = (*words, "--weights", tiny_esm, "--device", "cpu", "--molecule", "protein")
    result = invoke(*words, "--max-tokens", 18, "--long", "window", "--window-overlap", 4)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["cut"], report["tokens"]) == (0, 44)
    reader = open_store(tmp_path / "s").recipe("esm2-8m")
    assert reader.recipe.long == "window:16:4"
    assert reader.get("b").shape == (40, 16)


def test_a_dry_run_counts_and_writes_nothing(tmp_path):
    table = write_csv(tmp_path / "t.csv", {"a": "MKTW", "b": "MKTWMKTW", "c": "MKTW"})
    words = ("build", table, "--store", tmp_path / "s", "--backbone", "one-hot-protein")
    result = invoke(*words, "--molecule", "protein", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert (plan["records"], plan["to_embed"], plan["tokens"], plan["bytes"]) == (3, 2, 12, 480)
    assert not (tmp_path / "s").exists()


def test_a_value_that_is_not_finite_is_a_failure_of_its_record_alone(tmp_path, prepared, genes):
    class Overflowing:
        def __init__(self, backbone):
            self.backbone = backbone

        def __getattr__(self, name):
            return getattr(self.backbone, name)

        def tokenize(self, views):
            return self.backbone.tokenize(views), [view.startswith("M" + bad) for view in views]

        def forward(self, batch):
            return self.backbone.forward(batch[0]), batch[1]

        def collect(self, result):
            embedded = self.backbone.collect(result[0])
            embedded.finite[result[1]] = False
            return embedded

    bad = "A"
    loaded = prepared.load()
    faulty = type("Faulty", (), {**vars(prepared)})()
    for name in ("tokenizer", "stored_count", "forward_cost", "reading"):
        setattr(faulty, name, getattr(prepared, name))
    faulty.load = lambda: Overflowing(loaded)
    store = create_store(tmp_path / "s")
    rows = [
        *genes.rows[:5],
        Record("bad", "AUGGCCGCCUAA", "mrna"),
        Record("twin", "AUGGCAGCAUAA", "mrna"),
    ]
    few = Records(rows, genes.labels.slice(0, 7), 0, [])
    report = build(store, few, faulty, QUIET)
    assert report.failures["not-finite"] >= 2
    assert not report.complete
    lines = next(store.folder.rglob("failures/*")).read_text().splitlines()
    lost = {json.loads(line)["id"] for line in lines}
    assert {"bad", "twin"} <= lost
    assert not store.recipe("esm2-8m").has([key_of("MAA")])[0]
    assert build(store, few, prepared, QUIET).complete  # the next build tries again


def test_out_of_memory_halves_the_batch_and_remembers(prepared):
    from embedstore.build.plan import Item

    class Small:
        tokenize = staticmethod(list)
        refused = 0

        def forward(self, views):
            if sum(map(len, views)) + 2 * len(views) > 100:
                self.refused += 1
                raise torch.OutOfMemoryError("no room")
            return views

    small = Small()
    items = [Item(key_of(str(at)), "M" * 20, 20, 22) for at in range(40)]
    worker = working(small, 880)
    assert [item for part, _ in worker.forward(items, Tally()) for item in part] == items
    assert worker.batch_tokens <= 110
    refused = small.refused
    assert refused > 0
    list(worker.forward(items, Tally()))
    assert small.refused == refused  # it remembered


def test_an_error_while_writing_ends_the_build_with_that_error(
    tmp_path, genes, prepared, monkeypatch
):
    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedstore.store.segment.SegmentWriter._write_shard", full)
    store = create_store(tmp_path / "s")
    with pytest.raises(StoreFull, match="No space left"):
        build(store, genes, prepared, QUIET)
    assert not list(store.folder.rglob("drafts/*"))
    assert len(store.recipe("esm2-8m")) == 0


def test_the_report_says_where_the_time_went(tmp_path, genes, prepared):
    report = build(create_store(tmp_path / "s"), genes, prepared, QUIET)
    assert set(report.share) == {"tokenize", "model", "copy", "write"}
    assert report.share["model"] > 0


def test_an_interrupt_leaves_published_segments_and_says_how_to_go_on(
    tmp_path, tiny_esm, genes, monkeypatch
):
    import embedstore.build.worker as run

    table = write_csv(tmp_path / "t.csv", {row.id: row.sequence for row in genes.rows})
    words = (
        "build",
        table,
        "--store",
        tmp_path / "s",
        "--backbone",
        "esm2-8m",
        "--molecule",
        "mrna",
    )
    words = (*words, "--weights", tiny_esm, "--device", "cpu", "--batch-tokens", 60)
    original, calls = run.SegmentWriter.append, []

    def append(self, keys, embedded):
        calls.append(keys)
        if len(calls) == 4:
            raise KeyboardInterrupt
        original(self, keys, embedded)

    monkeypatch.setattr(run.SegmentWriter, "append", append)
    result = invoke(*words)
    assert result.exit_code == 130
    assert "run the same command" in result.stderr
    monkeypatch.undo()
    assert not list((tmp_path / "s").rglob("drafts/*"))
    assert invoke(*words).exit_code == 0


def test_the_default_collection_name_is_the_input_without_endings(tmp_path):
    import gzip

    with gzip.open(tmp_path / "my.genes.fasta.gz", "wt") as file:
        file.write(">a\nMKT\n")
    words = ("build", tmp_path / "my.genes.fasta.gz", "--store", tmp_path / "s")
    result = invoke(
        *words, "--backbone", "one-hot-protein,one-hot-protein", "--molecule", "protein"
    )
    assert result.exit_code == 0, result.output
    assert open_store(tmp_path / "s").collections() == ["my"]
