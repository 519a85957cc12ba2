"""A writer that slept for days meets `gc`: what it publishes is whole, or it fails and says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from embedstore import Recipe, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.cli import app
from embedstore.errors import WriteFailed
from embedstore.neighbors import open_neighbors
from embedstore.neighbors import saved as neighbors_saved
from embedstore.records import Record
from embedstore.store import drafts, files
from embedstore.store import merge as merge_module
from embedstore.store.collection import make_table
from embedstore.store.gc import collect_garbage
from embedstore.store.merge import merge
from embedstore.store.segment import SegmentWriter
from embedstore.store.verify import verify

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights=None)
DAY = 24 * 3600
SENT = "embedstore-"
"""Begins the name of a draft of a bucket, in the folder for temporary files."""

# a build whose process stops itself where it is told to, once, as a closed lid would
BUILD = """
import os, signal, sys, threading
from embedstore.store import drafts, files, segment

place, words = sys.argv[1], sys.argv[2:]
owner, name, at = {
    "between two batches": (segment.SegmentWriter, "append", 2),
    "before it is finished": (segment.SegmentWriter, "_finish", 1),
    "while it is finished": (segment.SegmentWriter, "_array", 2),
    "before the document": (segment.SegmentWriter, "_document", 1),
    "before it is synced": (files, "sync_tree", 1),
    "before the last check": (files, "check_draft", 2),
    "before the rename": (files.Path, "rename", 1),
}[place]
act = getattr(owner, name)
calls = 0

def stop_and_act(*arguments, **named):
    global calls
    calls += 1
    if calls == at:
        # to this very thread: sent to the process, another thread may take it, and this one goes on
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    return act(*arguments, **named)

