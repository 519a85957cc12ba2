"""Recipes joined on one axis: what each has at a position side by side, zeros where it has none."""

import numpy as np
import pyarrow as pa
import pytest

from embedstore import create_store
from embedstore.errors import BadInput, MissingEmbedding, MissingRecipe
from embedstore.loaders import JoinedRecipe, joined, load_aligned, open_joined, reopen_joined
from embedstore.records import Record
from embedstore.store.collection import make_table

NO_FRAME, SYNONYMS = "no-frame", ("gene-0", "synonym-of-0")  # as in conftest.py
NUCLEOTIDES = ["nt-v2-50m", "rna-fm", "splicebert"]
ALL = ["esm2-8m", *NUCLEOTIDES, "codon-mini"]
NARROW = ["esm2-8m", "nt-v2-50m", "rna-fm"]


def keys_of(reader):
    return [key for key in reader.row_keys if key is not None]


def one_by_one(reader, record):
    """The slow way: each recipe's features of one record, NaN made zero, side by side."""
    parts = [
        np.nan_to_num(load_aligned(each, record, reader.recipe.align), nan=0.0).astype(np.float32)
        * np.float32(factor)
        for each, factor in zip(reader._readers, reader.recipe.factors, strict=True)
    ]
    return np.concatenate(parts, axis=1).astype(reader.recipe.store_dtype)


@pytest.mark.parametrize("align", ["codon", "nucleotide"])
@pytest.mark.parametrize("names", [ALL, NARROW])
def test_joined_rows_are_those_of_each_recipe_aligned_one_by_one(mixed, align, names):
    collection = mixed.collection("genes")
    reader = open_joined(mixed, names, collection, align)
    reader = reader.scaled(keys_of(reader))
    records = [r for r in collection.records() if r.id != NO_FRAME]
    pieces = reader.batch(keys_of(reader)).split()
    assert len(pieces) == len(records) == 29
    for piece, record in zip(pieces, records, strict=True):
        assert piece.dtype == ("float16" if names is NARROW else "float32")
        np.testing.assert_array_equal(piece, one_by_one(reader, record))


def test_neither_the_order_nor_the_cuts_of_a_read_matter(mixed, monkeypatch):
    reader = open_joined(mixed, ALL, mixed.collection("genes"), "codon")
    keys = keys_of(reader)
    whole = dict(zip(keys, reader.batch(keys).split(), strict=True))
    monkeypatch.setattr(joined, "CHUNK_BYTES", 4 * reader.recipe.width * 40)
    some = [keys[at] for at in (7, 0, 28, 7, 3)]
    lengths = reader.lengths(some)
    at = np.array([400, 0, 150, 600, 800])
    out = np.full((1000, reader.recipe.width), -1, np.float32)
    reader.read_into(some, out, at)
    untouched = np.ones(len(out), bool)
    for key, first, count in zip(some, at, lengths, strict=True):
        np.testing.assert_array_equal(out[first : first + count], whole[key])
        untouched[first : first + count] = False
    assert (out[untouched] == -1).all()


def test_no_position_is_undefined_and_the_stop_codon_is_zero_for_a_protein_model(mixed):
    reader = open_joined(mixed, ALL, mixed.collection("genes"), "nucleotide")
    for piece in reader.batch(keys_of(reader)).split():
        assert np.isfinite(piece).all()
        residues, others = piece[:, :6], piece[:, 6:11]
        assert (residues[-3:] == 0).all() and (residues[:-3] != 0).any(axis=1).all()
        assert (others != 0).any(axis=1).all()


def test_synonymous_sequences_share_a_protein_and_no_joined_key(mixed):
    collection = mixed.collection("genes")
    rows = [collection.row_of[name] for name in SYNONYMS]
    both = open_joined(mixed, ["esm2-8m", "rna-fm"], collection)
    first, second = (both.row_keys[row] for row in rows)
    assert first != second
    one, other = both.batch([first, second]).split()
    np.testing.assert_array_equal(one[:, :6], other[:, :6])
    proteins = collection.keys("protein")
    assert proteins[rows[0]] == proteins[rows[1]]
    assert not np.array_equal(one[:, 6:], other[:, 6:])


