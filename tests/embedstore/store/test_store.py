"""Opening stores, naming recipes and keeping collections."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from embedstore import Recipe, create_store, json_lines, open_store
from embedstore.errors import (
    BadInput,
    CollectionConflict,
    DamagedSegment,
    MissingCollection,
    MissingRecipe,
    MissingRecord,
    NewerFormat,
    NotAStore,
)
from embedstore.records import Record, read_records
from embedstore.store.collection import make_table

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights="sha256:0")


def table(*rows: tuple[str, str], **labels: list[float]) -> pa.Table:
    return make_table([Record(name, text, "mrna") for name, text in rows], pa.table(labels))


def test_a_folder_without_a_store_is_named(tmp_path):
    with pytest.raises(NotAStore, match=r"no store\.json"):
        open_store(tmp_path)


def test_a_foreign_folder_is_not_taken_for_a_new_store(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NotAStore, match="exists and is not a store"):
        create_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_newer_store_is_refused(tmp_path):
    (tmp_path / "store.json").write_text('{"format": 3}')
    with pytest.raises(NewerFormat):
        open_store(tmp_path)


def test_paths_may_hold_spaces_and_letters_of_any_script(tmp_path):
    store = create_store(tmp_path / "ein Speicher für 配列")
    store.write_collection("a", table(("x", "AUG")))
    assert open_store(store.folder).collections() == ["a"]


@pytest.mark.parametrize(
    "field, other",
    [
        ("backbone", "esm2-35m"),
        ("view", "cds"),
        ("width", 9),
        ("weights", "sha256:1"),
        ("layer", 3),
        ("long", "truncate:10"),
        ("compute_dtype", "bfloat16"),
        ("store_dtype", "float32"),
    ],
)
def test_whatever_changes_the_numbers_changes_the_recipe_name(field, other):
    from dataclasses import replace

    assert replace(RECIPE, **{field: other}).name != RECIPE.name


def test_a_recipe_name_never_changes_between_versions():
    """Golden: computed when the format was fixed; a change would orphan stores."""
    assert RECIPE.name == "esm2-8m-fde4c21649"


def test_a_recipe_is_found_by_backbone_only_where_one_has_it(tmp_path):
    from dataclasses import replace

    store = create_store(tmp_path / "s")
    store.write_recipe(RECIPE)
    assert store.find_recipe("esm2-8m") == RECIPE
    other = replace(RECIPE, layer=3)
    store.write_recipe(other)
    with pytest.raises(MissingRecipe, match=other.name):
        store.find_recipe("esm2-8m")
    assert store.find_recipe(other.name) == other
    with pytest.raises(MissingRecipe, match="--backbone nope"):
        store.find_recipe("nope")


def test_a_recipe_that_is_not_its_folders_is_damage(tmp_path):
    store = create_store(tmp_path / "s")
    store.write_recipe(RECIPE)
    path = store.recipe_folder(RECIPE.name) / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer": 2}))
    with pytest.raises(DamagedSegment, match="describes"):
        store.find_recipe(RECIPE.name)


def test_a_collection_comes_back_as_it_was(tmp_path):
    store = create_store(tmp_path / "s")
    rows = table(("a", "AUGGCCUAA"), ("b", "GCC"), label=[1.0, 2.0])
    assert store.write_collection("genes", rows)
    assert not store.write_collection("genes", rows)  # the same again: nothing written
    back = store.collection("genes")
    assert back.table.equals(rows)
    assert back.labels == ["label"]
    assert back.keys("protein")[1] is None
    assert back.keys("mrna")[0] == back.keys("cds")[0]
    with pytest.raises(MissingCollection, match="genes"):
        store.collection("nope")


def test_a_collection_may_grow_but_never_silently_lose(tmp_path):
    store = create_store(tmp_path / "s")
    store.write_collection("genes", table(("a", "AUG"), label=[1.0]))
    store.write_collection("genes", table(("a", "AUG"), ("b", "GCC"), label=[1.0, 2.0]))
    assert store.collection("genes").ids == ["a", "b"]
    with pytest.raises(CollectionConflict, match="'b' changed or gone"):
        store.write_collection("genes", table(("a", "AUG"), ("b", "GGG"), label=[1.0, 2.0]))
    with pytest.raises(CollectionConflict, match="label column"):
        store.write_collection("genes", table(("a", "AUG"), ("b", "GCC")))
    store.write_collection("genes", table(("c", "AUG")), replace=True)
    assert store.collection("genes").ids == ["c"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101, f"a.{0:032x}"])
def test_a_collection_name_cannot_leave_its_folder(tmp_path, name):
    store = create_store(tmp_path / "s")
    with pytest.raises(BadInput, match="cannot name a collection"):
        store.write_collection(name, table(("a", "AUG")))


def test_an_id_in_two_collections_needs_the_collection_only_if_they_disagree(tmp_path):
    store = create_store(tmp_path / "s")
    store.write_collection("one", table(("a", "AUG"), ("b", "GGG")))
    store.write_collection("two", table(("a", "AUG"), ("b", "CCC")))
    assert store.find_key("a", "mrna") == store.collection("one").keys("mrna")[0]
    with pytest.raises(MissingRecord, match="--collection"):
        store.find_key("b", "mrna")
    assert store.find_key("b", "mrna", "two") == store.collection("two").keys("mrna")[1]
    with pytest.raises(MissingRecord, match="has a record 'z'"):
        store.find_key("z", "mrna")
    with pytest.raises(MissingRecord, match="no protein view"):
        store.find_key("a", "protein")


def test_a_damaged_collection_is_damage(tmp_path):
    store = create_store(tmp_path / "s")
    store.write_collection("genes", table(("a", "AUG")))
    (path,) = store.folder.glob("collections/genes.*.parquet")
    path.write_bytes(b"PAR1 no longer")
    with pytest.raises(DamagedSegment, match=path.name):
        store.collection("genes")


def test_packed_batches_keep_the_order_asked_and_repeats(tmp_path, genes):
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.build import BuildConfig, build

    store = create_store(tmp_path / "s")
    config = BuildConfig(collection="genes", segment_bytes=1000, quiet=True)
    build(store, genes, prepare(BackboneConfig(backbone="one-hot-protein")), config)
    reader = store.recipe("one-hot-protein")
    assert len(reader.segments) > 3
    keys = store.collection("genes").keys("protein")
    order = [keys[5], keys[2], keys[5], keys[30]]
    for key, part in zip(order, reader.batch(order).split(), strict=True):
        np.testing.assert_array_equal(part, reader.get(key))
        assert reader.info(key).shape == part.shape


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_label_that_is_a_list_is_kept_as_a_list(form, tmp_path, monkeypatch):
    """One value a position: whole numbers before fractions, a row and a value that are absent."""
    monkeypatch.setattr(json_lines, "_ROWS", 2)  # several blocks of rows
    tracks = [[1, 2], [3], [0.5, None, -2.25], None, [], [4, 5]]
    rows = [{"id": f"r{n}", "sequence": "GGAAAA", "track": track} for n, track in enumerate(tracks)]
    path = tmp_path / f"rnas.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    records = read_records(path, molecule="mrna")
    store = create_store(tmp_path / "rnas.store")
    store.write_collection("rnas", make_table(records.rows, records.labels))
    kept = open_store(store.folder).collection("rnas")
    assert kept.labels == ["track"]
    assert kept.table.column("track").type.value_type == pa.float64()
    assert kept.table.column("track").to_pylist() == tracks
    same = make_table(records.rows, records.labels)
    store.check_collection("rnas", same)  # a rebuild is no conflict
    short = records.within(6).labels.column("track").to_pylist()
    assert short == tracks
