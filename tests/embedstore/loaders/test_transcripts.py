"""Transcripts with UTRs on the axes of the record: each nucleotide and codon gets its own rows."""

import numpy as np
import pyarrow as pa
import pytest

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.one_hot import COLUMNS
from embedstore.build import BuildConfig, build
from embedstore.dogma import Coding, translate
from embedstore.loaders import load_aligned, open_joined
from embedstore.records import Record, Records

CDS = ("AUGGCUUGGUAA", "AUGAAACUGGCUUGA")
ROWS = [
    Record("short", "GG" + CDS[0] + "CCC", "mrna", Coding(2, 14)),
    Record("long", "GGGGG" + CDS[0] + "C", "mrna", Coding(5, 17)),
    Record("other", "A" + CDS[1], "mrna", Coding(1, 16)),
    Record("alone", CDS[0], "mrna"),
    # one transcript with two regions: the second codes for another protein
    Record("first", "CAUGGCUUAAAUGUGGUAA", "mrna", Coding(1, 10)),
    Record("second", "CAUGGCUUAAAUGUGGUAA", "mrna", Coding(10, 19)),
    Record("none", "CCCAUGUAA", "mrna", Coding(absent="no-coding-region")),
]
BACKBONES = ("one-hot-mrna", "one-hot-protein", "codon-composition")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = create_store(tmp_path_factory.mktemp("transcripts") / "s")
    for name in BACKBONES:
        prepared = prepare(BackboneConfig(backbone=name))
        config = BuildConfig(collection="c", quiet=True)
        build(made, Records(ROWS, pa.table({}), 0, []), prepared, config)
    return made


def letters(rows, name):
    """What one-hot rows stand for; `-` where there is none."""
    columns = np.array([*COLUMNS[name]])
    return "".join("-" if not row.any() else str(columns[int(row.argmax())]) for row in rows)


def protein_on(record):
    """Its residues under each nucleotide, by hand."""
    start, stop = record.coding.start, record.coding.stop
    residues = translate(record.sequence[start:stop])[:-1]
    inside = "".join(3 * each for each in residues)
    return "-" * start + inside + "-" * (len(record.sequence) - start - len(inside))


@pytest.mark.parametrize("row", [row for row in ROWS if row.coding and not row.coding.absent])
def test_aligned_rows_stand_on_the_nucleotides_they_were_made_of(store, row):
    reader = store.recipe("one-hot-protein")
    rows = np.nan_to_num(load_aligned(reader, row, "nucleotide"))
    assert letters(rows, "protein") == protein_on(row)
    codons = np.nan_to_num(load_aligned(reader, row, "codon"))
    assert letters(codons, "protein") == protein_on(row)[row.coding.start : row.coding.stop : 3]
    whole = load_aligned(store.recipe("one-hot-mrna"), row, "nucleotide")
    assert letters(whole, "mrna") == row.sequence
    assert len(load_aligned(store.recipe("one-hot-mrna"), row, "codon")) == len(codons)


def test_a_record_without_a_region_has_no_codons(store):
    reader = store.recipe("one-hot-mrna")
    assert len(load_aligned(reader, ROWS[-1], "nucleotide")) == 9
    with pytest.raises(ValueError, match="'none' has no whole number of codons"):
        load_aligned(reader, ROWS[-1], "codon")


@pytest.mark.parametrize("align", ["codon", "nucleotide"])
@pytest.mark.parametrize(
    "names", [BACKBONES, BACKBONES[1:], BACKBONES[:2], (BACKBONES[1], BACKBONES[0])]
)
def test_joined_rows_are_those_aligned_one_by_one(store, align, names):
    collection = store.collection("c")
    reader = open_joined(store, names, collection, align)
    parts = [store.recipe(name) for name in names]
    for record, key in zip(collection.records(), reader.row_keys, strict=True):
        if key is None:
            assert record.id == "none"
            continue
        own = [np.nan_to_num(load_aligned(each, record, align)) for each in parts]
        (found,) = reader.batch([key]).split()
        np.testing.assert_array_equal(found, np.concatenate(own, axis=1).astype(found.dtype))
        assert reader.lengths([key]).tolist() == [len(found)]


def test_joined_inputs_are_one_exactly_where_their_rows_are_alike(store):
    collection = store.collection("c")

    def keys(names, align):
        found = open_joined(store, names, collection, align).row_keys
        return dict(zip(collection.ids, found, strict=True))

    inside = keys(BACKBONES[1:], "codon")  # UTRs are not seen: one coding sequence, one input
    assert inside["short"] == inside["long"] == inside["alone"] != inside["first"]
    assert len(set(keys(BACKBONES[1:], "nucleotide").values())) == 7
    whole = keys(BACKBONES, "codon")
    assert len({whole["short"], whole["long"], whole["alone"]}) == 3
