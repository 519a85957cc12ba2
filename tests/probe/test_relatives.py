"""Relatives of test rows in train: counts by hand, and in the audit of a collection."""

import numpy as np
import pyarrow as pa
import pytest

from embedstore.records import Record
from embedstore.store.collection import Collection, make_table
from probe.audited import audit_collection, audit_text
from probe.relatives import Relatives, count_relatives, doubt_relatives, has_relatives
from probe.split_rules import SplitRule, make_split
from probe.splits import Split
from probe.tasks import Task

RNG = np.random.default_rng(0)
CODONS = ["GCU", "UGU", "GAU", "GAA", "UUU", "GGU", "CAU", "AUU", "AAA", "CUU", "AUG", "AAU"]
TASK = Task(collection="genes", label="label", kind="regression")


def split_of(train, validation, test):
    rows = len(train) + len(validation) + len(test)
    parts = {"train": train, "validation": validation, "test": test}
    numbers = {part: np.array(own, np.int64) for part, own in parts.items()}
    return Split(ids=tuple(f"row-{at}" for at in range(rows)), seed=0, rule="mine", **numbers)


def gene(codons):
    return "AUG" + "".join(codons) + "UAA"


@pytest.fixture(scope="module")
def collection():
    """Forty proteins with a mutant each at 80 % identity, and twenty RNAs that code for none."""
    texts = []
    for _ in range(40):
        codons = RNG.choice(CODONS, 120)
        changed = np.where(RNG.random(120) < 0.2, RNG.choice(CODONS, 120), codons)
        texts += [gene(codons), gene(changed)]
    for _ in range(10):
        rna = "".join(RNG.choice([*"ACGU"], 100))
        texts += [f"{rna}A", f"GG{rna[:60]}{''.join(RNG.choice([*'ACGU'], 40))}"]
    rows = [Record(f"gene-{at}", text, "mrna") for at, text in enumerate(texts)]
    columns = {
        "label": RNG.normal(size=100),
        # the second of each pair tests, or validates
        "part": ["train" if at % 2 == 0 else ("test", "dev")[at // 2 % 2] for at in range(100)],
    }
    return Collection("genes", make_table(rows, pa.table(columns)))


def test_relatives_are_rows_of_the_same_group_in_train():
    split = split_of(train=[0, 1, 2], validation=[3, 4], test=[8, 5, 6, 7])
    groups = np.array([0, 1, -1, 2, 3, 0, 2, 4, -1])
    # row 8 has no relative, row 5 row 0; row 6's only one validates
    assert has_relatives(groups, split).tolist() == [False, True, False, False]
    copies = np.array([0, 1, -1, 2, 3, 4, 2, 1, -1])
    found = count_relatives(groups, copies, split, "mine")
    assert found == Relatives(
        rule="mine", rows=7, groups=5, largest=2, test=3, copies=1, relatives=2
    )
    with pytest.raises(ValueError, match="8 groups of 9 rows"):
        has_relatives(groups[:8], split)


def test_the_score_without_relatives_is_over_the_rows_of_the_mask():
    from probe.metrics import spearman

    split = split_of(train=[0, 1], validation=[2], test=[3, 4, 5, 6, 7])
    groups = np.array([0, 1, 2, 0, 3, 4, 5, 1])
    true, predicted = np.array([9.0, 1, 2, 3, 8]), np.array([9.0, 3, 2, 1, 8])
    alone = ~has_relatives(groups, split)
    assert alone.tolist() == [False, True, True, True, False]
    assert spearman(predicted[alone], true[alone]) == pytest.approx(-1)
    assert spearman(predicted, true) > 0


def test_a_sentence_is_said_where_there_are_more_than_copies():
    one = Relatives(rule="kmer", rows=50, groups=40, largest=3, test=10, copies=2, relatives=2)
    assert doubt_relatives([one]) is None
    assert doubt_relatives([]) is None
    more = Relatives(rule="homolog", rows=50, groups=9, largest=9, test=10, copies=2, relatives=6)
    sentence = doubt_relatives([one, more])
    assert sentence.startswith("6 of 10 test rows (60 %) have relatives in train (homolog), 2 of")


def test_an_audit_counts_relatives_by_kind_of_sequence(collection):
    document = audit_collection(collection, TASK, SplitRule(text="column:part"))
    found = {
        kind: {each["rule"].split()[1]: each for each in rules}
        for kind, rules in document["relatives"].items()
    }
    assert [*found] == ["protein", "dna"]
    protein = found["protein"]["homologs,"]
    assert (protein["rows"], protein["groups"], protein["largest"]) == (80, 40, 2)
    assert (protein["test"], protein["copies"], protein["relatives"]) == (20, 0, 20)
    assert found["protein"]["4-mers,"]["relatives"] < 20
    dna = found["dna"]["homologs,"]
    assert (dna["rows"], dna["groups"], dna["test"], dna["relatives"]) == (20, 10, 5, 5)
    doubts = [each for each in document["warnings"] if "have relatives in train" in each]
    assert len(doubts) == 2
    assert doubts[0].startswith("20 of 20 test rows (100 %) have relatives in train (protein homo")
    text = audit_text(document)
    assert "protein homologs, 4 shared 6-mers, 1 % of the shorter    80      40" in text
    assert "20 (100 %)" in text


def test_a_split_by_homologs_leaves_no_relatives(collection):
    split = make_split(SplitRule(text="group:homolog"), collection, np.arange(100), 0)
    assert split.rule.startswith(
        "protein homologs, 4 shared 6-mers, 1 % of the shorter and dna homologs, 8 shared 14-mers, "
        "5 % of the shorter in 50 groups"
    )
    parts = {row: part for part, rows in split.parts.items() for row in rows.tolist()}
    assert all(parts[at] == parts[at + 1] for at in range(0, 100, 2))
    document = audit_collection(collection, TASK, SplitRule(text="group:homolog"))
    assert [each["relatives"] for own in document["relatives"].values() for each in own] == [0] * 4
    assert not [each for each in document["warnings"] if "relatives" in each]
    folds = SplitRule(text="group:homolog", folds=5, fold=1)
    assert "fold 1 of 5" in make_split(folds, collection, np.arange(100), 0).rule
