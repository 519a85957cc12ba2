"""Several processes, versions and clocks on one store: nothing is lost, and nothing is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from embedstore import Store, create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import DamagedSegment, NewerFormat, StoreError
from embedstore.records import read_records
from embedstore.store.gc import collect_garbage
from embedstore.store.merge import merge
from embedstore.store.repair import repair
from embedstore.store.segment import SegmentWriter
from embedstore.store.verify import verify
from embedstore.synthetic import make_genes

BACKBONE = "one-hot-mrna"
DAY = 24 * 3600
GOLDEN = Path(__file__).parents[2] / "golden"
OLD = ["store-format-1", "store-format-1-recipe-1"]

# two of them build the same table, each its own part
WORKER = """
import sys
from pathlib import Path
from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import read_records
table, store, part = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
prepared = prepare(BackboneConfig(backbone="one-hot-mrna"))
config = BuildConfig(collection="genes", segment_bytes=4_000, batch_tokens=300, quiet=True,
                     shard=(part, 2))
records = read_records(table, molecule="mrna")
print("start", flush=True)
build(create_store(store), records, prepared, config)
"""
# a reader that looks again and again until it is told that all is done, and then once more
READER = """
import hashlib, sys
from pathlib import Path
from embedstore import open_store
from embedstore.errors import StoreError
truth = dict(line.split() for line in open(sys.argv[1]))
done = Path(sys.argv[3])
print("start", flush=True)
rounds, seen, last = 0, 0, False
while not last:
    last = done.exists()
    try:
        reader = open_store(sys.argv[2]).recipe("one-hot-mrna")
    except StoreError as error:
        assert error.code in ("not-a-store", "missing-recipe") and not seen, error
        continue
    keys = reader.keys()
    assert len(keys) >= seen, "an embedding that was visible is gone"
    seen = len(keys)
    packed = reader.batch(keys)
    for key, rows in zip(keys, packed.split(), strict=True):
        assert hashlib.md5(rows.tobytes()).hexdigest() == truth[key], key
    rounds += 1
