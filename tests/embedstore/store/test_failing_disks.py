"""A disk that is full, broken or read-only: one clear error, and nothing published is lost."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from embedstore import Recipe, Store, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.cli import app
from embedstore.errors import (
    NewerFormat,
    NotAStore,
    NotWritable,
    StoreFull,
    Unreachable,
    WriteFailed,
)
from embedstore.records import Record
from embedstore.store import files, index_upkeep
from embedstore.store.collection import make_table
from embedstore.store.index_upkeep import index_path
from embedstore.store.repair import repair
from embedstore.store.segment import SegmentWriter
from embedstore.store.verify import verify

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights=None)
FAILURES = [
    (errno.ENOSPC, StoreFull, "Make room"),
    (errno.EDQUOT, StoreFull, "quota"),
    (errno.EROFS, NotWritable, "may write to"),
    (errno.EACCES, NotWritable, "may write to"),
    (errno.EIO, WriteFailed, "Check the disk"),
    (errno.ESTALE, WriteFailed, "network share"),
]
failures = pytest.mark.parametrize(
    "number, kind, fix", FAILURES, ids=[errno.errorcode[number] for number, _, _ in FAILURES]
)


def write_segment(store: Store, words: list[str]) -> None:
    tokens = np.ones((len(words), 8), np.float16)
    ones = np.ones(len(words))
    embedded = Embedded(
        tokens, ones.astype(np.int64), tokens.astype(np.float32), None, ones.astype(np.bool_)
    )
    with SegmentWriter(store.recipe_folder(RECIPE.name), RECIPE) as writer:
        writer.append([key_of(word) for word in words], embedded)
        writer.publish({})


@pytest.fixture
def store(tmp_path):
    made = create_store(tmp_path / "a store")
    made.write_recipe(RECIPE)
    write_segment(made, ["MA"])
    made.write_collection("words", make_table([Record("a", "MA", "protein")], pa.table({})))
    return made


@pytest.fixture
def failing(monkeypatch):
    """Let the system refuse to sync."""

    def fail(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, "fsync", fsync)

    yield fail
    monkeypatch.undo()


@pytest.fixture
def mounted(tmp_path):
    """A file system of a few MB, and a way to mount it anew with other options."""
    folder = tmp_path / "small disk"
    folder.mkdir()

    def mount(options):
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        return subprocess.run(words, capture_output=True).returncode

    if mount("size=1m"):
        pytest.skip("this user may not mount")
    try:
        yield folder, lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def largest_file(size):
    """No file of this process may grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@failures
def test_a_segment_that_cannot_be_written_changes_nothing(
    store, failing, monkeypatch, snapshot, number, kind, fix
):
    before = snapshot(store.folder)
    failing(number)
    with pytest.raises(kind, match=fix) as caught:
        write_segment(store, ["MC"])
    assert type(caught.value) is kind
    assert os.strerror(number) in str(caught.value)
    assert snapshot(store.folder) == before
    monkeypatch.undo()
    write_segment(store, ["MC"])
    assert store.recipe("esm2-8m").has([key_of("MA"), key_of("MC")]).all()


@failures
def test_a_collection_that_cannot_be_written_keeps_its_old_rows(
    store, failing, snapshot, number, kind, fix
):
    before = snapshot(store.folder)
    failing(number)
    rows = [Record("a", "MA", "protein"), Record("b", "MC", "protein")]
    with pytest.raises(kind, match=fix):
        store.write_collection("words", make_table(rows, pa.table({})))
    assert snapshot(store.folder) == before
    assert open_store(store.folder).collection("words").ids == ["a"]


def test_a_file_that_may_not_grow_is_a_full_store(store, snapshot):
    before = snapshot(store.folder)
    with largest_file(100_000), pytest.raises(StoreFull, match="File too large"):
        write_segment(store, ["MC"])
    assert snapshot(store.folder) == before


