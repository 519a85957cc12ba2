"""File handles are few, whatever is asked for; that none is left is never taken for damage."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedstore import Recipe, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.errors import DamagedSegment, Unreachable
from embedstore.neighbors import open_neighbors
from embedstore.records import Record
from embedstore.store import index_upkeep, shards, zarr_files
from embedstore.store.collection import make_table
from embedstore.store.objects import unless_damage
from embedstore.store.repair import repair
from embedstore.store.segment import SegmentWriter
from embedstore.store.verify import verify

COUNT = 120
WIDTH = 4
RECIPES = [
    Recipe(backbone=name, view="protein", width=WIDTH, weights=None, store_dtype="float32")
    for name in ("first", "second")
]
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def word(number):
    """A protein of three to five letters, of its own for each number."""
    return "M" + LETTERS[number // 20] + LETTERS[number % 20] + "A" * (number % 3)


def rows_of(number):
    length = len(word(number))
    return np.arange(length * WIDTH, dtype=np.float32).reshape(length, WIDTH) + 100 * number


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """As if inner chunks were small in every version: 240 shards then take little room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_files, "INNER_CHUNK_BYTES", 64)
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two recipes of 120 segments with one sequence each, and a table of all."""
    store = create_store(tmp_path_factory.mktemp("many") / "s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedstore.store.files.sync_tree", lambda folder: None)
        patch.setattr("embedstore.store.files.sync_folder", lambda folder: None)
        for recipe in RECIPES:
            store.write_recipe(recipe)
            for number in range(COUNT):
                rows = rows_of(number)
                embedded = Embedded(
                    rows,
                    np.array([len(rows)]),
                    rows.mean(axis=0, keepdims=True),
                    None,
                    np.array([True]),
                )
                with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
                    writer.append([key_of(word(number))], embedded)
                    writer.publish({})
    records = [Record(f"p{number}", word(number), "protein") for number in range(COUNT)]
    store.write_collection("words", make_table(records, pa.table({"x": list(range(COUNT))})))
    return store


# what each says is compared with numbers made from the rows themselves
SCRIPT = """
import os, resource, sys
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from embedstore import open_store
from embedstore.store.shards import handles_allowed
from tests_words import COUNT, RECIPES, key_of, rows_of, word

folder, limit, folder_out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
import embedstore.cli, embedstore.neighbors, embedstore.loaders, embedstore.store.merge
import h5py, pyarrow.parquet, torch, embedstore.loaders.streamed
import embedstore.store.files as files
import embedstore.store.zarr_files as zarr_files
zarr_files.INNER_CHUNK_BYTES = 64
files.sync_tree = files.sync_folder = lambda folder: None  # nothing here outlives the test
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
store = open_store(folder)
keys = [key_of(word(number)) for number in range(COUNT)]
order = np.random.default_rng(0).permutation(COUNT)
asked = [keys[number] for number in order]
wanted = [rows_of(number) for number in order]

def check(reader):
    for got, rows in zip(reader.batch(asked).split(), wanted, strict=True):
        np.testing.assert_array_equal(got, rows)

def used():
    return len(os.listdir("/proc/self/fd"))

def batch():
    before = used()
    check(store.recipe("first"))
    assert used() - before <= 2 * handles_allowed(), used()
def means():
    got = store.recipe("first").means(asked)
    np.testing.assert_array_equal(got, [rows.mean(axis=0) for rows in wanted])
def threads():
    readers = [store.recipe(recipe.name) for recipe in RECIPES for _ in range(8)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(check, readers * 2))
def loaders():
    from embedstore.loaders import load_features
    from embedstore.loaders.streamed import StreamedFeatures
    reader = store.recipe("first")
    rows = np.arange(COUNT)
    for features in (
        load_features(reader, asked, "cpu"),
        StreamedFeatures(reader, asked, window_bytes=20_000, device="cpu"),
    ):
        seen = 0
        for places, tokens, lengths in features.batches(rows, 16, np.random.default_rng(0)):
            for place, one in zip(places, tokens.split(lengths.tolist()), strict=True):
                np.testing.assert_array_equal(one.numpy(), wanted[place])
                seen += 1
        assert seen == COUNT
def neighbors():
    index = embedstore.neighbors.open_neighbors(store, "first", "l2")
    assert index.info.vectors == COUNT and not index.info.excluded
def check_all():
    from embedstore.store.verify import verify
    assert verify(store).problems == []
    assert verify(store, sample=100).problems == []
def copy():
    from embedstore.store.merge import merge
    report = merge([store], folder_out + "/all")
    assert report.whole and report.segments == 2 * COUNT
def export():
    from pathlib import Path
    from embedstore.store.interchange.export import ExportConfig, export_file
    config = ExportConfig(format="h5", layout="ids")
    export_file(store, "first", Path(folder_out + "/e.h5"), config)
    with h5py.File(folder_out + "/e.h5") as file:
        for number in range(COUNT):
            np.testing.assert_array_equal(file[f"p{number}"][()], rows_of(number))