print(rounds, seen)
"""


def write_table(path: Path, count: int) -> Path:
    path.write_text(make_genes(count, seed=5).as_csv())
    return path


def build_here(folder: Path, table: Path, name: str = "genes", **options) -> Store:
    store = create_store(folder)
    config = BuildConfig(
        collection=name, segment_bytes=4_000, batch_tokens=300, quiet=True, **options
    )
    prepared = prepare(BackboneConfig(backbone=BACKBONE))
    build(store, read_records(table, molecule="mrna"), prepared, config)
    return store


def embeddings(store: Store, recipe: str = BACKBONE) -> dict[str, bytes]:
    reader = store.recipe(recipe)
    keys = reader.keys()
    rows = reader.batch(keys).split()
    return {key: each.tobytes() for key, each in zip(keys, rows, strict=True)}


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "genes.csv", 30)


@pytest.fixture
def store(tmp_path, table):
    return build_here(tmp_path / "genes.store", table)


def swap(first: Path, second: Path) -> None:
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


@pytest.mark.parametrize("indexed", [False, True], ids=["no index", "index"])
def test_swapped_folders_of_two_segments_give_no_wrong_embedding(store, monkeypatch, indexed):
    """The reader may have been opened before or after, with the index or without."""
    truth = embeddings(store)
    if indexed:
        monkeypatch.setattr("embedstore.store.index_upkeep.FEW_KEYS", 0)
        embeddings(store)
        assert list(store.folder.glob("recipes/*/index/keys.bin"))
    before = store.recipe(BACKBONE)
    before.keys()
    folders = store.segment_folders(before.name)
    swap(folders[0], folders[1])
    swapped = {folders[0].name, folders[1].name}
    held, named = set(), set()
    for opened in (lambda: before, lambda: open_store(store.folder).recipe(BACKBONE)):
        for key in truth:
            try:
                rows = opened().get(key).tobytes()
            except DamagedSegment as error:
                named |= {name for name in swapped if name in str(error)}
                held.add(key)
                continue
            assert rows == truth[key], key
    assert named and 0 < len(held) < len(truth)
    report = verify(store)
    assert {problem.where.rpartition("/")[2] for problem in report.problems} >= swapped
    assert len(repair(store).quarantined) == 2
    assert verify(store).whole
    rest = embeddings(open_store(store.folder))
    assert rest == {key: truth[key] for key in rest} and 0 < len(rest) < len(truth)


def test_after_a_swap_the_next_build_brings_everything_back(store, table):
    truth = embeddings(store)
    folders = store.segment_folders(store.find_recipe(BACKBONE).name)
    swap(folders[0], folders[2])
    repair(store)
    again = build_here(store.folder, table)
    assert embeddings(again) == truth
    assert verify(again).whole


@pytest.mark.parametrize("version", OLD)
def test_a_new_version_builds_into_a_store_of_an_old_one(tmp_path, table, version):
    """What the old version wrote reads as before, byte for byte, beside what the new one adds."""
    expected = json.loads((GOLDEN / version / "expected.json").read_text())
    store = open_store(shutil.copytree(GOLDEN / version / "store", tmp_path / "old.store"))
    (one_hot,) = [name for name in expected["recipes"] if name.startswith(BACKBONE)]
    old = [key for each in expected["recipes"][one_hot]["segments"] for key in each["keys"]]
    before = {key: store.recipe(BACKBONE).get(key).tobytes() for key in old}
    build_here(store.folder, table, name="new")
    opened = open_store(store.folder)
    assert opened.collections() == ["genes", "new"]
    after = embeddings(opened, one_hot)
    assert {key: after[key] for key in old} == before
    for name, recipe in expected["recipes"].items():
        reader = opened.recipe(name)
        for segment in recipe["segments"]:
            for key, tokens in zip(segment["keys"], segment["tokens"], strict=True):
                assert reader.get(key).tolist() == tokens
    assert verify(opened).whole
    report = merge([opened], tmp_path / "merged.store")
    assert report.whole
    assert embeddings(open_store(tmp_path / "merged.store"), one_hot) == after


@pytest.fixture
def reads_formats_up_to(monkeypatch):
    """Turns this version into one that knows no later format of stores, by the rule in the code."""

    def turn(number):
        owners = [
            module
            for name, module in sys.modules.items()
            if name.startswith("embedstore.store") and hasattr(module, "STORE_FORMAT")
        ]
        assert owners
        for module in owners:
            monkeypatch.setattr(module, "STORE_FORMAT", number)

    return turn


def test_an_old_version_refuses_a_store_in_the_new_format(store, reads_formats_up_to):
    newest = json.loads((store.folder / "store.json").read_bytes())["format"]
    reads_formats_up_to(newest - 1)
    for use in (open_store, create_store):
        with pytest.raises(NewerFormat, match=rf"format {newest}\b.*\b{newest - 1}\b"):
            use(store.folder)


def test_an_old_version_refuses_an_old_store_once_a_new_version_has_written(
    tmp_path, table, reads_formats_up_to
):
    """Else it would overlook collections and segments that it does not know."""
    folder = shutil.copytree(GOLDEN / OLD[0] / "store", tmp_path / "old.store")
    written_by_old = json.loads((folder / "store.json").read_bytes())["format"]
    newest = json.loads((build_here(tmp_path / "new", table).folder / "store.json").read_bytes())
    if newest["format"] == written_by_old:
        pytest.skip("the format of stores has not changed since")
    build_here(folder, table, name="new")
    reads_formats_up_to(written_by_old)
    with pytest.raises(NewerFormat):
        open_store(folder)


@pytest.mark.parametrize("days", [-400, 3])
def test_a_store_reads_the_same_under_any_clock(store, monkeypatch, days, table):
    """Files of a machine whose clock is days ahead or behind, and a reader's own clock the same."""
    truth = embeddings(store)
    for path in store.folder.rglob("*"):
        os.utime(path, (time.time() + days * DAY,) * 2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - days * DAY)
    assert collect_garbage(store) == []
    assert embeddings(open_store(store.folder)) == truth
    assert verify(store).whole
    build_here(store.folder, table)
    assert collect_garbage(store) == []
    assert embeddings(open_store(store.folder)) == truth


