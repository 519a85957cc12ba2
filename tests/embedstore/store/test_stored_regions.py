"""Coding regions in the store: read back, merged, exported, imported, never changed in silence."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import create_store, key_of, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.cli import app
from embedstore.coding_regions import CodingOptions
from embedstore.dogma import ABSENT, Coding
from embedstore.errors import BadInput, CollectionConflict
from embedstore.records import Record, Records, read_records
from embedstore.store.collection import CODING_TYPE, Collection, make_table
from embedstore.store.interchange import ImportConfig, import_file, sequence_hash
from embedstore.store.merge import merge
from embedstore.store.verify import verify

CDS = ("AUGGCUUGGUAA", "AUGAAACUGUGA", "AUGCUGUGGGCUUAG")
UTRS = (("GG", "CCC"), ("AUGC", ""), ("", "UUUUU"))
CODINGS = [Coding(len(a), len(a + c)) for (a, _), c in zip(UTRS, CDS, strict=True)]
WITH_UTRS = [
    Record(f"t{at}", a + c + b, "mrna", coding)
    for at, ((a, b), c, coding) in enumerate(zip(UTRS, CDS, CODINGS, strict=True))
]
ALONE = [Record(f"t{at}", text, "mrna") for at, text in enumerate(CDS)]
EVERY_KIND = [
    *WITH_UTRS,
    Record("whole", CDS[0], "mrna"),
    Record("code", CDS[1], "mrna", Coding(code=12)),
    Record("sec", "AUGUGAUAA", "mrna", Coding(selenocysteine=True)),
    Record("stops", "AUGUGAUAA", "mrna", Coding(inner_stops=True)),
    *(Record(why, "AUGUAA", "mrna", Coding(absent=why)) for why in ABSENT),
    Record("outside", "AUGUAA", "mrna", Coding(3, 90, 11)),
    Record("dna", "CATGTAA", "dna", Coding(1, 7, 11, True, True)),
]


def put(store, rows, backbone="one-hot-protein", name="c", **config):
    records = Records(rows, pa.table({}), 0, [])
    config = BuildConfig(collection=name, quiet=True, **config)
    return build(store, records, prepare(BackboneConfig(backbone=backbone)), config)


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "s")


def test_records_come_back_as_they_were(store):
    put(store, EVERY_KIND)
    found = open_store(store.folder).collection("c")
    assert found.records() == EVERY_KIND
    assert [found.record(row) for row in range(len(found))] == EVERY_KIND
    assert found.labels == []
    for view in ("mrna", "dna", "protein", "cds"):
        for record, key in zip(EVERY_KIND, found.keys(view), strict=True):
            if key is not None:
                assert key == key_of(record.view(view).text)
    assert verify(store).whole


def test_a_table_of_whole_records_has_no_such_column(store):
    put(store, ALONE)
    assert "coding_region" not in store.collection("c").table.column_names


def test_verify_sees_a_region_that_is_not_that_of_the_keys(store):
    put(store, EVERY_KIND)
    table = store.collection("c").table
    at = table.column_names.index("coding_region")
    cells = table.column(at).to_pylist()
    cells[0] = cells[1]
    table = table.set_column(at, "coding_region", pa.array(cells, CODING_TYPE))
    (store.folder / "collections" / "c.json").unlink()  # as stores of before have it
    parquet.write_table(table, store.folder / "collections" / "c.parquet")
    assert any("key_protein" in each.what for each in verify(store).problems)
    cells[0] = dict(cells[1], absent="a reason that nobody knows")
    table = table.set_column(at, "coding_region", pa.array(cells, CODING_TYPE))
    parquet.write_table(table, store.folder / "collections" / "c.parquet")
    assert not verify(store).whole


def test_an_old_label_of_that_name_stays_a_label():
    table = make_table(ALONE, pa.table({"coding_region": ["5-20", "1-9", ""]}))
    old = Collection("old", table)
    assert old.labels == ["coding_region"] and old.records() == ALONE


def test_the_name_is_refused_for_a_new_label(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,sequence,coding_region\na,AUGUAA,1-6\n")
    with pytest.raises(BadInput, match="'coding_region', a name this store keeps"):
        read_records(path)


@pytest.mark.parametrize("backbone", ["one-hot-protein", "codon-mini", "codon-composition"])
def test_a_coding_sequence_with_utrs_is_the_same_key_as_without(store, backbone):
    first = put(store, ALONE, backbone, "alone")
    second = put(store, WITH_UTRS, backbone, "transcripts")
    assert (first.embedded, second.embedded, second.present) == (3, 0, 3)
    for view in ("protein", "cds"):
        keys = [store.collection(name).keys(view) for name in ("alone", "transcripts")]
        assert keys[0] == keys[1]


def test_another_region_for_a_record_that_was_read_is_a_conflict(store, snapshot):
    put(store, WITH_UTRS)
    before = snapshot(store.folder)
    whole = [Record(row.id, row.sequence, "mrna") for row in WITH_UTRS]
    coded = [Record(row.id, row.sequence, "mrna", Coding(*_span(row), 11)) for row in WITH_UTRS]
    for other in (whole, coded):
        with pytest.raises(CollectionConflict, match="'t0' has another coding region or genetic"):
            put(store, other)
        assert snapshot(store.folder) == before
    put(store, coded, replace=True)
    assert store.collection("c").records() == coded


def _span(row):
    return row.coding.start, row.coding.stop


def test_regions_may_be_added_where_there_was_no_reading_frame(store):
    whole = [Record(row.id, row.sequence, "mrna") for row in WITH_UTRS]
    assert put(store, whole[:2]).failures == {"length-not-codons": 2}
    assert put(store, WITH_UTRS).embedded == 3
    assert store.collection("c").records() == WITH_UTRS


def test_a_merge_keeps_regions_and_refuses_others(tmp_path, store):
    put(store, EVERY_KIND)
    into = tmp_path / "all"
    merge([store], into)
    merged = open_store(into)
    assert merged.collection("c").records() == EVERY_KIND and verify(merged).whole
    other = create_store(tmp_path / "other")
    moved = [Record("t0", WITH_UTRS[0].sequence, "mrna", Coding(0, 12, inner_stops=True))]
    put(other, [*moved, *EVERY_KIND[1:]])
    with pytest.raises(CollectionConflict):
        merge([other], into)
    assert merged.collection("c").records() == EVERY_KIND


@pytest.mark.parametrize("layout", ["ids", "biotrainer"])
@pytest.mark.parametrize("backbone", ["one-hot-protein", "codon-mini"])
def test_an_export_names_the_view_and_is_imported_again(tmp_path, store, layout, backbone):
    put(store, WITH_UTRS, backbone)
    file = tmp_path / "out.h5"
    asked = ["export", store.folder, "--backbone", backbone, "--format", "h5", "--layout", layout]
    done = CliRunner().invoke(app, [*map(str, asked), "-o", str(file)])
    assert done.exit_code == 0, done.output
    view = store.recipe(backbone).recipe.view
    with h5py.File(file) as written:
        hashes = {each.attrs["sequence_hash"] for each in written.values()}
    assert hashes == {sequence_hash(row.view(view).text) for row in WITH_UTRS}
    again = create_store(tmp_path / "again")
    report = import_file(
        again, file, store.collection("c"), ImportConfig(backbone="theirs", view=view)
    )
    assert report.imported == 3 and report.complete
    assert again.collection("c").records() == WITH_UTRS
    for row in WITH_UTRS:
        mine, theirs = store.recipe(backbone), again.recipe("theirs")
        np.testing.assert_array_equal(mine.get(row.id, "c"), theirs.get(row.id, "c"))


def test_import_takes_the_options_of_a_build(tmp_path):
    table = tmp_path / "t.csv"
    lines = [f"{r.id},{r.sequence},{r.coding.start + 1},{r.coding.stop}" for r in WITH_UTRS]
    table.write_text("\n".join(["id,sequence,a,b", *lines]))
    file = tmp_path / "p.h5"
    with h5py.File(file, "w") as made:
        for row in WITH_UTRS:
            made[row.id] = np.ones((len(row.view("protein").text), 4), np.float32)
    asked = ["import", file, "--store", tmp_path / "s", "--backbone", "theirs", "--fasta", table]
    asked += ["--view", "protein", "--cds-columns", "a,b", "--json"]
    done = CliRunner().invoke(app, [str(each) for each in asked])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["imported"] == 3
    assert open_store(tmp_path / "s").collection("t").records() == WITH_UTRS


def test_stored_collections_refuse_the_options(tmp_path, store):
    put(store, WITH_UTRS)
    asked = ["import", "x.h5", "--store", str(store.folder), "--backbone", "theirs"]
    done = CliRunner().invoke(app, [*asked, "--collection", "c", "--orf", "longest"])
    assert done.exit_code == 1 and "has its coding regions already" in done.output


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_same_file_again_changes_nothing(tmp_path, kind):
    path = Path(tmp_path / f"t.{kind}")
    columns = {
        "id": [row.id for row in WITH_UTRS],
        "sequence": [row.sequence for row in WITH_UTRS],
        "a": [row.coding.start for row in WITH_UTRS],
        "b": [row.coding.stop for row in WITH_UTRS],
    }
    if kind == "csv":
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, r)) for r in rows)]))
    else:
        parquet.write_table(pa.table(columns), path)
    store = create_store(tmp_path / "s")
    records = read_records(path, coding=CodingOptions(cds_columns="a,b"))
    table = make_table(records.rows, records.labels)
    assert store.write_collection("t", table) and not store.write_collection("t", table)
    assert store.collection("t").labels == ["a", "b"]
