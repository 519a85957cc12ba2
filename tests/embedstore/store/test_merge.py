"""Merging stores: everything of each is in the result, checked, or nothing is copied."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from embedstore import Recipe, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.cli import app
from embedstore.errors import BadInput, CollectionConflict, NotAStore
from embedstore.records import Record
from embedstore.store.collection import make_table
from embedstore.store.merge import merge
from embedstore.store.segment import SegmentWriter
from embedstore.store.verify import verify

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights=None)


@pytest.fixture
def make(tmp_path):
    """A store with one segment a list of words, and a collection of these words."""

    def run(name, *segments, collection="words", recipe=RECIPE):
        store = create_store(tmp_path / f"{name}.store")
        store.write_recipe(recipe)
        rng = np.random.default_rng(0)
        for words in segments:
            tokens = rng.standard_normal((len(words), 8)).astype(np.float16)
            embedded = Embedded(
                tokens,
                np.ones(len(words), np.int64),
                tokens.astype(np.float32),
                None,
                np.ones(len(words), np.bool_),
            )
            with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
                writer.append([key_of(word) for word in words], embedded)
                writer.publish({"made": "by a test"})
        records = [Record(word, word, "protein") for words in segments for word in words]
        store.write_collection(collection, make_table(records, pa.table({})))
        return store

    return run


def test_a_merge_holds_everything_of_its_sources_bit_for_bit(make, tmp_path, snapshot):
    other = Recipe(backbone="esm2-8m", view="protein", width=8, weights=None, layer=3)
    sources = [
        make("one", ["MA", "MC"], ["MD"], collection="a"),
        make("two", ["MA", "MC"], ["ME"], collection="b"),  # the first segment again
        make("three", ["MA"], collection="c", recipe=other),
    ]
    report = merge(sources, tmp_path / "all.store")
    assert (report.segments, report.kept, report.whole) == (4, 1, True)
    assert report.collections == ["a", "b", "c"]
    assert verify(open_store(tmp_path / "all.store")).whole
    merged = snapshot(tmp_path / "all.store")
    first_wins = {}
    for source in sources:
        for path, digest in snapshot(source.folder).items():
            first_wins.setdefault(path, digest)
    assert merged == first_wins
    again = merge(sources, tmp_path / "all.store")
    assert (again.segments, again.kept, again.collections) == (0, 5, [])
    assert snapshot(tmp_path / "all.store") == merged


def test_a_conflict_of_collections_is_told_before_anything_is_copied(make, tmp_path, snapshot):
    sources = [make("one", ["MA"]), make("two", ["MA", "MD"])]
    other = make_table([Record("MA", "MC", "protein")], pa.table({}))
    sources[1].write_collection("words", other, replace=True)
    with pytest.raises(CollectionConflict, match="--prefix"):
        merge(sources, tmp_path / "all.store")
    assert not (tmp_path / "all.store").exists()
    target = make("target", ["ME"])
    target.write_collection("words", other, replace=True)
    before = snapshot(target.folder)
    with pytest.raises(CollectionConflict, match=r"words.* 'MA'.*sequence was 'MC'.* 'MA'"):
        merge(sources[:1], target.folder)
    assert snapshot(target.folder) == before


def test_a_prefix_keeps_collections_of_one_name_apart(make, tmp_path):
    sources = [make("one", ["MA"]), make("two", ["MD"])]
    merge(sources, tmp_path / "all.store", prefix=True)
    merged = open_store(tmp_path / "all.store")
    assert merged.collections() == ["one-words", "two-words"]
    assert merged.collection("two-words").ids == ["MD"]


def test_a_damaged_segment_is_left_out_and_named_and_the_rest_is_copied(make, tmp_path):
    source = make("one", ["MA", "MC"], ["MD"], ["ME"])
    damaged, lost, _ = source.segment_folders(RECIPE.name)
    shard = damaged / "tokens/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (lost / "mean/c/0/0").unlink()
    report = merge([source], tmp_path / "all.store")
    assert report.segments == 1
    assert [damaged.name in report.damaged[0], lost.name in report.damaged[1]] == [True, True]
    merged = open_store(tmp_path / "all.store")
    assert verify(merged).whole
    assert len(merged.segment_names(RECIPE.name)) == 1
    assert not list((merged.recipe_folder(RECIPE.name) / "drafts").iterdir())


def test_a_store_is_not_merged_into_itself_or_into_a_foreign_folder(make, tmp_path):
    source = make("one", ["MA"])
    with pytest.raises(BadInput, match="a source and the target"):
        merge([source], tmp_path / "." / "one.store")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(NotAStore):
        merge([source], tmp_path / "mine")


def test_the_command_says_what_it_copied(make, tmp_path):
    one, two = make("one", ["MA"], collection="a"), make("two", ["MD"], collection="b")
    words = ["merge", str(one.folder), str(two.folder), str(tmp_path / "all.store"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["collections"] == ["a", "b"]
    assert CliRunner().invoke(app, words[:2]).exit_code == 2
    (one.segment_folders(RECIPE.name)[0] / "segment.json").write_text("{")
    done = CliRunner().invoke(app, [*words[:2], str(tmp_path / "other.store")])
    assert done.exit_code == 1
    assert "left out" in done.stderr
