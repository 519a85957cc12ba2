"""No finite row is a normal case: bad records are named, good ones stored, on every route."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from embedstore import create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.build.engines import RayCluster, SeveralDevices
from embedstore.build.missing import missing_records
from embedstore.cli import app
from embedstore.loaders import load_features
from embedstore.records import Record, Records
from embedstore.store.recipe import Recipe
from embedstore.store.segment import SegmentWriter

BAD = "MWWWWWWW"
ALL = {"a": "MKVLA", "b": BAD, "c": "MKKKKKKKKKKKK"}


@pytest.fixture(scope="module")
def faulty(tiny_esm, tmp_path_factory):
    """An ESM-2 whose token row of W is NaN: every protein with a W is not finite."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("faulty")
    shutil.copy(tiny_esm / "config.json", folder)
    tensors = load_file(tiny_esm / "model.safetensors")
    tensors["esm.embeddings.word_embeddings.weight"][22] = float("nan")  # W of fair-esm's alphabet
    tensors.pop("lm_head.decoder.weight", None)
    save_file(tensors, folder / "model.safetensors")
    return folder


def embed(store, path, faulty, *words):
    command = ["build", path, "--store", store, "--backbone", "esm2-8m", "--weights", faulty]
    command += ["--molecule", "protein", "--device", "cpu", "--json", *words]
    return CliRunner().invoke(app, [str(word) for word in command])


def fasta(path: Path, rows: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{text}\n" for name, text in rows.items()))
    return path


def listed(store, *words):
    command = ["missing", str(store), "--backbone", "esm2-8m", "--json", *words]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return {row["id"]: row["why"] for row in json.loads(result.stdout)}


def records(rows: dict[str, str]) -> Records:
    import pyarrow as pa

    made = [Record(name, text, "protein") for name, text in rows.items()]
    return Records(made, pa.table({"label": np.arange(float(len(made)))}), 0, [])


@pytest.mark.parametrize("words", [[], ["--batch-tokens", "1"]])
def test_every_build_stores_the_good_and_names_the_bad(tmp_path, faulty, words):
    path = fasta(tmp_path / "p.fasta", ALL)
    for number in range(2):
        result = embed(tmp_path / "s", path, faulty, *words)
        assert result.exit_code == 3, result.output
        report = json.loads(result.stdout)
        assert report["failures"] == {"not-finite": 1}
        assert report["embedded"] == (0 if number else 2)
    assert len(open_store(tmp_path / "s").recipe("esm2-8m")) == 2
    assert listed(tmp_path / "s")["b"].startswith("not-finite: a value is not finite in float16 (b")


def test_a_store_of_nothing_but_bad_records_is_whole(tmp_path, faulty):
    path = fasta(tmp_path / "one.fasta", {"bad": BAD})
    for _ in range(2):
        assert embed(tmp_path / "s", path, faulty).exit_code == 3
    store = open_store(tmp_path / "s")
    reader = store.recipe("esm2-8m")
    assert (len(reader), reader.keys(), store.segment_names(reader.name)) == (0, [], [])
    assert reader.batch([]).tokens.shape == (0, 16)
    assert reader.means([]).shape == (0, 16)
    assert reader.lengths([]).tolist() == []
    assert load_features(reader, []).tokens.shape == (0, 16)
    assert not list(store.folder.rglob("drafts/*"))
    for words in (["verify"], ["info"], ["ls"], ["gc"]):
        result = CliRunner().invoke(app, [*words, str(tmp_path / "s")])
        assert result.exit_code == 0, result.output
    got = CliRunner().invoke(
        app, ["get", str(tmp_path / "s"), "bad", "--backbone", "esm2-8m", "-o", str(tmp_path / "x")]
    )
    assert got.exit_code == 1 and "has no embedding" in got.stderr and not (tmp_path / "x").exists()


def test_a_bad_sequence_alone_in_its_batch_loses_none_of_forty(tmp_path, faulty):
    good = {f"g{at}": "MKVLAGHE" * 3 + "ACDEFGHIKL"[at % 10] * (at + 1) for at in range(40)}
    path = fasta(tmp_path / "long.fasta", {"bad": "MW" + "A" * 300, **good})
    result = embed(tmp_path / "s", path, faulty, "--batch-tokens", 200)
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert (report["embedded"], report["failures"]) == (40, {"not-finite": 1})
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "s")]).exit_code == 0


def test_zero_good_rows_in_a_bucket(faulty):
    from uuid import uuid4

    url = f"memory://{uuid4().hex}/s"
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=faulty, device="cpu"))
    config = BuildConfig(collection="p", batch_tokens=1, quiet=True)
    store = create_store(url)
    for _ in range(2):
        report = build(store, records({"bad": BAD}), prepared, config)
        assert report.failures == {"not-finite": 1}
    (row,) = missing_records(store, "esm2-8m")
    assert row["why"].startswith("not-finite")


