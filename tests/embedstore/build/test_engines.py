"""Many writers: shards of an array job, several processes, a Ray cluster that loses an actor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedstore import Store, create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.build.engines import (
    LostWorker,
    RayCluster,
    SeveralDevices,
    choose_engine,
    parse_devices,
)
from embedstore.build.plan import cut_segments, make_plan
from embedstore.errors import BadInput, BadWeights
from embedstore.records import Records, read_records
from embedstore.store.segment import segment_name
from embedstore.synthetic import make_genes

CONFIG = BuildConfig(collection="genes", segment_bytes=3_000, batch_tokens=200, quiet=True)
ONE_HOT = BackboneConfig(backbone="codon-composition")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "genes.csv"
    path.write_text(make_genes(60, seed=5).as_csv())
    return path


@pytest.fixture
def records(table: Path) -> Records:
    return read_records(table, molecule="mrna")


def same(one: Store, other: Store, backbone: str) -> None:
    """The same segments with the same embeddings."""
    name = one.find_recipe(backbone).name
    names = [[path.name for path in each.segment_folders(name)] for each in (one, other)]
    assert names[0] == names[1]
    keys = sorted(one.recipe(backbone).keys())
    assert sorted(other.recipe(backbone).keys()) == keys
    np.testing.assert_array_equal(
        one.recipe(backbone).batch(keys).tokens, other.recipe(backbone).batch(keys).tokens
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_are_disjoint_and_together_whole_whenever_each_starts(tmp_path, records, order):
    whole, parts = create_store(tmp_path / "whole"), create_store(tmp_path / "parts")
    build(whole, records, prepare(ONE_HOT), CONFIG)
    made = 0
    for part in order:
        report = build(parts, records, prepare(ONE_HOT), replace(CONFIG, shard=(part, 3)))
        made += report.embedded
    assert made == 60  # nothing twice
    same(whole, parts, "codon-composition")


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(shard):
    with pytest.raises(BadInput, match="--shard"):
        replace(CONFIG, shard=shard)


def test_four_processes_on_overlapping_inputs_make_one_whole_store(tmp_path, table, records):
    script = f"""
import sys
from pathlib import Path
from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import Records, read_records
at = int(sys.argv[1])
whole = read_records(Path({str(table)!r}), molecule="mrna")
rows = whole.rows[10 * at : 10 * at + 30]
part = Records(rows, whole.labels.slice(10 * at, 30), 0, [])
config = BuildConfig(collection=f"part-{{at}}", segment_bytes=3_000, batch_tokens=200, quiet=True)
prepared = prepare(BackboneConfig(backbone="codon-composition"))
build(create_store({str(tmp_path / "shared")!r}), part, prepared, config)
"""
    words = [sys.executable, "-c", script]
    running = [subprocess.Popen([*words, str(at)]) for at in range(4)]
    assert [process.wait(120) for process in running] == [0, 0, 0, 0]
    alone = create_store(tmp_path / "alone")
    build(alone, records, prepare(ONE_HOT), CONFIG)
    shared = open_store(tmp_path / "shared").recipe("codon-composition")
    keys = sorted(alone.recipe("codon-composition").keys())
    assert sorted(shared.keys()) == keys
    np.testing.assert_array_equal(
        shared.batch(keys).tokens, alone.recipe("codon-composition").batch(keys).tokens
    )


def test_several_devices_make_what_one_makes(tmp_path, records, tiny_esm):
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
    config = replace(CONFIG, segment_bytes=20_000)
    one, two = create_store(tmp_path / "one"), create_store(tmp_path / "two")
    build(one, records, prepared, config)
    report = build(two, records, prepared, config, SeveralDevices(["cpu", "cpu"]))
    assert report.complete
    assert report.embedded == 60
    same(one, two, "esm2-8m")


def test_a_worker_that_is_killed_is_an_error_with_a_fix(tmp_path, records):
    class Fatal(SeveralDevices):
        def build(self, segments, advance):
            for process in self._pool._processes.values():
                os.kill(process.pid, signal.SIGKILL)
            yield from super().build(segments, advance)

    store = create_store(tmp_path / "s")
    with pytest.raises(LostWorker, match="run the same command"):
        build(store, records, prepare(ONE_HOT), CONFIG, Fatal(["cpu", "cpu"]))
    assert build(store, records, prepare(ONE_HOT), CONFIG).complete


def test_weights_that_do_not_load_in_a_worker_write_nothing(tmp_path, records, tiny_esm):
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny_esm / "model.safetensors")
    del tensors["esm.encoder.emb_layer_norm_after.weight"]
    broken = tmp_path / "broken"
    broken.mkdir()
    save_file(tensors, broken / "model.safetensors")
    (broken / "config.json").write_bytes((tiny_esm / "config.json").read_bytes())
    prepared = prepare(BackboneConfig(backbone="esm2-8m", weights=broken, device="cpu"))
    with pytest.raises(BadWeights, match="emb_layer_norm_after"):
        build(
            create_store(tmp_path / "s"), records, prepared, CONFIG, SeveralDevices(["cpu", "cpu"])
        )
    assert not (tmp_path / "s").exists()


def test_two_writers_racing_for_one_segment_leave_one_whole_one(tmp_path, records):
    plan = make_plan(
        records.rows, prepare(ONE_HOT), lambda keys: np.zeros(len(keys), np.bool_), 1 << 20
    )
    (items,) = cut_segments(list(plan.items), 128, 1 << 30)
    script = f"""
import sys
from pathlib import Path
from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import read_records
records = read_records(Path({str(tmp_path / "genes.csv")!r}), molecule="mrna")
store = create_store({str(tmp_path / "raced")!r})
prepared = prepare(BackboneConfig(backbone="codon-composition"))
print("ready", flush=True)
sys.stdin.readline()
build(store, records, prepared, BuildConfig(collection="genes", quiet=True))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
        assert racer.returncode == 0
    store = open_store(tmp_path / "raced")
    (folder,) = store.segment_folders(store.find_recipe("codon-composition").name)
    assert folder.name == segment_name([item.key for item in items])
    assert not list(folder.parent.parent.glob("drafts/*"))
    assert len(store.recipe("codon-composition")) == 60


def test_devices_are_named_one_by_one():
    assert parse_devices("auto") == ["auto"]
    assert parse_devices("cuda:0,1") == ["cuda:0", "cuda:1"]
    assert parse_devices("cuda:0,cuda:2") == ["cuda:0", "cuda:2"]
    assert parse_devices("cpu,cpu") == ["cpu", "cpu"]
    assert isinstance(choose_engine("local", "cuda:0,1"), SeveralDevices)
    with pytest.raises(BadInput, match="local or ray"):
        choose_engine("spark", "cpu")


@pytest.mark.filterwarnings("ignore")  # Ray's own, of its own dependencies
def test_a_ray_cluster_that_loses_an_actor_finishes_the_build(tmp_path, records):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:

        class Unlucky(RayCluster):
            killed = 0

            def build(self, segments, advance):
                done = super().build(segments, advance)
                yield next(done)
                ray.kill(self._idle[-1])  # noted as idle: the next task on it finds it dead
                Unlucky.killed += 1
                yield from done

        store, alone = create_store(tmp_path / "s"), create_store(tmp_path / "alone")
        report = build(store, records, prepare(ONE_HOT), CONFIG, Unlucky(2))
        assert Unlucky.killed == 1
        assert (report.embedded, report.complete) == (60, True)
        build(alone, records, prepare(ONE_HOT), CONFIG)
        same(alone, store, "codon-composition")
    finally:
        ray.shutdown()