def test_a_build_that_fills_the_disk_goes_on_where_it_stopped(mounted, rebuild, tmp_path):
    folder, remount = mounted
    small = create_store(folder / "s")
    with pytest.raises(StoreFull, match="No space left"):
        rebuild(small)
    recipe = small.recipes()[0]
    kept = small.segment_names(recipe)
    assert kept
    assert verify(small).whole
    remount("size=8m")
    rebuild(small)
    roomy = create_store(tmp_path / "roomy")
    rebuild(roomy)
    assert small.segment_names(recipe) == roomy.segment_names(recipe)
    ours, theirs = small.recipe(recipe), roomy.recipe(recipe)
    assert (ours.batch(ours.keys()).tokens == theirs.batch(theirs.keys()).tokens).all()


def test_a_read_only_store_is_read_and_every_write_is_refused(
    mounted, rebuild, monkeypatch, snapshot
):
    folder, remount = mounted
    remount("size=8m")
    store = create_store(folder / "s")
    rebuild(store)
    recipe = store.recipes()[0]
    shard = store.segment_folders(recipe)[0] / "tokens/c/0/0"
    remount("ro")
    before = snapshot(folder)
    monkeypatch.setattr(index_upkeep, "FEW_KEYS", 0)
    reader = open_store(store.folder).recipe(recipe)  # its index is held in memory
    assert len(reader.batch(reader.keys()).lengths) == len(reader)
    assert not index_path(store.recipe_folder(recipe)).exists()
    assert verify(store).whole
    with pytest.raises(NotWritable, match="Read-only"):
        rebuild(store, "other")
    remount("rw")
    shard.write_bytes(b"damaged")
    remount("ro")
    with pytest.raises(NotWritable):
        repair(store)
    remount("rw")
    assert snapshot(folder).keys() == before.keys()


def test_a_build_tells_a_full_disk_in_one_line(tmp_path):
    (tmp_path / "genes.csv").write_text("id,sequence\na,ATGGCTAAATAA\n")
    words = ["build", str(tmp_path / "genes.csv"), "--store", str(tmp_path / "genes.store")]
    with largest_file(100_000):
        done = CliRunner().invoke(app, [*words, "--backbone", "one-hot-mrna"])
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "File too large" in line
    assert "run the same command again" in line
    assert CliRunner().invoke(app, [*words, "--backbone", "one-hot-mrna"]).exit_code == 0


@pytest.mark.parametrize(
    "text, kind",
    [
        ('{"format": 3}', NewerFormat),
        ('{"format": 2}', NotAStore),  # without its checksum
        ('{"format": "one"}', NotAStore),
        ('{"format": null}', NotAStore),
        ("{}", NotAStore),
        ("[]", NotAStore),
        ("", NotAStore),
        ("\x00\x00", NotAStore),
    ],
)
def test_a_folder_of_another_kind_or_version_is_refused_and_left_alone(
    tmp_path, snapshot, text, kind
):
    (tmp_path / "store.json").write_text(text)
    before = snapshot(tmp_path)
    for open_it in (open_store, create_store):
        with pytest.raises(kind):
            open_it(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "genes.csv").write_text("id,sequence\n")
    for open_it in (open_store, create_store):
        with pytest.raises(NotAStore):
            open_it(tmp_path / "genes.csv")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("name", ["0", "segment.json", "recipe.json"])
def test_what_may_not_be_read_is_not_taken_for_damage(built, snapshot, monkeypatch, code, name):
    keys = built.recipe("one-hot-protein").keys()
    before = snapshot(built.folder)
    opened, os_opened = io.open, os.open

    def refuse(act):
        def run(path, *arguments, **named):
            if isinstance(path, str | Path) and Path(path).name == name:
                raise OSError(code, os.strerror(code), str(path))
            return act(path, *arguments, **named)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refuse(opened))
        patch.setattr(os, "open", refuse(os_opened))
        with pytest.raises(Unreachable, match=os.strerror(code)):
            built.recipe("one-hot-protein").batch(keys)
        for problems in (verify(built).problems, repair(built).left):
            assert problems
            for each in problems:
                assert each.code == "unreachable" and os.strerror(code) in each.what
    assert snapshot(built.folder) == before
    assert verify(built).whole
