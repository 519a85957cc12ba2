"""Groups: what is connected is together, in any order; clusters by k-mers and by MMseqs2."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import BadInput
from probe.groups import cluster_with_mmseqs, connect
from probe.minhash import cluster_by_kmers

RESIDUES = list("ACDEFGHIKLMNPQRSTVWY")


def together(groups):
    """Which pairs share a group, whatever it is called."""
    return np.equal.outer(groups, groups)


def protein(rng, length):
    return "".join(rng.choice(RESIDUES, length))


def mutant(rng, text, share):
    return "".join(rng.choice(RESIDUES) if rng.random() < share else letter for letter in text)


@given(
    columns=st.lists(
        st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=12, max_size=12),
        min_size=1,
        max_size=3,
    )
)
def test_groups_are_what_shared_values_connect(columns):
    expected = np.eye(12, dtype=bool)
    for column, (i, j) in itertools.product(columns, itertools.combinations(range(12), 2)):
        if column[i] is not None and column[i] == column[j]:
            expected[i, j] = expected[j, i] = True
    for _ in range(4):  # a friend's friend, up to 16 steps
        expected = (expected.astype(int) @ expected) > 0
    assert np.array_equal(together(connect(columns)), expected)


def test_groups_are_numbered_by_their_first_row():
    assert connect([["b", "a", None, "b", "a"]]).tolist() == [0, 1, 2, 0, 1]
    assert connect([[]]).tolist() == []


def test_similar_proteins_are_together_and_others_apart():
    rng = np.random.default_rng(0)
    parents = [protein(rng, 250) for _ in range(40)]
    texts = [*parents, *(mutant(rng, text, 0.05) for text in parents), *parents[:5]]
    groups = cluster_by_kmers(texts, 4, 0.2)
    assert groups[:40].tolist() == list(range(40))
    assert np.array_equal(groups[40:80], groups[:40])
    assert np.array_equal(groups[80:], groups[:5])


def test_relatives_of_relatives_are_together():
    rng = np.random.default_rng(1)
    chain = [protein(rng, 300)]
    for _ in range(12):
        chain.append(mutant(rng, chain[-1], 0.08))
    assert set(cluster_by_kmers(chain, 4, 0.2)) == {0}
    assert len(set(cluster_by_kmers([chain[0], chain[-1]], 4, 0.2))) == 2


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_the_order_of_sequences_does_not_enter(seed):
    rng = np.random.default_rng(seed)
    parents = [protein(rng, 60) for _ in range(6)]
    texts = [mutant(rng, parents[rng.integers(6)], rng.choice([0.02, 0.1, 0.2])) for _ in range(30)]
    order = rng.permutation(30)
    straight = cluster_by_kmers(texts, 4, 0.2)
    turned = cluster_by_kmers([texts[at] for at in order], 4, 0.2)
    assert np.array_equal(together(straight)[np.ix_(order, order)], together(turned))


def test_every_pair_of_a_bucket_is_looked_at():
    # the first text of a bucket may be unlike two others that are like each other
    rng = np.random.default_rng(4)
    common, parents = protein(rng, 60), [protein(rng, 240) for _ in range(3)]
    texts = [common + mutant(rng, text, 0.02) for text in parents for _ in range(4)]
    groups = cluster_by_kmers(texts, 4, 0.5)
    assert groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_short_sequences_are_alike_only_when_equal():
    assert cluster_by_kmers(["AC", "AC", "CA", ""], 4, 0.2).tolist() == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="k must be"):
        cluster_by_kmers(["AC"], 0, 0.2)


@pytest.fixture
def fake_mmseqs(tmp_path, monkeypatch):
    """A program that clusters by the first letter, as `mmseqs easy-cluster` writes it."""

    def install(body):
        program = tmp_path / "mmseqs"
        program.write_text(f"#!/usr/bin/env python3\nimport sys\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_clusters_of_mmseqs_are_read_back(fake_mmseqs):
    fake_mmseqs(
        "assert sys.argv[1:5] == ['easy-cluster', 'in.fasta', 'out', 'tmp'], sys.argv\n"
        "lines = open('in.fasta').read().split()\n"
        "heads = {}\n"
        "with open('out_cluster.tsv', 'w') as out:\n"
        "    for name, text in zip(lines[::2], lines[1::2]):\n"
        "        head = heads.setdefault(text[0], name[1:])\n"
        "        print(head, name[1:], sep='\\t', file=out)"
    )
    assert cluster_with_mmseqs(["MAA", "KAA", "MCC", "MAA", "KDD"]).tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("sys.exit('no space left')", "exit code 1: no space left"),
        ("pass", "exit code 0: silently"),
        ("open('out_cluster.tsv', 'w').write('0\\t0\\n')", "clustered 1 of 2 sequences"),
    ],
)
def test_a_failure_of_mmseqs_is_told(fake_mmseqs, body, problem):
    fake_mmseqs(body)
    with pytest.raises(BadInput, match=problem):
        cluster_with_mmseqs(["MAA", "KAA"])


def test_without_the_program_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"no program mmseqs.*group:kmer"):
        cluster_with_mmseqs(["MAA"])
