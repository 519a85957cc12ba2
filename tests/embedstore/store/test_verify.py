"""Verify finds any damage and names it; repair sets it aside and a build fills the gap."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.cli import app
from embedstore.errors import BadInput, NewerFormat
from embedstore.store import index_upkeep
from embedstore.store.repair import repair
from embedstore.store.verify import verify

RECIPE = prepare(BackboneConfig(backbone="one-hot-protein")).recipe.name


def flip(path, at=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def embeddings(store):
    reader = store.recipe(RECIPE)
    return {key: reader.get(key).tobytes() for key in sorted(reader.keys())}


@pytest.fixture
def indexed(built, monkeypatch):
    """The store with an index file."""
    monkeypatch.setattr(index_upkeep, "FEW_KEYS", 5)
    built.recipe(RECIPE)
    assert index_upkeep.index_path(built.recipe_folder(RECIPE)).exists()
    return built


def test_a_whole_store_has_no_problem_and_is_left_as_it_is(indexed, snapshot):
    before = snapshot(indexed.folder)
    report = verify(indexed)
    assert report.problems == []
    assert report.leftovers == []
    assert report.checked["recipes"] == report.checked["collections"] == 1
    assert report.checked["segments"] == len(indexed.segment_folders(RECIPE))
    assert report.checked["sequences"] == len(indexed.recipe(RECIPE))
    assert report.checked["bytes"] == indexed.recipe(RECIPE).describe()["bytes"]
    assert snapshot(indexed.folder) == before


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_found(indexed, snapshot, data):
    files = {name: indexed.folder / name for name in snapshot(indexed.folder)}
    assert len(files) > 50
    path = files[data.draw(st.sampled_from(sorted(files)))]
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        flip(path, at)
        try:
            found = verify(open_store(indexed.folder)).problems
        except Exception as error:  # store.json and formats of later versions
            assert path.name in ("store.json", "segment.json", "recipe.json"), error
            return
        if path.name == "segment.json" and not found:  # provenance has no checksum
            assert b'"provenance"' in whole[:at]
            return
        assert found, path
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["segment.json", "tokens/c/0/0", "length/c/0", "zarr.json"])
def test_a_lost_file_is_found(built, name):
    folder = built.segment_folders(RECIPE)[1]
    (folder / name).unlink()
    (problem, *_) = verify(built).problems
    assert problem.kind == "segment"
    assert problem.where.endswith(folder.name)
    assert name in problem.what


def test_a_sample_reads_only_what_it_draws_and_finds_damage_there(built):
    everything = verify(built)
    rng = np.random.default_rng(0)
    report = verify(built, sample=5, rng=rng)
    assert report.checked["sequences"] == 5
    assert report.checked["bytes"] < everything.checked["bytes"] / 2
    half = verify(built, RECIPE, sample=0.5).checked
    assert half["sequences"] == np.ceil(everything.checked["sequences"] / 2)
    assert half["collections"] == 0
    for folder in built.segment_folders(RECIPE):
        flip(folder / "tokens/c/0/0")  # the first sequence of each
    assert verify(built, sample=10_000).problems
    with pytest.raises(BadInput, match="--sample"):
        verify(built, sample=0)


def test_keys_of_a_collection_are_made_again_from_its_sequences(built):
    table = built.collection("genes").table
    column = table.schema.get_field_index("key_mrna")
    swapped = table.column("key_mrna").to_pylist()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    changed = table.set_column(column, "key_mrna", [swapped])
    built.write_collection("genes", changed, replace=True)
    (problem,) = verify(built).problems
    assert (problem.kind, problem.where) == ("collection", "collections/genes.json")
    assert "key_mrna" in problem.what
    (aside,) = repair(built).collections_quarantined
    assert (
        len(list((built.folder / aside).iterdir())) == 2
    )  # document and table: nothing is deleted
    assert verify(built).whole and built.collections() == []


def test_drafts_and_files_of_others_are_told_and_are_no_damage(built):
    folder = built.recipe_folder(RECIPE)
    (folder / "drafts" / "half").mkdir(parents=True)
    (folder / "segments" / "notes.txt").write_text("mine")
    (built.segment_folders(RECIPE)[0] / "notes.txt").write_text("mine")
    report = verify(built)
    assert report.whole
    assert sorted(path.split("/", 2)[2].split("/")[0] for path in report.leftovers) == [
        "drafts",
        "segments",
        "segments",
    ]


def test_damaged_segments_are_set_aside_and_only_they_are_embedded_anew(built, rebuild):
    whole = embeddings(built)
    first, second, third, *_ = built.segment_folders(RECIPE)
    lost = sum(
        json.loads((folder / "segment.json").read_text())["keys"]
        for folder in (first, second, third)
    )
    flip(first / "tokens/c/0/0")
    flip(second / "keys/c/0/0")
    (third / "segment.json").unlink()
    report = repair(built)
    assert len(report.quarantined) == 3
    for where in report.quarantined:
        aside = built.folder / where
        assert (aside / "tokens/c/0/0").exists()  # nothing is deleted
        assert json.loads(aside.with_name(f"{aside.name}.json").read_text())["problems"]
    assert verify(built).whole
    assert embeddings(built).keys() < whole.keys()
    assert rebuild(built) == lost
    assert embeddings(built) == whole
    flip(first / "tokens/c/0/0")  # a second time: the first copy stays
    assert len(repair(built).quarantined) == 1
    assert len(list(first.parent.parent.glob("quarantine/*"))) == 8  # four folders, four notes


def test_an_index_that_disagrees_is_found_and_made_anew(indexed):
    path = index_upkeep.index_path(indexed.recipe_folder(RECIPE))
    whole = path.read_bytes()
    from embedstore.store.index_file import read_index, write_index

    table = read_index(path)
    rows = table.entries.row.copy()
    rows[0] += 1
    object.__setattr__(table.entries, "row", rows)
    write_index(path, table)
    (problem,) = verify(indexed).problems
    assert problem.kind == "index"
    assert repair(indexed).index_removed == [problem.where]
    indexed.recipe(RECIPE)
    assert path.read_bytes() == whole


def test_a_segment_of_a_later_version_is_refused_and_not_set_aside(built, snapshot):
    path = built.segment_folders(RECIPE)[0] / "segment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 4}))
    before = snapshot(built.folder)
    (problem,) = verify(built).problems
    assert (problem.kind, problem.code) == ("segment", NewerFormat.code)
    assert "Install a newer embedstore" in problem.what
    assert repair(built).left == [problem]
    assert snapshot(built.folder) == before


def test_the_commands_tell_damage_by_their_exit_code_and_as_json(built):
    run = CliRunner().invoke
    store = str(built.folder)
    assert run(app, ["verify", store]).exit_code == 0
    folder = built.segment_folders(RECIPE)[0]
    flip(folder / "tokens/c/0/0")
    told = run(app, ["verify", store, "--json"])
    assert told.exit_code == 1
    report = json.loads(told.stdout)
    assert not report["whole"]
    assert [problem["where"].split("/")[-1] for problem in report["problems"]] == [folder.name]
    with pytest.raises(Exception, match="embedstore repair"):
        embeddings(built)
    mended = run(app, ["repair", store])
    assert mended.exit_code == 0
    assert folder.name in mended.stdout
    assert run(app, ["verify", store]).exit_code == 0
    held = json.loads(run(app, ["info", store, "--json"]).stdout)
    assert held["recipes"][0]["quarantined"] == 1
    assert held["coverage"][0]["embedded"] < held["coverage"][0]["with_view"]
    assert held["provenance"][0]["made"]["device"]
    assert run(app, ["info", store]).exit_code == 0


def test_a_recipe_whose_document_no_segment_has_is_a_problem_that_repair_leaves(built, snapshot):
    folder = built.recipe_folder(RECIPE)
    (folder / "recipe.json").unlink()
    for each in built.segment_folders(RECIPE):
        (each / "zarr.json").unlink()
    (problem,) = verify(built).problems
    assert problem.kind == "recipe"
    before = snapshot(built.folder)
    assert repair(built).left == [problem]
    assert snapshot(built.folder) == before
    shutil.rmtree(folder)
    assert verify(built).whole
