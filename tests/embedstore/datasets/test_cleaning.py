"""Cleaning keeps what the preset says, counts what it drops, and averages what repeats."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.datasets.cleaning import AVERAGED, clean
from embedstore.datasets.entry import Preset
from embedstore.datasets.registry import find_data_set
from embedstore.dogma import Unreadable, check_coding
from embedstore.errors import BadInput
from embedstore.records import check_sequence

ENTRY = replace(find_data_set("icodon-test"), id_column="gene_id")
ALL = Preset(coding=False, max_nt=None)

GENES = [
    "ATGGCTAAATAA",
    "augGCUaaaUAA",
    "ATGAAATAA",
    "ATGTAAAAATAA",
    "GCTAAATAA",
    "ATGGC",
    "ATGAAA",
]
sequences = st.sampled_from([*GENES, "", "ATG!", "ATG GCT AAA TAA", "MKL", None])


def table(texts, labels=None, **columns):
    labels = list(range(len(texts))) if labels is None else labels
    ids = [f"g{number}" for number in range(len(texts))]
    return pa.table(
        {"gene_id": ids, "coding": pa.array(texts, pa.string()), "decay_rate": labels, **columns}
    )


def readable(text):
    try:
        return check_sequence("x", text or "", "mrna", "x").sequence
    except BadInput:
        return None


def is_coding(text):
    try:
        check_coding(text)
    except Unreadable:
        return False
    return True


@settings(deadline=None)  # the first example loads parts of pyarrow
@given(
    rows=st.lists(st.tuples(sequences, st.floats(-9, 9) | st.none()), min_size=1, max_size=25),
    coding=st.booleans(),
    max_nt=st.none() | st.integers(6, 12),
    average=st.booleans(),
)
def test_what_is_kept_and_averaged_is_what_a_plain_loop_finds(rows, coding, max_nt, average):
    expected: dict[str, list[float | None]] = {}
    for text, label in rows:
        mrna = readable(text)
        if mrna and (is_coding(mrna) or not coding) and len(mrna) <= (max_nt or 99):
            expected.setdefault(mrna, []).append(label)
    preset = Preset(coding=coding, max_nt=max_nt, average=average)
    source = table([text for text, _ in rows], pa.array([y for _, y in rows], pa.float64()))
    if not expected:
        with pytest.raises(BadInput, match="No row of icodon-test is left"):
            clean(ENTRY, source, preset)
        return
    records, steps = clean(ENTRY, source, preset)
    found = [row.sequence for row in records.rows]
    assert len({row.id for row in records.rows}) == len(records.rows)
    assert steps[-1].left == len(found)
    assert sum(step.dropped for step in steps) == len(rows) - len(found)
    for before, after in pairwise(steps):
        assert after.left == before.left - after.dropped
    labels = records.labels.column("decay_rate").to_pylist()
    if not average:
        assert Counter(zip(found, map(repr, labels), strict=True)) == Counter(
            (text, repr(label)) for text, group in expected.items() for label in group
        )
        return
    assert found == list(expected)  # in the order in which they first stand
    assert records.labels.column(AVERAGED).to_pylist() == [len(g) for g in expected.values()]
    for label, group in zip(labels, expected.values(), strict=True):
        there = [value for value in group if value is not None]
        if there:
            assert label == pytest.approx(math.fsum(there) / len(there), abs=1e-12)
        else:
            assert label is None


def test_averaged_rows_keep_their_different_texts_and_the_mean_of_other_numbers():
    source = table(
        [GENES[0], GENES[2], GENES[1]],
        [1.0, 5.0, 2.0],
        specie=["human", "fish", "mouse"],
        cell=["x", "x", "x"],
        utr=[10, 20, 30],
    )
    records, _ = clean(ENTRY, source, replace(ALL, average=True))
    assert [row.id for row in records.rows] == ["g0;g2", "g1"]
    assert records.labels.to_pydict() == {
        "decay_rate": [1.5, 5.0],
        "specie": ["human;mouse", "fish"],
        "cell": ["x", "x"],
        "utr": [20.0, 20.0],
        AVERAGED: [2, 1],
    }


def test_every_reason_against_a_coding_sequence_is_counted():
    _, steps = clean(ENTRY, table(GENES), Preset())
    assert {step.what: step.dropped for step in steps if step.dropped} == {
        "no coding sequence: inner-stop-codon": 1,  # ATGTAAAAATAA
        "no coding sequence: no-start-codon": 1,  # GCTAAATAA
        "no coding sequence: length-not-codons": 1,  # ATGGC
        "no coding sequence: no-stop-codon": 1,  # ATGAAA
    }


def test_rows_are_kept_by_the_value_of_a_column():
    source = table(GENES[:3], passes=[1, 0, 1])
    records, steps = clean(ENTRY, source, replace(ALL, keep=("passes", 1)))
    assert [row.id for row in records.rows] == ["g0", "g2"]
    assert (steps[0].what, steps[0].dropped, steps[0].left) == ("passes is not 1", 1, 2)


@pytest.mark.parametrize("names", [["a", "a", "b"], ["a", None, "b"], ["a", "b\tc", "d"]])
def test_ids_that_cannot_serve_give_way_to_row_numbers_and_stay_as_a_column(names):
    source = table(["ATG!", *GENES[:2]]).set_column(0, "gene_id", pa.array(["x", *names[1:]]))
    if len(set(names)) < 3:
        source = source.set_column(0, "gene_id", pa.array(["x", "a", "a"]))
    records, _ = clean(ENTRY, source, ALL)
    assert [row.id for row in records.rows] == ["row-2", "row-3"]  # of the source, from 1
    assert "gene_id" in records.labels.column_names


def test_a_column_with_a_name_that_collections_keep_is_renamed():
    records, _ = clean(ENTRY, table(GENES[:1], molecule=["x"], id=[7]), ALL)
    assert records.labels.column_names == ["decay_rate", "source_molecule", "source_id"]


def test_a_column_that_is_not_there_is_named():
    source = table(GENES).drop_columns(["decay_rate"])
    with pytest.raises(BadInput, match=r"no column 'decay_rate'.*It has: gene_id, coding"):
        clean(ENTRY, source, ALL)
