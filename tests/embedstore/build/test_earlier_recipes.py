"""Recipes named before recipe documents had a format number are found, not made a second time."""

from dataclasses import replace

import pyarrow as pa
import pytest

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare, prepare_recipe
from embedstore.build import BuildConfig, build, plan_build
from embedstore.records import Record, Records

EARLIER = "codon-mini-8d594b0c93"
"""What the version before gave to the weights that come with the package, on a CPU."""


@pytest.fixture
def prepared():
    return prepare(BackboneConfig(backbone="codon-mini", device="cpu"))


@pytest.fixture
def records():
    rows = [Record("a", "AUGGCUAAAUAA", "mrna"), Record("b", "AUGAAAGCUUGA", "mrna")]
    return Records(rows, pa.table({}), 0, [])


def earlier(prepared):
    digest = prepared.checkpoint.earlier_digest
    return replace(prepared, recipe=replace(prepared.recipe, weights=f"sha256:{digest}"))


def test_the_earlier_name_is_that_of_the_version_before(prepared):
    assert earlier(prepared).recipe.name == EARLIER != prepared.recipe.name


def test_a_build_goes_on_with_the_recipe_that_the_store_has(tmp_path, prepared, records):
    store, config = create_store(tmp_path / "s"), BuildConfig(collection="c", quiet=True)
    build(store, records, earlier(prepared), config)
    plan = plan_build(store, records, prepared, config)
    assert plan.present == 2
    report = build(store, records, prepared, config)
    assert (report.recipe, report.present, report.embedded) == (EARLIER, 2, 0)
    assert store.recipes() == [EARLIER]


def test_a_store_without_it_has_the_present_recipe(tmp_path, prepared, records):
    store, config = create_store(tmp_path / "s"), BuildConfig(collection="c", quiet=True)
    store.write_recipe(prepared.recipe)
    store.write_recipe(earlier(prepared).recipe)
    assert build(store, records, prepared, config).recipe == prepared.recipe.name
    other = create_store(tmp_path / "other")
    assert build(other, records, prepared, config).recipe == prepared.recipe.name


def test_new_sequences_of_an_earlier_recipe_can_be_embedded(prepared):
    recipe = earlier(prepared).recipe
    assert prepare_recipe(recipe, None, "cpu").recipe == recipe
    assert prepare_recipe(prepared.recipe, None, "cpu").recipe == prepared.recipe
    other = replace(recipe, weights="sha256:" + "0" * 64)
    assert prepare_recipe(other, None, "cpu").recipe == prepared.recipe