def test_records_that_no_recipe_tells_apart_share_their_key(tmp_path, mixed):
    """A DNA record and its mRNA are one input; a protein that reads like an mRNA is another."""
    genes = mixed.collection("genes").records()[:2]
    dna = Record("dna", genes[0].sequence.replace("U", "T"), "dna")
    table = make_table([*genes, dna], pa.table({}))
    mixed_molecules = type(mixed.collection("genes"))("other", table)
    reader = open_joined(mixed, ["nt-v2-50m", "splicebert"], mixed_molecules)
    assert reader.row_keys[0] == reader.row_keys[2] != reader.row_keys[1]


def test_scaling_brings_every_recipe_near_one_and_loses_no_digit(mixed):
    plain = open_joined(mixed, NARROW, mixed.collection("genes"), "nucleotide")
    keys = keys_of(plain)
    scaled = plain.scaled(keys)
    assert all(np.log2(factor).is_integer() for factor in scaled.recipe.factors)
    before, after = (each.batch(keys).tokens.astype(np.float64) for each in (plain, scaled))
    first = 0
    for recipe, factor in zip(scaled.recipe.recipes, scaled.recipe.factors, strict=True):
        columns = slice(first, first + recipe.width)
        np.testing.assert_array_equal(after[:, columns], before[:, columns] * factor)
        there = after[:, columns][(after[:, columns] != 0).any(axis=1)]
        # the nearest power of two leaves at most a factor of sqrt(2); the sample is not the whole
        assert 0.65 < np.sqrt((there**2).mean()) < 1.5
        first = columns.stop
    assert plain.recipe.factors == (1.0, 1.0, 1.0)


def test_the_scale_comes_from_the_given_rows_alone(mixed):
    plain = open_joined(mixed, NARROW, mixed.collection("genes"))
    keys = keys_of(plain)
    read = []
    for reader in plain._readers:
        batch = reader.batch
        reader.batch = lambda asked, batch=batch: read.extend(asked) or batch(asked)
    plain.scaled(keys[:4])
    known = {key for joint in keys[:4] for key in plain._joints[joint].keys}
    assert len(read) == 12 and set(read) == known


def test_pooled_recipes_are_one_row_of_means(mixed):
    plain = open_joined(mixed, ["esm2-8m", "rna-fm"], mixed.collection("genes"), "pooled")
    keys = keys_of(plain)
    reader = plain.scaled(keys)
    packed = reader.batch(keys)
    assert packed.lengths.tolist() == [1] * len(keys) == reader.lengths(keys).tolist()
    collection = mixed.collection("genes")
    side_by_side = np.concatenate(
        [
            mixed.recipe(name).means(collection.keys(view)[:-1]) * np.float32(factor)
            for (name, view), factor in zip(
                [("esm2-8m", "protein"), ("rna-fm", "mrna")], reader.recipe.factors, strict=True
            )
        ],
        axis=1,
    )
    assert packed.tokens.dtype == np.float32
    np.testing.assert_array_equal(packed.tokens, side_by_side)
    np.testing.assert_array_equal(reader.means(keys), side_by_side)


@pytest.mark.parametrize(
    ("names", "align"),
    [(["esm2-8m", "rna-fm"], "codon"), (["codon-mini", "rna-fm"], "codon"),
     (["splicebert", "rna-fm"], "nucleotide")],
)  # fmt: skip
def test_the_axis_is_codons_where_a_recipe_reads_them(mixed, names, align):
    # one record is no coding sequence, so nucleotide models alone do not ask for codons
    reader = open_joined(mixed, names, mixed.collection("genes"))
    assert reader.recipe.align == align
    assert (reader.row_keys[-1] is None) == (align == "codon")


