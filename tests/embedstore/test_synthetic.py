"""Synthetic genes: what is planted is what the docstring says, and nothing else."""

import csv
import hashlib
import io

import numpy as np
import pytest

from embedstore.dogma import GENETIC_CODE, check_coding, translate, view_of
from embedstore.records import read_records
from embedstore.synthetic import MOTIF, RESIDUES, SYNONYMS, WEIGHTS, make_genes


@pytest.fixture(scope="module")
def many():
    return make_genes(5000, seed=1)


def proteins(genes):
    return [view_of(sequence, "mrna", "protein").text for sequence in genes.sequences]


def test_the_same_count_and_seed_give_the_same_genes_and_another_seed_others():
    assert make_genes(30, seed=5).as_csv() == make_genes(30, seed=5).as_csv()
    assert make_genes(30, seed=5).sequences != make_genes(30, seed=6).sequences


def test_the_genes_are_those_of_the_first_version():
    """A seed names a data set: the digest is of what this generator wrote when it was made."""
    digest = hashlib.sha256("\n".join(make_genes(100, seed=0).sequences).encode()).hexdigest()
    assert digest == "59aa51229cb22b063e0c1a7e9e6421117f7bfd371a681772fd596f2588f48b2b"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_genes_have_finite_labels(count):
    for seed in range(10):
        made = make_genes(count, seed)
        assert np.isfinite([made.label, *made.parts.values()]).all()


def test_every_gene_is_a_coding_sequence_of_the_promised_length(many):
    assert len(many.sequences) == 5000
    for sequence in many.sequences:
        check_coding(sequence)
        assert RESIDUES[0] <= len(sequence) // 3 - 1 <= RESIDUES[1]


def test_the_label_is_the_weighted_sum_of_its_parts(many):
    planted = sum(WEIGHTS[name] * part for name, part in many.parts.items())
    np.testing.assert_allclose(many.label, planted, rtol=0, atol=1e-12)
    for part in many.parts.values():
        np.testing.assert_allclose([part.mean(), part.std()], [0, 1], atol=1e-9)


def test_the_parts_hold_49_30_and_21_percent_of_the_variance(many):
    # 0.70**2 : 0.55**2 : 0.46**2 = 0.490 : 0.3025 : 0.2116. The parts are independent: at
    # N = 5000 a correlation of two has a standard error of 0.014, and moves a share by 2 x it.
    spread = many.label.var()
    shares = {name: WEIGHTS[name] ** 2 / spread for name in many.parts}
    assert shares["codon_usage"] == pytest.approx(0.49, abs=0.03)
    assert shares["motif"] == pytest.approx(0.30, abs=0.03)
    assert shares["noise"] == pytest.approx(0.21, abs=0.03)


def test_the_parts_are_independent(many):
    correlations = np.corrcoef(list(many.parts.values())) - np.eye(3)
    assert np.abs(correlations).max() < 0.06  # four standard errors at N = 5000


def test_the_parts_are_read_back_from_the_sequences(many):
    last = {residue: max(codons) for residue, codons in SYNONYMS.items() if len(codons) > 1}
    usage = []
    for sequence in many.sequences:
        codons = [sequence[at : at + 3] for at in range(0, len(sequence) - 3, 3)]
        several = [codon for codon in codons if GENETIC_CODE[codon] in last]
        usage.append(np.mean([codon == last[GENETIC_CODE[codon]] for codon in several]))
    motif = [MOTIF in protein for protein in proteins(many)]
    for name, found in (("codon_usage", usage), ("motif", motif)):
        found = np.asarray(found, float)
        np.testing.assert_allclose(
            (found - found.mean()) / found.std(), many.parts[name], atol=1e-9
        )


def test_about_half_of_the_genes_hold_the_motif(many):
    share = np.mean([MOTIF in protein for protein in proteins(many)])
    assert share == pytest.approx(0.5, abs=0.03)  # four standard errors


def test_codon_usage_does_not_show_in_the_protein(many):
    """Neither the length nor the share of any residue goes with it: ridge on all explains none."""
    texts = proteins(many)
    letters = sorted(set("".join(texts)))
    shares = np.array([[text.count(each) / len(text) for each in letters] for text in texts])
    features = np.column_stack([shares, [len(text) for text in texts]])
    features = (features - features.mean(0)) / features.std(0)
    train, test = slice(0, 3500), slice(3500, None)
    usage = many.parts["codon_usage"]
    weights = np.linalg.solve(
        features[train].T @ features[train] + np.eye(features.shape[1]),
        features[train].T @ usage[train],
    )
    assert abs(np.corrcoef(features[test] @ weights, usage[test])[0, 1]) < 0.1  # 4 errors: 0.10


def test_synonyms_are_those_of_the_genetic_code():
    assert sum(map(len, SYNONYMS.values())) == 64
    for residue, codons in SYNONYMS.items():
        assert codons == sorted(codons)
        assert {translate(codon) for codon in codons} == {residue}


def test_the_table_is_read_back_as_the_genes_it_was_made_of(tmp_path):
    made = make_genes(20, seed=2)
    path = tmp_path / "synthetic.csv"
    path.write_text(made.as_csv())
    records = read_records(path)
    assert [record.id for record in records.rows] == made.ids
    assert [record.sequence for record in records.rows] == made.sequences
    assert {record.molecule for record in records.rows} == {"mrna"}
    assert records.labels.column_names == ["label", *made.parts]
    written = list(csv.DictReader(io.StringIO(made.as_csv())))
    np.testing.assert_allclose([float(row["label"]) for row in written], made.label, atol=1e-6)