setattr(owner, name, stop_and_act)
from embedstore.cli import app
sys.argv = ["embedstore", *words]
app()
"""
PLACES = [
    "between two batches",
    "before it is finished",
    "while it is finished",
    "before the document",
    "before it is synced",
    "before the last check",
    "before the rename",
]


def age(folder):
    """Let two days pass for everything in a folder."""
    then = time.time() - 2 * DAY
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def write(store, words):
    tokens = np.arange(8 * len(words), dtype=np.float16).reshape(-1, 8)
    ones = np.ones(len(words))
    embedded = Embedded(
        tokens, ones.astype(np.int64), tokens.astype(np.float32), None, ones.astype(np.bool_)
    )
    with SegmentWriter(store.recipe_folder(RECIPE.name), RECIPE) as writer:
        writer.append([key_of(word) for word in words], embedded)
        return writer.publish({})


@pytest.fixture
def store(tmp_path):
    made = create_store(tmp_path / "s")
    made.write_recipe(RECIPE)
    write(made, ["MA"])
    made.write_collection("words", make_table([Record("a", "MA", "protein")], pa.table({})))
    return made


@pytest.fixture
def sleeping(monkeypatch, store):
    """Let a writer sleep for two days, beside a `gc`, before it calls a function."""

    def sleep(owner, name, at=1):
        act = getattr(owner, name)
        calls = [0]

        def late(*arguments, **named):
            calls[0] += 1
            if calls[0] == at:
                for folder in store.folder.glob("recipes/*/drafts"):
                    age(folder)
                for path in store.folder.rglob(".*.draft"):
                    os.utime(path, (0, 0))
                assert collect_garbage(store)
            return act(*arguments, **named)

        monkeypatch.setattr(owner, name, late)

    return sleep


@pytest.mark.parametrize("place", PLACES)
def test_a_build_that_slept_beside_gc_fails_and_its_rerun_embeds_everything(tmp_path, place):
    folder = tmp_path / "genes.store"
    letters = "ACDEFGHIKLMNPQRSTVWY"
    rows = [f"p{n},M{letters[n % 20] * (n + 30)}" for n in range(60)]
    (tmp_path / "genes.csv").write_text("id,sequence\n" + "\n".join(rows) + "\n")
    words = ["build", str(tmp_path / "genes.csv"), "--store", str(folder), "--molecule", "protein"]
    words += ["--backbone", "one-hot-protein", "--batch-tokens", "100"]
    build = subprocess.Popen(
        [sys.executable, "-c", BUILD, place, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stopped, status = os.waitpid(build.pid, os.WUNTRACED)
        assert stopped == build.pid
        assert os.WIFSTOPPED(status), build.communicate()
        for each in folder.glob("recipes/*/drafts"):
            age(each)
        done = CliRunner().invoke(app, ["gc", str(folder), "--json"])
        assert done.exit_code == 0
        taken = json.loads(done.stdout)
        build.send_signal(signal.SIGCONT)
        _, errors = build.communicate(timeout=120)
    finally:
        build.kill()
    store = open_store(folder)
    report = verify(store)
    assert report.whole, report.problems
    assert [each["kind"] for each in taken] == ["draft"]
    assert build.returncode == 1, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "Run the same command again" in line
    assert "Traceback" not in errors
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 0
    reader = store.recipe("one-hot-protein")
    keys = store.collection("genes").keys("protein")
    assert reader.has(keys).all()
    assert [len(part) for part in reader.batch(keys).split()] == [n + 31 for n in range(60)]
    assert not list(store.recipe_folder(reader.name).glob("drafts/*"))


@pytest.mark.parametrize(
    "owner, name, at",
    [
        (SegmentWriter, "_finish", 1),
        (SegmentWriter, "_write", 3),
        (files, "sync_tree", 1),
        (files, "check_draft", 2),
        (files.Path, "rename", 1),
    ],
)
def test_a_segment_whose_draft_went_is_not_shown(store, sleeping, monkeypatch, owner, name, at):
    sleeping(owner, name, at)
    with pytest.raises(WriteFailed):
        write(store, ["MC"])
    monkeypatch.undo()
    assert verify(store).whole
    assert store.recipe(RECIPE.name).has([key_of("MA"), key_of("MC")]).tolist() == [True, False]
    assert not list(store.recipe_folder(RECIPE.name).glob("drafts/*"))
    write(store, ["MC"])
    assert store.recipe(RECIPE.name).has([key_of("MC")]).all()


@pytest.mark.parametrize("what", ["gone", "short", "long", "more", "document"])
@pytest.mark.parametrize("bucket", [False, True], ids=["disk", "bucket"])
def test_a_draft_that_somebody_tidied_is_not_shown(tmp_path, monkeypatch, what, bucket):
    """A clean-up of old temporary files takes single files; whatever changed is seen."""
    place = f"memory://{uuid.uuid4().hex}/s" if bucket else tmp_path / "s"
    store = create_store(place)
    store.write_recipe(RECIPE)
    publish = drafts.publish_segment

    def tidy(draft, *arguments):
        shard = draft / "tokens/c/0/0"
        if what == "gone":
            shard.unlink()
        elif what == "document":
            (draft / "segment.json").unlink()
        elif what == "more":
            (draft / "more").write_bytes(b"?")
        else:
            content = shard.read_bytes()
            shard.write_bytes(content[:-1] if what == "short" else content + b"?")
        return publish(draft, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("embedstore.store.segment.publish_segment", tidy)
        with pytest.raises(WriteFailed, match="removed or changed"):
            write(store, ["MC"])
    assert not store.segment_names(RECIPE.name)
    assert verify(store).whole
    write(store, ["MC"])
    assert len(store.recipe(RECIPE.name).get(key_of("MC"))) == 1


@pytest.mark.parametrize(
    "owner, name, at",
    [(merge_module, "_copy", 3), (files, "sync_tree", 1), (files.Path, "rename", 1)],
)
def test_a_merge_that_slept_shows_nothing_that_is_not_whole(
    store, sleeping, monkeypatch, tmp_path, owner, name, at
):
    source = create_store(tmp_path / "source")
    source.write_recipe(RECIPE)
    write(source, ["MC", "MD"])
    sleeping(owner, name, at)
    with pytest.raises(WriteFailed):
        merge([source], store.folder)
    monkeypatch.undo()
    assert verify(store).whole
    merge([source], store.folder)
    assert verify(store).whole
    assert store.recipe(RECIPE.name).has([key_of("MC"), key_of("MD")]).all()


@pytest.mark.parametrize(
    "owner, name, at",
    [
        (neighbors_saved, "_write_searcher", 1),
        (neighbors_saved, "_facts", 2),
        (files, "check_draft", 2),
        (files.Path, "rename", 1),
    ],
)
def test_a_neighbour_index_that_slept_is_kept_in_memory(
    store, sleeping, monkeypatch, owner, name, at
):
    sleeping(owner, name, at)
    index = open_neighbors(store, RECIPE.name)
    monkeypatch.undo()
    assert index.info.vectors == 1
    assert not list(store.recipe_folder(RECIPE.name).glob("neighbors/cosine*"))
    assert open_neighbors(store, RECIPE.name).info == index.info
    assert list(store.recipe_folder(RECIPE.name).glob("neighbors/cosine*"))


def test_a_table_whose_draft_went_is_an_error_and_the_old_one_stays(store, sleeping, monkeypatch):
    sleeping(files.os, "fsync")
    rows = [Record("a", "MA", "protein"), Record("b", "MC", "protein")]
    with pytest.raises(WriteFailed, match="same command again"):
        store.write_collection("words", make_table(rows, pa.table({})))
    monkeypatch.undo()
    assert store.collection("words").ids == ["a"]


def test_a_draft_written_to_while_gc_looks_is_left_alone(store, monkeypatch):
    folder = store.recipe_folder(RECIPE.name)
    with SegmentWriter(folder, RECIPE) as writer:
        age(folder / "drafts")
        listed = drafts.find_unpublished

        def wake_then_list(place):
            found = listed(place)
            yield from found
            os.utime(writer.folder)

        monkeypatch.setattr("embedstore.store.gc.find_unpublished", wake_then_list)
        assert collect_garbage(store) == []
        assert writer.folder.is_dir()


def test_a_store_that_was_removed_is_not_made_again(store):
    folder = store.recipe_folder(RECIPE.name)
    with SegmentWriter(folder, RECIPE) as writer:
        tokens = np.ones((1, 8), np.float16)
        one = np.ones(1, np.int64)
        writer.append(
            [key_of("MC")], Embedded(tokens, one, tokens.astype(np.float32), None, one == 1)
        )
        shutil.rmtree(store.folder)
        with pytest.raises(WriteFailed):
            writer.publish({})
    assert not Path(store.folder).exists()
