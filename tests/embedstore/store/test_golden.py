"""The stores in tests/golden read as they were written; the newest would be written the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from embedstore import Recipe, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.store.segment import SegmentWriter
from embedstore.store.verify import verify

BEFORE = Path(__file__).parents[2] / "golden" / "store-format-1"
"""Its recipe documents have no format number."""
NEWEST = BEFORE.with_name("store-format-1-recipe-1")
EXPECTED = json.loads((NEWEST / "expected.json").read_text())
SEGMENTS = [
    pytest.param(name, segment, id=f"{name}-{number}")
    for name, recipe in EXPECTED["recipes"].items()
    for number, segment in enumerate(recipe["segments"])
]


@pytest.fixture(scope="module", params=[BEFORE, NEWEST], ids=["before", "newest"])
def golden(request):
    assert json.loads((request.param / "expected.json").read_text()) == EXPECTED
    return open_store(request.param / "store")


def test_the_store_has_the_recipes_and_segments_expected(golden):
    assert golden.recipes() == sorted(EXPECTED["recipes"])
    for name, expected in EXPECTED["recipes"].items():
        assert golden.find_recipe(name).as_json() == expected["recipe"]
        names = [segment["name"] for segment in expected["segments"]]
        assert golden.segment_names(name) == sorted(names)
    assert {"float16", "float32"} == {golden.find_recipe(n).store_dtype for n in golden.recipes()}


def test_the_collection_has_the_records_labels_and_keys_expected(golden):
    expected = EXPECTED["collection"]
    collection = golden.collection(expected["name"])
    for column in ("id", "sequence", "molecule", "halflife", "cell"):
        assert collection.table.column(column).to_pylist() == expected[column]
    assert collection.labels == ["halflife", "cell"]
    proteins = [key_of("MA"), key_of("MA"), key_of("MKL"), None]
    assert collection.keys("protein") == proteins


@pytest.mark.parametrize("name, expected", SEGMENTS)
def test_our_reader_gives_the_values_expected(golden, name, expected):
    reader = golden.recipe(name)
    keys = expected["keys"]
    assert keys == [key_of(view) for view in expected["views"]]
    packed = reader.batch(keys)
    assert packed.tokens.dtype == reader.recipe.store_dtype
    for part, tokens in zip(packed.split(), expected["tokens"], strict=True):
        assert part.tolist() == tokens
    np.testing.assert_array_equal(reader.means(keys), np.array(expected["mean"], np.float32))
    (segment,) = [each for each in reader.segments if each.name == expected["name"]]
    assert (None if segment.cls is None else segment.cls.tolist()) == expected["cls"]


@pytest.mark.parametrize("name, expected", SEGMENTS)
def test_plain_zarr_gives_the_values_expected(golden, name, expected):
    path = golden.recipe_folder(name) / "segments" / expected["name"]
    group = zarr.open_group(str(path), mode="r")
    lengths = [len(tokens) for tokens in expected["tokens"]]
    assert group["tokens"][:].tolist() == np.concatenate(expected["tokens"]).tolist()
    assert group["length"][:].tolist() == lengths
    assert group["start"][:].tolist() == (np.cumsum(lengths) - lengths).tolist()
    assert [bytes(key).hex() for key in group["keys"][:]] == expected["keys"]
    np.testing.assert_array_equal(group["mean"][:], np.array(expected["mean"], np.float32))
    assert ("cls" in group) == (expected["cls"] is not None)


def test_records_are_found_by_id(golden):
    first, second = (golden.recipe("esm2-8m").get(name) for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)  # synonymous


def test_nothing_in_it_is_damaged_and_reading_writes_nothing(golden, snapshot):
    before = snapshot(golden.folder)
    report = verify(golden)
    assert report.problems == []
    assert report.checked["sequences"] == sum(len(each.values[1]["keys"]) for each in SEGMENTS)
    assert snapshot(golden.folder) == before


@pytest.mark.parametrize("name, expected", SEGMENTS)
def test_the_same_inputs_are_written_to_the_same_bytes_today(tmp_path, name, expected, snapshot):
    recipe = Recipe(**EXPECTED["recipes"][name]["recipe"])
    assert recipe.name == name
    parts = [np.array(tokens, recipe.store_dtype) for tokens in expected["tokens"]]
    embedded = Embedded(
        tokens=np.concatenate(parts),
        lengths=np.array([len(part) for part in parts]),
        mean=np.stack([part.mean(axis=0, dtype=np.float32) for part in parts]),
        cls=None if expected["cls"] is None else np.array(expected["cls"], np.float32),
        finite=np.ones(len(parts), np.bool_),
    )
    store = create_store(tmp_path / "s")
    store.write_recipe(recipe)
    with SegmentWriter(store.recipe_folder(name), recipe) as writer:
        writer.append(expected["keys"], embedded)
        assert writer.publish({}) == expected["name"]
    old = snapshot(NEWEST / "store" / "recipes" / name)
    new = snapshot(store.recipe_folder(name))
    (document,) = [path for path in new if path.endswith("segment.json")]  # holds provenance
    del new[document]
    assert len(new) > 10
    assert new.items() <= old.items()
    oldest = snapshot(BEFORE / "store" / "recipes" / name)
    assert {path for path in new if oldest.get(path) != new[path]} == {
        "recipe.json",  # has the format number now, and so have the group's attributes
        f"segments/{expected['name']}/zarr.json",
    }