@pytest.mark.parametrize("days", [-3, 3])
def test_gc_leaves_the_draft_of_a_live_writer_whose_clock_is_wrong(
    store, table, monkeypatch, days, tmp_path
):
    """The rule is that of the file system: what was written to within a day is not removed.

    A writer's own clock never enters, as times of files are given by the file system; `gc` runs
    between any two of its steps, and its process has another clock.
    """
    published = SegmentWriter.publish
    real = time.time
    collected = []

    def collect_then_publish(self, provenance):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + days * DAY)
            collected.append(collect_garbage(store))
        return published(self, provenance)

    truth = embeddings(store)
    shutil.rmtree(store.folder / "recipes")
    monkeypatch.setattr(SegmentWriter, "publish", collect_then_publish)
    build_here(store.folder, table)
    assert len(collected) > 1 and not any(collected)
    assert embeddings(open_store(store.folder)) == truth


def test_a_draft_with_an_old_time_that_is_written_to_again_is_kept(store, table, monkeypatch):
    """A share that gave old times (a copy, a wrong server clock) to a draft that is at work.

    `gc` may take a draft that was last written to days ago; its writer then fails and says so, and
    publishes nothing that is not whole.
    """
    truth = embeddings(store)
    shutil.rmtree(store.folder / "recipes")
    published = SegmentWriter.publish
    outcomes = []

    def grow_old_then_publish(self, provenance):
        old = time.time() - 3 * DAY
        for path in [*self.folder.rglob("*"), self.folder]:
            os.utime(path, (old, old))
        touched = len(outcomes) == 0
        if touched:  # one more write, and the draft is young again
            next(path for path in self.folder.rglob("*") if path.is_file()).touch()
        outcomes.append((touched, bool(collect_garbage(store))))
        return published(self, provenance)

    monkeypatch.setattr(SegmentWriter, "publish", grow_old_then_publish)
    with pytest.raises(StoreError):
        build_here(store.folder, table)
    monkeypatch.setattr(SegmentWriter, "publish", published)
    assert outcomes[:2] == [(True, False), (False, True)]
    opened = open_store(store.folder)
    assert verify(opened).whole
    part = embeddings(opened)
    assert part and all(truth[key] == rows for key, rows in part.items())
    assert embeddings(build_here(store.folder, table)) == truth


def test_one_of_two_workers_is_killed_under_load_while_readers_read(tmp_path):
    """Nothing that was visible goes, nothing is wrong, and the rerun ends as if undisturbed."""
    table = write_table(tmp_path / "genes.csv", 150)
    undisturbed = build_here(tmp_path / "undisturbed", table)
    truth = embeddings(undisturbed)
    told = tmp_path / "truth"
    told.write_text(
        "".join(f"{key} {hashlib.md5(rows).hexdigest()}\n" for key, rows in truth.items())
    )
    folder, done = tmp_path / "side.store", tmp_path / "done"
    words = [sys.executable, "-W", "ignore", "-c"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        reader, *workers = (
            stack.enter_context(subprocess.Popen([*words, *map(str, each)], **pipes))
            for each in (
                (READER, told, folder, done),
                (WORKER, table, folder, 0),
                (WORKER, table, folder, 1),
            )
        )
        for each in (reader, *workers):
            stack.callback(each.kill)
            assert each.stdout.readline() == "start\n"
        time.sleep(random.Random().uniform(0, 0.5))
        workers[0].kill()
        assert workers[1].wait(120) == 0
        half = embeddings(open_store(folder))
        assert all(truth[key] == rows for key, rows in half.items())
        again = subprocess.run([*words, WORKER, table, folder, "0"], stdout=subprocess.DEVNULL)
        assert again.returncode == 0
        done.touch()
        printed, errors = reader.communicate(timeout=120)
        assert reader.returncode == 0, errors
    rounds, seen = map(int, printed.split())
    assert rounds > 1 and seen == len(truth)
    finished = open_store(folder)
    assert embeddings(finished) == truth
    assert verify(finished).whole
