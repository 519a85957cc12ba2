"""File systems that sync no folders, or lose answers: what was done is done, the rest an error."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from embedstore import Recipe, create_store, key_of
from embedstore.backbones.backbone import Embedded
from embedstore.errors import WriteFailed
from embedstore.store import files
from embedstore.store.files import (
    move_away,
    publish_folder,
    remove_tree,
    replace_file,
    sync_folder,
    sync_tree,
    write_atomically,
)
from embedstore.store.gc import collect_garbage
from embedstore.store.segment import SegmentWriter, segment_name
from embedstore.store.verify import verify

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights=None)
ANSWERS = [errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EIO, errno.ESTALE]
answers = pytest.mark.parametrize("number", ANSWERS, ids=[errno.errorcode[n] for n in ANSWERS])


@pytest.fixture
def answering(monkeypatch):
    """Let every move be answered by an error, be it done or not."""

    def answer(number, *, done, numbered_anew=False):
        for name in ("rename", "replace"):
            act = getattr(os, name)

            def move(old, new, act=act):
                if done and numbered_anew and Path(old).is_dir():
                    shutil.copytree(old, new)  # keeps times, and gives other inodes
                    shutil.rmtree(old)
                elif done and numbered_anew:
                    shutil.copy2(old, f"{new}.new")
                    act(f"{new}.new", new)
                    os.unlink(old)  # noqa: PTH108
                elif done:
                    act(old, new)
                raise OSError(number, os.strerror(number), str(old))

            monkeypatch.setattr(files.os, name, move)

    yield answer
    monkeypatch.undo()


def draft_in(folder: Path) -> Path:
    draft = folder / "drafts" / "0123"
    draft.mkdir(parents=True)
    (draft / "x").write_bytes(b"xyz")
    return draft


def write(store, words):
    tokens = np.ones((len(words), 8), np.float16)
    ones = np.ones(len(words), np.int64)
    embedded = Embedded(tokens, ones, tokens.astype(np.float32), None, ones.astype(np.bool_))
    with SegmentWriter(store.recipe_folder(RECIPE.name), RECIPE) as writer:
        writer.append([key_of(word) for word in words], embedded)
        return writer.publish({})


@pytest.fixture
def store(tmp_path):
    made = create_store(tmp_path / "s")
    made.write_recipe(RECIPE)
    return made


@answers
@pytest.mark.parametrize("numbered_anew", [False, True], ids=["inode", "other inode"])
def test_a_move_that_was_done_is_done_whatever_is_answered(
    tmp_path, answering, number, numbered_anew
):
    draft, final, file = draft_in(tmp_path), tmp_path / "final" / "x", tmp_path / "file"
    file.write_bytes(b"old")
    answering(number, done=True, numbered_anew=numbered_anew)
    assert publish_folder(draft, final, {"x": 3})
    write_atomically(file, b"new")
    write_atomically(tmp_path / "another", b"")
    assert move_away(final, tmp_path / "away")
    assert file.read_bytes() == b"new"
    assert (tmp_path / "away" / "x").read_bytes() == b"xyz"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("another", "away", "drafts", "file", "final")
    ]


@answers
def test_a_move_that_was_not_done_is_an_error_and_the_old_content_stays(
    tmp_path, answering, number
):
    draft, final, file = draft_in(tmp_path), tmp_path / "final" / "x", tmp_path / "file"
    file.write_bytes(b"old")
    answering(number, done=False)
    with pytest.raises(WriteFailed):
        publish_folder(draft, final, {"x": 3})
    with pytest.raises(WriteFailed):
        write_atomically(file, b"new")
    with pytest.raises(OSError):
        move_away(file, tmp_path / "away")
    assert file.read_bytes() == b"old"
    assert draft.is_dir() and not final.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drafts", "file", "final"]


@answers
def test_a_folder_of_another_writer_is_not_taken_for_the_own_one(tmp_path, answering, number):
    draft, final = draft_in(tmp_path), tmp_path / "final"
    final.mkdir()
    (final / "x").write_bytes(b"XYZ")
    os.utime(final / "x", (1, 1))
    answering(number, done=False)
    assert not publish_folder(draft, final, {"x": 3})
    assert (final / "x").read_bytes() == b"XYZ"
    assert not draft.exists()


def test_an_empty_folder_in_the_way_is_no_published_one(tmp_path, answering):
    draft, final = draft_in(tmp_path), tmp_path / "final"
    final.mkdir()
    answering(errno.EIO, done=False)
    with pytest.raises(WriteFailed):
        publish_folder(draft, final, {"x": 3})
    assert draft.is_dir()


def test_a_file_that_another_writer_put_there_is_not_taken_for_the_own_one(tmp_path, monkeypatch):
    aside, path = tmp_path / "aside", tmp_path / "file"
    aside.write_bytes(b"new")

    def be_overtaken(old, new):
        Path(old).unlink()
        Path(new).write_bytes(b"NEW")
        os.utime(new, (1, 1))
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(files.os, "replace", be_overtaken)
    with pytest.raises(FileNotFoundError):
        replace_file(aside, path)
    assert path.read_bytes() == b"NEW"


@answers
def test_segments_and_their_removal_survive_lost_answers(store, answering, number, monkeypatch):
    answering(number, done=True)
    assert write(store, ["MA", "MC"])
    assert write(store, ["MD"])
    report = verify(store)
    assert report.whole, report.problems
    assert store.recipe(RECIPE.name).has([key_of("MA"), key_of("MD")]).all()
    drafts = store.recipe_folder(RECIPE.name) / "drafts"
    draft_in(drafts.parent)
    assert [each.kind for each in collect_garbage(store, older_than=-1)] == ["draft"]
    assert list(drafts.iterdir()) == []


def test_a_segment_never_published_may_be_taken_away_by_another_writer(store, monkeypatch):
    """Two builds meet what is left of a broken copy: one moves it, both publish."""
    recipe = store.recipe_folder(RECIPE.name)
    key = key_of("M")
    broken = recipe / "segments" / segment_name([key])
    broken.mkdir(parents=True)
    rename = os.rename

    def be_second(old, new):
        if Path(old) == broken:
            shutil.rmtree(broken)
        return rename(old, new)

    monkeypatch.setattr(files.os, "rename", be_second)
    rows = np.ones((1, 8), np.float16)
    one = np.ones(1, np.int64)
    with SegmentWriter(recipe, RECIPE) as writer:
        writer.append([key], Embedded(rows, one, rows.astype(np.float32), None, one > 0))
        assert writer.publish({}) == broken.name
    assert verify(store).whole and len(store.recipe(RECIPE.name)) == 1


def test_two_removals_of_one_tree_do_no_harm(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    rmtree = shutil.rmtree

    def be_second(path, *arguments, **named):
        rmtree(path)
        return rmtree(path, *arguments, **named)

    monkeypatch.setattr(files.shutil, "rmtree", be_second)
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()


@pytest.mark.parametrize("what", ["pipe", "link", "file"])
def test_garbage_that_is_no_folder_is_removed_and_never_opened(store, tmp_path, what):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"x")
    drafts = store.recipe_folder(RECIPE.name) / "drafts"
    drafts.mkdir()
    if what == "pipe":
        os.mkfifo(drafts / "x")
    elif what == "link":
        (drafts / "x").symlink_to(outside)
    else:
        (drafts / "x").write_bytes(b"x")
    assert len(collect_garbage(store, older_than=-1)) == 1
    assert list(drafts.iterdir()) == []
    assert (outside / "x").read_bytes() == b"x"


@pytest.fixture
def syncing(monkeypatch):
    """Let fsync of files or of folders fail."""

    def fail(kind, number):
        fsync = os.fsync

        def run(handle):
            if kind(os.fstat(handle).st_mode):
                raise OSError(number, os.strerror(number))
            fsync(handle)

        monkeypatch.setattr(files.os, "fsync", run)
        monkeypatch.setattr(files, "_told_unsynced", False)

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_that_syncs_no_folders_is_written_to(store, syncing, caplog, number):
    caplog.set_level(logging.INFO)
    syncing(stat.S_ISDIR, number)
    assert write(store, ["MA"])
    write_atomically(store.folder / "x", b"x")
    assert verify(store).whole
    assert caplog.text.count("syncs no folders") == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_fails_to_sync_is_a_failure(tmp_path, syncing, number):
    syncing(stat.S_ISDIR, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_that_cannot_be_synced_is_a_failure(store, syncing, number):
    syncing(stat.S_ISREG, number)
    with pytest.raises(WriteFailed):
        write(store, ["MA"])
    assert store.segment_names(RECIPE.name) == []


def test_a_pipe_in_a_draft_is_neither_waited_for_nor_published(tmp_path):
    draft = draft_in(tmp_path)
    os.mkfifo(draft / "y")
    with pytest.raises(OSError, match="named pipe"):
        sync_tree(draft)
    for expected in ({"x": 3, "y": 0}, {"x": None, "y": None}):
        with pytest.raises(WriteFailed):
            publish_folder(draft, tmp_path / "final", expected)
    assert not (tmp_path / "final").exists()


def test_no_module_maps_a_file_into_memory():
    """Whoever cuts a mapped file ends every process that reads it."""
    root = Path(__file__).parents[3]
    paths = [
        path for name in ("embedstore", "probe", "api") for path in root.glob(f"{name}/**/*.py")
    ]
    assert len(paths) > 100
    mapping = re.compile(r"\bmmap\b|memmap|mmap_mode|memory_map=True|IO_FLAG_MMAP|from_file\(")
    weights = root / "embedstore" / "backbones"  # read once, copied, and no part of a store
    found = [path for path in paths if mapping.search(path.read_text(encoding="utf-8"))]
    assert [path for path in found if not path.is_relative_to(weights)] == []