for act in (batch, means, threads, loaders, neighbors, check_all, copy, export):
    act()
    print(act.__name__)
"""
ACTS = ["batch", "means", "threads", "loaders", "neighbors", "check_all", "copy", "export"]


@pytest.mark.parametrize("limit", [64])
def test_everything_is_read_under_a_small_limit_of_open_files(many, tmp_path, limit):
    (tmp_path / "tests_words.py").write_text(Path(__file__).read_text())
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(many.folder), str(limit), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.split() == ACTS, done.stderr[-3000:]


def open_now():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_readers_share_what_may_be_open(many, monkeypatch):
    monkeypatch.setattr(shards.resource, "getrlimit", lambda which: (256, 256))
    readers = [many.recipe(recipe.name) for recipe in RECIPES for _ in range(3)]
    keys = [key_of(word(number)) for number in range(COUNT)]
    before = open_now()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda reader: reader.batch(keys), readers))
    # each keeps its share of what there are; earlier ones let go when they read again
    for reader in readers:
        reader.batch(keys[:1])
    assert open_now() - before <= shards.handles_allowed() == 32


def test_handles_that_wait_for_use_are_closed_where_none_is_left(many, monkeypatch):
    """Somebody else in this process takes handles: the first try fails, the next has room."""
    opened, refused = os.open, [2]

    def open_or_refuse(path, *arguments, **named):
        if str(path).endswith("tokens/c/0/0") and refused[0]:
            refused[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return opened(path, *arguments, **named)

    reader, other = many.recipe("first"), many.recipe("second")
    other.get(key_of(word(0)))
    monkeypatch.setattr(os, "open", open_or_refuse)
    np.testing.assert_array_equal(reader.get(key_of(word(7))), rows_of(7))
    assert not other._shards._files


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.EACCES]
)
@pytest.mark.parametrize("name", ["0", "segment.json", "recipe.json", "keys.bin", "genes.json"])
def test_no_error_of_the_system_is_damage(built, monkeypatch, snapshot, code, name):
    monkeypatch.setattr(index_upkeep, "FEW_SEGMENTS", 1)
    monkeypatch.setattr(index_upkeep, "FEW_KEYS", 1)
    built.recipe("one-hot-protein")  # writes the index
    monkeypatch.undo()
    keys = built.recipe("one-hot-protein").keys()[:3]
    before = snapshot(built.folder)
    opened, os_opened = io.open, os.open

    def refuse(act):
        def run(path, *arguments, **named):
            if isinstance(path, str | Path) and Path(path).name == name:
                raise OSError(code, os.strerror(code), str(path))
            return act(path, *arguments, **named)

        return run

    def read(store):
        reader = store.recipe("one-hot-protein")
        return reader.batch(keys), reader.means(keys)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "WAIT_SECONDS", 0)
        patch.setattr(io, "open", refuse(opened))
        patch.setattr(os, "open", refuse(os_opened))
        for act in (verify, repair, read):
            try:
                act(built)
            except Unreachable as error:
                assert os.strerror(code) in str(error)
                assert ("ulimit -n" in error.fix) == (code in (errno.EMFILE, errno.ENFILE))
    assert snapshot(built.folder) == before
    assert read(built)


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(many, monkeypatch):
    def refuse(path="."):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for act in (
        lambda: many.collections(),
        lambda: many.recipes(),
        lambda: many.segment_names(RECIPES[0].name),
        lambda: many.recipe("first"),
        lambda: many.collection("words"),
    ):
        with pytest.raises(Unreachable, match="Too many open files"):
            act()
    problems = verify(many).problems
    assert {each.where for each in problems} == {"recipes", "collections"}
    assert {each.code for each in problems} == {"unreachable"}


def test_a_neighbour_index_that_cannot_be_opened_now_stays(many, monkeypatch):
    open_neighbors(many, "second")
    folder = many.recipe_folder(many.find_recipe("second").name) / "neighbors"
    before = sorted(folder.iterdir())
    assert before
    load = np.load

    def refuse(path, *arguments, **named):
        if Path(path).name == "keys.npy":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return load(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", refuse)
        assert open_neighbors(many, "second").info.vectors == COUNT
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, None])
def test_what_is_gone_or_is_no_file_is_damage(code, tmp_path):
    error = OSError("a broken Parquet page") if code is None else OSError(code, os.strerror(code))
    unless_damage(error, tmp_path)


def test_a_shard_that_is_gone_is_damage_still(many, tmp_path):
    store = open_store(many.folder)
    reader = store.recipe("second")
    shard = reader.segments[0].folder / "tokens/c/0/0"
    shard.rename(tmp_path / "away")
    try:
        with pytest.raises(DamagedSegment, match="cannot be opened"):
            reader.batch(reader.keys())
    finally:
        (tmp_path / "away").rename(shard)