def test_records_that_are_no_codons_are_left_out_of_their_axis(mixed):
    collection = mixed.collection("genes")
    reader = open_joined(mixed, ["splicebert", "rna-fm"], collection, "codon")
    assert [id for id, key in zip(collection.ids, reader.row_keys, strict=True) if not key] == [
        NO_FRAME
    ]


def test_a_join_reads_as_a_recipe_does(mixed):
    reader = open_joined(mixed, ["esm2-8m", "rna-fm"], mixed.collection("genes"))
    keys = keys_of(reader)
    assert reader.recipe.backbone == "esm2-8m+rna-fm" and reader.recipe.view == "protein+mrna"
    assert reader.has([keys[0], "0" * 32, keys[1]]).tolist() == [True, False, True]
    assert reader.lengths(keys).tolist() == [len(piece) for piece in reader.batch(keys).split()]
    segment, row = reader.locate(keys)
    # the wider recipe decides
    expected = mixed.recipe("esm2-8m").locate(mixed.collection("genes").keys("protein")[:-1])
    assert (segment == expected[0]).all() and (row == expected[1]).all()
    with pytest.raises(MissingEmbedding, match="no joined embedding"):
        reader.batch(["0" * 32])


def test_what_is_not_stored_under_every_recipe_is_absent(mixed, tmp_path):
    new = Record("new", "AUGGCUUAA", "mrna")
    collection = type(mixed.collection("genes"))("new", make_table([new], pa.table({})))
    reader = open_joined(mixed, ["esm2-8m", "rna-fm"], collection)
    assert reader.has(keys_of(reader)).tolist() == [False]


def test_a_joined_recipe_comes_back_from_json_and_opens_the_same(mixed):
    collection = mixed.collection("genes")
    plain = open_joined(mixed, NARROW, collection)
    reader = plain.scaled(keys_of(plain))
    recipe = JoinedRecipe.from_json(reader.recipe.as_json())
    assert recipe == reader.recipe and recipe.name == reader.name != plain.name
    again = reopen_joined(mixed, recipe, collection)
    keys = keys_of(reader)
    np.testing.assert_array_equal(again.batch(keys).tokens, reader.batch(keys).tokens)


def test_what_cannot_be_joined_is_refused(mixed):
    collection = mixed.collection("genes")
    with pytest.raises(BadInput, match="names a recipe twice"):
        open_joined(mixed, ["rna-fm", "rna-fm"], collection)
    with pytest.raises(MissingRecipe):
        open_joined(mixed, ["rna-fm", "esm2-35m"], collection)
    proteins = make_table([Record("p", "MKV", "protein")], pa.table({}))
    only_proteins = type(collection)("p", proteins)
    with pytest.raises(BadInput, match="No record of p is a whole number of codons"):
        open_joined(mixed, ["esm2-8m", "rna-fm"], only_proteins, "codon")
    with pytest.raises(ValueError, match="align must be"):
        JoinedRecipe(recipes=(), align="residue", factors=())


def test_overlapping_tokens_can_only_be_pooled(tmp_path):
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.build import BuildConfig, build
    from embedstore.records import Records

    store = create_store(tmp_path / "s")
    records = Records([Record("a", "AUGGCUUAA", "mrna")], pa.table({}), 0, [])
    for name in ("kmer-composition", "one-hot-mrna"):
        config = BuildConfig(collection="c", quiet=True)
        build(store, records, prepare(BackboneConfig(backbone=name)), config)
    names, collection = ["kmer-composition", "one-hot-mrna"], store.collection("c")
    with pytest.raises(BadInput, match="overlap"):
        open_joined(store, names, collection)
    reader = open_joined(store, names, collection, "pooled")
    assert reader.batch(keys_of(reader)).tokens.shape == (1, 68)
