"""Garbage collection removes what is old and unused, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.cli import app
from embedstore.errors import BadInput
from embedstore.store.gc import collect_garbage, parse_age
from embedstore.store.repair import repair
from embedstore.store.segment import SegmentWriter

RECIPE = prepare(BackboneConfig(backbone="one-hot-protein")).recipe.name
DAY = 24 * 3600


@pytest.fixture
def draft(built):
    """A draft like that of a killed build."""
    folder = built.recipe_folder(RECIPE) / "drafts" / ("f" * 32)
    shard = folder / "tokens" / "c" / "0" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"half")
    return folder


def age(folder, seconds):
    """Move the times of everything in a draft into the past."""
    then = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def test_only_drafts_not_written_to_for_a_day_are_removed(built, draft, snapshot):
    before = snapshot(built.folder)
    assert collect_garbage(built) == []
    age(draft, 2 * DAY)
    os.utime(draft / "tokens/c/0/0")  # a build still writes its shard
    assert collect_garbage(built) == []
    assert snapshot(built.folder) == before
    age(draft, 2 * DAY)
    (told,) = collect_garbage(built, dry_run=True)
    assert snapshot(built.folder) == before
    assert collect_garbage(built) == [told]
    assert (told.kind, told.bytes >= 4) == ("draft", True)
    assert not draft.exists()
    assert snapshot(built.folder).keys() < before.keys()


def test_a_draft_from_the_future_is_not_old(built, draft):
    age(draft, -400 * DAY)
    assert collect_garbage(built, older_than=0) == []


def test_a_wrong_clock_of_this_machine_removes_nothing_that_is_new(built, draft, monkeypatch):
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 400 * DAY)
    assert collect_garbage(built) == []
    assert draft.exists()


def test_files_left_on_their_way_to_another_name_are_removed_too(built):
    left = [
        built.folder / ".store.json.0.draft",
        built.folder / "collections" / ".genes.parquet.0.draft",
        built.recipe_folder(RECIPE) / "index" / ".keys.bin.0.draft",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        age(path, 2 * DAY)
    assert len(collect_garbage(built)) == len(left)
    assert not any(path.exists() for path in left)


def test_quarantine_goes_only_when_asked_for(built):
    folder = built.segment_folders(RECIPE)[0]
    (folder / "tokens/c/0/0").unlink()
    (aside,) = repair(built).quarantined
    assert collect_garbage(built, older_than=0) == []
    assert len(collect_garbage(built, quarantine=True)) == 2  # folder and note
    assert not (built.folder / aside).exists()


def test_a_segment_whose_keys_stand_in_earlier_whole_ones_goes_only_when_asked_for(built):
    """The keys of the first two segments, written again under a name that sorts last."""
    reader = built.recipe(RECIPE)
    first, second, *_ = reader.segments
    keys = [bytes(key).hex() for key in [*first.keys, *second.keys]]
    before = {key: reader.get(key) for key in keys}
    packed = reader.batch(keys)
    from embedstore.backbones.backbone import Embedded

    for start in range(len(keys)):  # another order is another name
        turned = keys[start:] + keys[:start]
        packed = reader.batch(turned)
        again = Embedded(
            packed.tokens, packed.lengths, reader.means(turned), None, np.ones(len(keys), np.bool_)
        )
        with SegmentWriter(built.recipe_folder(RECIPE), reader.recipe) as writer:
            writer.append(turned, again)
            name = writer.publish({})
        if name > second.name:
            break
        shutil.rmtree(first.folder.parent / name)
    assert name > second.name
    collect_garbage(built, older_than=0)
    assert name in built.segment_names(RECIPE)
    (told,) = collect_garbage(built, redundant=True, dry_run=True)
    assert told.where.endswith(name)
    shard = first.folder / "tokens/c/0/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    assert collect_garbage(built, redundant=True) == []  # the copy before it is damaged
    shard.write_bytes(whole)
    assert collect_garbage(built, redundant=True) == [told]
    assert name not in built.segment_names(RECIPE)
    after = built.recipe(RECIPE)
    for key, rows in before.items():
        np.testing.assert_array_equal(after.get(key), rows)


@pytest.mark.parametrize(
    "text, seconds", [("24h", DAY), ("1d", DAY), ("90s", 90), ("1.5m", 90), ("0h", 0)]
)
def test_ages_have_a_unit(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "24", "-1h", "1y", "1 h", "nanh"])
def test_an_age_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="no age"):
        parse_age(text)


def test_the_command_lists_what_it_removes(built, draft):
    age(draft, 2 * DAY)
    run = CliRunner().invoke(app, ["gc", str(built.folder), "--older-than", "1h", "--json"])
    assert run.exit_code == 0
    assert [each["kind"] for each in json.loads(run.stdout)] == ["draft"]
    assert not draft.exists()
    assert CliRunner().invoke(app, ["gc", str(built.folder), "--older-than", "x"]).exit_code == 1


def test_an_empty_store_has_no_garbage(tmp_path):
    store = create_store(tmp_path / "s")
    store.write_recipe(prepare(BackboneConfig(backbone="one-hot-protein")).recipe)
    assert collect_garbage(store, quarantine=True, redundant=True) == []
