"""Homologs: the groups of comparing every pair, in any order and within any bound on memory."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from probe import homology
from probe.groups import join
from probe.homology import NUCLEOTIDES, PROTEINS, cluster_homologs, word_keys

RESIDUES = list("ACDEFGHIKLMNPQRSTVWY")


def protein(rng, length):
    return "".join(rng.choice(RESIDUES, length))


def mutant(rng, text, share):
    made = np.array([*text])
    changed = np.flatnonzero(rng.random(len(text)) < share)
    made[changed] = rng.choice(RESIDUES, len(changed))
    return "".join(made)


def words_of(text, linking):
    """The words that count, one by one."""
    found = set()
    for at in range(len(text) - linking.k + 1):
        word = text[at : at + linking.k]
        runs = {word[i : i + linking.unit] for i in range(linking.k - linking.unit + 1)}
        if set(word) <= set(linking.letters) and len(runs) >= linking.different:
            found.add(word)
    return found


def compared_one_by_one(texts, linking):
    words = [words_of(text, linking) for text in texts]
    pairs = []
    for one, other in itertools.combinations(range(len(texts)), 2):
        common = len(words[one] & words[other])
        least = linking.share * min(len(words[one]), len(words[other]))
        if texts[one] == texts[other] or (common >= linking.shared and common >= least):
            pairs.append((one, other))
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    return join(len(texts), left, right)


def family_texts(rng, letters):
    """Forty sequences: mutants and pieces of eight, some with a common tail."""
    letters = [*letters[: rng.integers(3, len(letters) + 1)]]
    parents = ["".join(rng.choice(letters, rng.integers(0, 120))) for _ in range(8)]
    texts = []
    for _ in range(40):
        share = rng.choice([0.02, 0.2, 0.4])
        parent = parents[rng.integers(8)]
        text = np.array([*parent])
        changed = np.flatnonzero(rng.random(len(text)) < share)
        text[changed] = rng.choice([*letters, *"XN"], len(changed))
        start = rng.integers(0, 30)
        tail = parents[0][: rng.integers(0, 14)] if rng.random() < 0.5 else ""
        texts.append("".join(text.tolist()[start : start + rng.integers(0, 150)]) + tail)
    return texts


@pytest.mark.parametrize("bounds", [None, (3, 5, 100), (2, 50, 1)], ids=str)
@pytest.mark.parametrize("kind", ["protein", "dna"])
def test_groups_are_those_of_every_pair(kind, bounds, monkeypatch):
    if bounds is not None:  # words of three texts are frequent, five pairs fill the memory
        for name, value in zip(("FREQUENT", "_PAIRS", "_LETTERS"), bounds, strict=True):
            monkeypatch.setattr(homology, name, value)
        # without the step that joins most of them beforehand
        monkeypatch.setattr(homology, "_join_first_owners", lambda *given: given[-1])
    linked = 0
    for seed in range(8 if bounds is None else 4):
        rng = np.random.default_rng(seed)
        linking = PROTEINS if kind == "protein" else NUCLEOTIDES
        if seed % 2:
            linking = replace(linking, k=3, unit=1, different=2, shared=1 + seed // 2, share=0.1)
        texts = family_texts(rng, "ACDEFGHIKLMNPQRSTVWY" if kind == "protein" else "ACGT")
        groups = cluster_homologs(texts, linking)
        expected = compared_one_by_one(texts, linking)
        assert groups.tolist() == expected.tolist(), seed
        linked += len(texts) - len(set(groups.tolist()))
    assert linked > 20


def test_words_that_say_nothing_do_not_count():
    assert len(word_keys(["ACDEFG", "ACDEXG", "AAAAAC", "ACDACD", "ACDE"], PROTEINS)) == 1
    tail = "AAAGAAACAACAACAACAAC"  # of every RNA of OpenVaccine
    assert len(word_keys([tail, tail[::-1]], NUCLEOTIDES)) == 0
    keys = word_keys(["ACDEFGH", "", "ACDEFGACDEFG"], PROTEINS)
    assert (keys // PROTEINS.words).tolist() == [0] * 2 + [2] * 6


def test_nine_residues_in_common_are_enough_and_eight_are_not():
    rng = np.random.default_rng(0)
    one, other = protein(rng, 200), protein(rng, 200)
    for length, together in ((9, True), (8, False)):
        texts = [one, other[:90] + one[50 : 50 + length] + other[90:]]
        assert len(set(cluster_homologs(texts, PROTEINS).tolist())) == (1 if together else 2)
    long = [one + protein(rng, 400), other + one[50:59] + protein(rng, 500)]
    assert cluster_homologs(long, PROTEINS).tolist() == [0, 1]  # under 1 % of 600


def test_relatives_of_half_the_residues_are_often_together_and_strangers_apart():
    rng = np.random.default_rng(1)
    parents = [protein(rng, 350) for _ in range(60)]
    for share, least in ((0.1, 60), (0.3, 54), (0.5, 15)):
        groups = cluster_homologs([*parents, *(mutant(rng, p, share) for p in parents)], PROTEINS)
        assert len(set(groups[:60].tolist())) == 60  # no two of the unrelated ones
        assert (groups[:60] == groups[60:]).sum() >= least


def test_a_word_of_all_sequences_costs_no_pairs(monkeypatch):
    """A tag of six residues on each of 3,000 proteins links none, and is no 4.5 million pairs."""
    rng = np.random.default_rng(2)
    monkeypatch.setattr(homology, "_PAIRS", 1 << 14)
    counted = []
    real = homology._count_pairs
    monkeypatch.setattr(
        homology, "_count_pairs", lambda *given: counted.append(given[1].sum()) or real(*given)
    )
    behind = ["".join(each) for each in itertools.product(RESIDUES, repeat=3)]  # all different
    texts = ["MGSWHK" + each + protein(rng, 30) for each in behind[:3000]]
    texts[7] = texts[5][:20] + texts[7][20:]
    groups = cluster_homologs(texts, PROTEINS)
    assert len(set(groups.tolist())) == 2999
    assert groups[7] == groups[5]
    assert sum(counted) < 1_000_000


def test_variants_of_one_protein_are_joined_without_comparing_each_with_each(monkeypatch):
    counted = []
    real = homology._count_pairs
    monkeypatch.setattr(
        homology, "_count_pairs", lambda *given: counted.append(given[1].sum()) or real(*given)
    )
    rng = np.random.default_rng(3)
    parent = protein(rng, 120)
    texts = [mutant(rng, parent, 0.03) for _ in range(1500)]
    assert set(cluster_homologs(texts, PROTEINS).tolist()) == {0}
    assert sum(counted) < 1500


def test_nothing_and_texts_without_words_are_groups_by_themselves():
    assert cluster_homologs([], PROTEINS).tolist() == []
    assert cluster_homologs(["", "AC", "AC", "XXXXXXXX"], PROTEINS).tolist() == [0, 1, 1, 2]
    with pytest.raises(UnicodeEncodeError):
        cluster_homologs(["Ä" * 9], PROTEINS)