@pytest.mark.parametrize("store_dtype", ["float16", "float32"])
def test_a_writer_takes_batches_of_no_good_row(tmp_path, store_dtype):
    recipe = Recipe(backbone="x", view="protein", width=3, weights=None, store_dtype=store_dtype)
    empty = Embedded(
        np.zeros((0, 3), store_dtype),
        np.zeros(0, np.int64),
        np.zeros((0, 3), np.float32),
        None,
        np.zeros(0, np.bool_),
    )
    bad = Embedded(
        np.full((2, 3), np.nan, store_dtype),
        np.array([2]),
        np.full((1, 3), np.nan, np.float32),
        None,
        np.array([False]),
    )
    good = replace(
        bad, tokens=np.ones((2, 3), store_dtype), mean=np.ones((1, 3), np.float32),
        finite=np.array([True]),
    )  # fmt: skip
    store = create_store(tmp_path / "s")
    store.write_recipe(recipe)
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append([], empty)
        writer.append([key_of("bad")], bad)
        writer.append([key_of("good")], good)
        writer.append([key_of("worse")], bad)
        assert writer.publish({}) is not None
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append([key_of("bad")], bad)
        assert writer.publish({}) is None
    reader = store.recipe("x")
    assert reader.keys() == [key_of("good")]
    np.testing.assert_array_equal(reader.get(key_of("good")), np.ones((2, 3)))


def test_a_mean_that_overflows_is_not_finite(tiny_esm):
    # float32 rows of 3e38: each is finite, their sum is not
    import torch

    backbone = prepare(
        BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu", store_dtype="float32")
    ).load()
    backbone.states = lambda batch: torch.full((len(batch.ids), 16), 3e38)
    embedded = backbone.embed(["MKV"])
    assert np.isfinite(embedded.tokens).all()
    assert not np.isfinite(embedded.mean).any()
    assert embedded.finite.tolist() == [False]


def test_several_devices_name_the_bad(tmp_path, faulty):
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=faulty, device="cpu"))
    config = BuildConfig(collection="p", quiet=True, segment_bytes=1)
    store = create_store(tmp_path / "s")
    report = build(store, records(ALL), prepared, config, SeveralDevices(["cpu", "cpu"]))
    assert (report.embedded, report.failures) == (2, {"not-finite": 1})


def test_reasons_are_of_the_view_and_of_the_last_build(tmp_path, faulty, tiny_esm):
    store = tmp_path / "s"
    assert embed(store, fasta(tmp_path / "p.fasta", ALL), faulty).exit_code == 3
    # a later build of another collection hides nothing
    assert embed(store, fasta(tmp_path / "q.fasta", {"z": "MAAA"}), faulty).exit_code == 0
    assert list(listed(store)) == ["b"]
    assert listed(store)["b"].startswith("not-finite")
    # a sequence that has changed since has its own reason, or none
    changed = {**ALL, "b": "MWKW"}
    words = ("--replace", "--shard", "0/1")
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=faulty, device="cpu"))
    from embedstore.store.collection import make_table

    rows = records(changed)
    opened = open_store(store)
    opened.write_collection("p", make_table(rows.rows, rows.labels), replace=True)
    assert listed(store)["b"] == "not embedded"
    assert embed(store, fasta(tmp_path / "p.fasta", changed), faulty, *words).exit_code == 3
    assert listed(store)["b"].startswith("not-finite")
    # what is stored is not missing, whatever a file says
    key = key_of("MKVLA")
    folder = opened.recipe_folder(prepared.recipe.name) / "failures"
    row = {"id": "a", "view": "protein", "reason": "not-finite", "detail": "d", "key": key}
    (folder / "99991231T000000Z-000000.jsonl").write_text(json.dumps(row) + "\n")
    assert "a" not in listed(store)


def test_damaged_lines_are_passed_over(tmp_path, faulty):
    store = tmp_path / "s"
    embed(store, fasta(tmp_path / "p.fasta", ALL), faulty)
    (file,) = store.glob("recipes/*/failures/*.jsonl")
    lines = b'\xff\xfe\n{"id": 1\n[1, 2]\nnull\n{"key": 7, "reason": "x"}\n{}\n\n' + b"[" * 5000
    (file.parent / "99991231T000000Z-000000.jsonl").write_bytes(lines)
    (file.parent / "99991231T000001Z-000000.jsonl").mkdir()
    (file.parent / "notes.txt").write_text("mine")
    assert listed(store)["b"].startswith("not-finite")


def test_too_long_keeps_its_reason(tmp_path, tiny_esm):
    path = fasta(tmp_path / "p.fasta", {"short": "MK", "long": "MKVLAGHE"})
    result = embed(tmp_path / "s", path, tiny_esm, "--long", "skip", "--max-tokens", 6)
    assert result.exit_code == 3
    assert listed(tmp_path / "s")["long"].startswith("too-long: 8 tokens, of which 4 can be read (")


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_names_the_bad(tmp_path, faulty):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=faulty, device="cpu"))
        config = BuildConfig(collection="p", quiet=True, segment_bytes=1)
        report = build(create_store(tmp_path / "s"), records(ALL), prepared, config, RayCluster(1))
        assert (report.embedded, report.failures) == (2, {"not-finite": 1})
    finally:
        ray.shutdown()
