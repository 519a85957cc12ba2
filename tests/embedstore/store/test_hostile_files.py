"""What stands in the place of a store's file or folder: never waited for, never followed out."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from embedstore import open_store
from embedstore.errors import DamagedSegment, StoreError, Unreachable
from embedstore.store.gc import collect_garbage
from embedstore.store.objects import matching, names_in, size_of
from embedstore.store.repair import repair
from embedstore.store.shards import ShardReader
from embedstore.store.verify import verify

KINDS = ["pipe", "device", "folder", "link out", "loop", "gone"]


def stand_in(path: Path, what: str, outside: Path) -> None:
    """Put something else in the place of a file; the file itself goes outside."""
    if not outside.exists():
        path.rename(outside)
    else:
        path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what != "gone":
        targets = {"device": Path("/dev/zero"), "link out": outside, "loop": path}
        path.symlink_to(targets[what])


@pytest.mark.parametrize("what", KINDS)
def test_a_shard_is_a_file_of_the_store_or_damage_that_names_it(built, tmp_path, what):
    recipe = built.recipes()[0]
    reader = built.recipe(recipe)
    keys = reader.keys()
    expected = reader.batch(keys[:2]).tokens
    shards = [folder / "tokens/c/0/0" for folder in built.segment_folders(recipe)]
    for number, shard in enumerate(shards):
        stand_in(shard, what, tmp_path / f"outside-{number}")
    with pytest.raises(DamagedSegment, match="tokens/c/0/0 cannot be opened"):
        open_store(built.folder).recipe(recipe).batch(keys[:2])
    for number, shard in enumerate(shards):
        if shard.is_dir():
            shard.rmdir()
        else:
            shard.unlink(missing_ok=True)
        (tmp_path / f"outside-{number}").rename(shard)
    assert (open_store(built.folder).recipe(recipe).batch(keys[:2]).tokens == expected).all()


def test_a_link_within_the_store_may_be_followed(built):
    recipe = built.recipes()[0]
    shard = built.segment_folders(recipe)[0] / "tokens/c/0/0"
    moved = built.folder / "moved"
    shard.rename(moved)
    shard.symlink_to(moved)
    reader = open_store(built.folder).recipe(recipe)
    assert len(reader.batch(reader.keys()).lengths) == len(reader)
    link = built.folder.parent / "link.store"
    link.symlink_to(built.folder)
    reader = open_store(link).recipe(recipe)
    assert len(reader.batch(reader.keys()).lengths) == len(reader)


def test_a_folder_of_segments_that_leads_out_is_named_and_nothing_is_written_there(
    built, rebuild, tmp_path
):
    recipe = built.recipes()[0]
    segments = built.recipe_folder(recipe) / "segments"
    outside = tmp_path / "outside"
    segments.rename(outside)
    segments.symlink_to(outside)
    before = sorted(path.name for path in outside.iterdir())
    for act in (lambda: built.recipe(recipe), lambda: rebuild(built, "other")):
        with pytest.raises(StoreError, match="link that leads out"):
            act()
    assert sorted(path.name for path in outside.iterdir()) == before


@pytest.mark.parametrize("name", ["drafts", "segments"])
def test_no_segment_is_written_through_a_link_that_leads_out(built, rebuild, tmp_path, name):
    recipe = built.recipe_folder(built.recipes()[0])
    shutil.rmtree(recipe / "segments")
    shutil.rmtree(recipe / name, ignore_errors=True)
    (tmp_path / "outside").mkdir()
    (recipe / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="link that leads out"):
        rebuild(built)
    assert list((tmp_path / "outside").iterdir()) == []


def test_listings_follow_no_link_out_and_end_where_links_turn_round(tmp_path, caplog):
    store, outside = tmp_path / "s", tmp_path / "outside"
    (store / "recipes" / "mine").mkdir(parents=True)
    (store / "recipes" / "mine" / "recipe.json").write_text("{}")
    outside.mkdir()
    (outside / "recipe.json").write_text("{}")
    (store / "recipes" / "theirs").symlink_to(outside)
    (store / "recipes" / "turn").symlink_to(store / "recipes")
    (store / "recipes" / "loop").symlink_to(store / "recipes" / "loop")
    os.mkfifo(store / "recipes" / "pipe")
    found = matching(store, "recipes/*/recipe.json")
    assert found == [store / "recipes" / "mine" / "recipe.json"]
    assert "passed over" in caplog.text
    assert [path.name for path in matching(store, "recipes/*")] == [
        *("loop", "mine", "pipe", "theirs", "turn")
    ]
    assert names_in(store / "recipes" / "turn", store) == names_in(store / "recipes", store)
    for name in ("theirs", "loop", "pipe"):
        with pytest.raises(DamagedSegment, match=name):
            names_in(store / "recipes" / name, store)
    assert names_in(store / "recipes" / "nothing", store) == []
    assert names_in(store / "recipes" / "pipe" / "segments", store) == []
    assert size_of(store / "recipes" / "pipe") is None


def test_opening_a_shard_leaves_no_handle_behind_where_it_is_refused(built):
    recipe = built.recipes()[0]
    shard = built.segment_folders(recipe)[0] / "tokens/c/0/0"
    shard.unlink()
    os.mkfifo(shard)
    segment = built.recipe(recipe).segments[0]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with pytest.raises(DamagedSegment):
            ShardReader()._open(segment)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    "name", ["recipes", "recipe", "drafts", "neighbors", "collections", "quarantine"]
)
def test_gc_removes_nothing_that_a_link_leads_out_to(built, tmp_path, snapshot, name):
    recipe = built.recipe_folder(built.recipes()[0])
    outside = tmp_path / "outside"
    for place in (outside, outside / "drafts", outside / "quarantine", outside / "neighbors"):
        for each in ("cosine-exact-1", "cosine-exact-2", "letters"):
            (place / each).mkdir(parents=True)
            (place / each / "x").write_text("mine")
        (place / ".x.draft").write_text("mine")
    links = {
        "recipes": built.folder / "recipes",
        "recipe": built.folder / "recipes" / "theirs",
        "collections": built.folder / "collections",
    }
    link = links.get(name, recipe / name)
    if link.exists():
        link.rename(tmp_path / "before")
    link.symlink_to(outside)
    before = snapshot(outside)
    assert len(before) == 16
    collect_garbage(built, older_than=-1, quarantine=True)
    assert snapshot(outside) == before


@pytest.mark.parametrize("name", ["segments", "drafts", "index", "neighbors", "failures"])
def test_a_folder_that_leads_out_is_named_and_repair_moves_the_link_alone(
    built, tmp_path, snapshot, name
):
    recipe = built.recipe_folder(built.recipes()[0])
    outside = tmp_path / "outside"
    (outside / "photographs").mkdir(parents=True)
    for each in ("photographs/x", "keys.bin", "lines.jsonl"):
        (outside / each).write_text("mine")
    before = snapshot(outside)
    link = recipe / name
    if link.exists():
        link.rename(tmp_path / "before")
    link.symlink_to(outside)
    found = [each.where for each in verify(built).problems]
    assert found == [f"recipes/{recipe.name}/{name}"]
    repair(built)
    assert snapshot(outside) == before
    assert not link.is_symlink()
    assert verify(built).problems == []


def forbid(monkeypatch, *names: str) -> None:
    """Refuse every look at files of some names, as a folder does that may not be entered."""
    for act in ("stat", "lstat"):
        really = getattr(Path, act)

        def look(path, *, really=really, **named):
            if path.name in names:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return really(path, **named)

        monkeypatch.setattr(Path, act, look)


def test_a_recipe_that_may_not_be_looked_at_is_not_taken_for_absent(built, monkeypatch):
    (name,) = built.recipes()
    forbid(monkeypatch, "recipe.json", "segments")
    assert built.recipes() == [name]


def test_gc_that_may_not_look_removes_nothing_and_says_so(built, monkeypatch, snapshot):
    (built.recipe_folder(built.recipes()[0]) / "drafts" / "closed").mkdir(parents=True)
    before = snapshot(built.folder)
    forbid(monkeypatch, "closed")
    with pytest.raises(Unreachable, match="closed"):
        collect_garbage(built, older_than=-1)
    monkeypatch.undo()
    assert snapshot(built.folder) == before


def test_a_marker_that_may_not_be_read_is_not_written_anew(built, monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("embedstore.store.store.read_in", refuse)
    with pytest.raises(StoreError, match="may not be read"):
        built.read_marker()
    before = (built.folder / "store.json").stat().st_ino
    problem = verify(built).problems[0]
    assert (problem.kind, problem.code) == ("store", "unreachable")
    assert problem in repair(built).left
    assert (built.folder / "store.json").stat().st_ino == before


def test_a_file_in_the_place_of_the_recipes_is_damage(built):
    (built.folder / "recipes").rename(built.folder / "before")
    (built.folder / "recipes").write_text("x")
    with pytest.raises(DamagedSegment, match="no folder"):
        built.recipes()
