"""Features in memory: each distinct embedding once, or aligned to the record's own positions."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.one_hot import COLUMNS
from embedstore.build import BuildConfig, build
from embedstore.dogma import translate
from embedstore.loaders import load_aligned, load_features

BACKBONES = ("one-hot-mrna", "one-hot-protein", "codon-composition", "kmer-composition")


@pytest.fixture(scope="module")
def store(tmp_path_factory, request):
    import pyarrow as pa

    from embedstore.records import Record, Records

    texts = ["AUGGCCUGGUAA", "AUGGCUUGGUAA", "AUGAAAUGA"]
    rows = [Record(f"r{at}", text, "mrna") for at, text in enumerate(texts)]
    made = create_store(tmp_path_factory.mktemp("loaders") / "s")
    for name in BACKBONES:
        prepared = prepare(BackboneConfig(backbone=name))
        build(
            made,
            Records(rows, pa.table({}), 0, []),
            prepared,
            BuildConfig(collection="c", quiet=True),
        )
    return made


def test_rows_that_share_an_embedding_hold_it_once(store):
    reader = store.recipe("one-hot-protein")
    keys = store.collection("c").keys("protein")
    features = load_features(reader, [*keys, keys[0]])
    assert features.rows.tolist() == [0, 0, 1, 0]
    assert features.lengths.tolist() == [3, 2]
    for key, row in zip(keys, features.rows, strict=False):
        start = features.starts[row]
        own = features.tokens[start : start + features.lengths[row]]
        np.testing.assert_array_equal(own, reader.get(key))


def test_nucleotides_and_residues_stand_on_one_axis(store):
    record = store.collection("c").records()[0]
    letters = load_aligned(store.recipe("one-hot-mrna"), record, "nucleotide")
    residues = load_aligned(store.recipe("one-hot-protein"), record, "nucleotide")
    assert letters.shape == (12, 4)
    assert residues.shape == (12, 20)
    for at, letter in enumerate(record.sequence):
        assert letters[at].argmax() == COLUMNS["mrna"].index(letter)
    for at in range(9):
        residue = translate(record.sequence)[at // 3]
        assert residues[at].argmax() == COLUMNS["protein"].index(residue)
    assert np.isnan(residues[9:]).all()  # no residue stands on the stop codon


def test_codons_are_rows_of_their_own(store):
    record = store.collection("c").records()[0]
    codons = load_aligned(store.recipe("codon-composition"), record, "codon")
    assert codons.shape == (4, 64)
    assert codons[0].argmax() == 0 * 16 + 3 * 4 + 2  # AUG, digits A 0, C 1, G 2, U 3
    composition = load_aligned(store.recipe("one-hot-mrna"), record, "codon")
    np.testing.assert_allclose(composition[0], [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)


def test_overlapping_words_have_no_one_row_a_position(store):
    record = store.collection("c").records()[0]
    with pytest.raises(ValueError, match="overlap"):
        load_aligned(store.recipe("kmer-composition"), record, "nucleotide")
