"""The audit: counts, leaks, outliers; what it warns of, what it refuses, what it lets pass."""

import json

import numpy as np
import pyarrow as pa
import pytest

from embedstore.records import Record
from embedstore.store.collection import Collection, make_table
from embedstore.synthetic import make_genes
from probe.audit import audit_rows
from probe.audited import audit_collection, audit_text
from probe.splits import Split
from probe.tasks import Task

N = 100
RNG = np.random.default_rng(0)
BELL = RNG.normal(size=N)
APART = [f"{row:032x}" for row in range(N)]
TASK = Task(collection="genes", label="label", kind="regression")


def split_of(n=N):
    ids = tuple(f"row-{row}" for row in range(n))
    parts = np.split(np.arange(n), [int(0.7 * n), int(0.85 * n)])
    return Split(ids=ids, train=parts[0], validation=parts[1], test=parts[2], seed=0, rule="mine")


def collection_of(sequences, **labels):
    rows = [Record(f"gene-{at}", text, "mrna") for at, text in enumerate(sequences)]
    return Collection("genes", make_table(rows, pa.table(labels)))


def test_distinct_inputs_with_bell_shaped_labels_are_beyond_doubt():
    found = audit_rows(BELL, {"mrna": APART}, split_of())
    assert found.warnings == found.refusals == ()
    (view,) = found.views
    assert (view.rows, view.distinct, view.repeated, view.largest) == (N, N, 0, 1)
    assert (view.test, view.test_in_train) == (15, 0)
    assert found.parts == {"train": 70, "validation": 15, "test": 15}


def test_rows_of_one_input_are_counted():
    keys = ["a"] * 4 + ["b"] * 2 + [None] * 10 + APART[16:]
    (view,) = audit_rows(BELL, {"protein": keys}, split_of()).views
    assert (view.rows, view.distinct, view.repeated, view.largest) == (90, 86, 6, 4)


def test_test_rows_that_stand_in_train_are_counted_and_warned_of():
    keys = [*APART[:95], *APART[:4], None]  # rows 95 to 98 of the test repeat train, 99 has no view
    found = audit_rows(BELL, {"mrna": keys, "dna": keys, "cds": APART}, split_of())
    assert [(view.test, view.test_in_train) for view in found.views] == [(14, 4), (14, 4), (15, 0)]
    (warning,) = found.warnings
    assert warning.startswith("mrna, dna: 4 of 14 test rows (29 %) read an input that also stands")


def test_one_distinct_input_is_refused_with_the_reason():
    found = audit_rows(BELL, {"mrna": APART, "protein": ["a"] * N}, split_of())
    assert found.refusals == (
        "protein: all 100 rows read one and the same input, so any head gives them one answer and "
        "its score says nothing.",
    )
    assert found.warnings == ()  # the refusal says it all


def test_a_test_part_of_one_input_is_refused():
    keys = [*APART[:85], *["a"] * 15]
    (refusal,) = audit_rows(BELL, {"protein": keys}, split_of()).refusals
    assert "all 15 test rows read one and the same input" in refusal


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (slice(0, 70), "70 train labels are equal, so nothing can be learnt"),
        (slice(85, 100), "15 test labels are equal, so no score is defined"),
    ],
)
def test_constant_labels_are_refused(rows, why):
    targets = BELL.copy()
    targets[rows] = 0.5
    (refusal,) = audit_rows(targets, {"mrna": APART}, split_of()).refusals
    assert why in refusal


def test_labels_that_differ_within_an_input_are_a_ceiling():
    pairs = [APART[row // 2] for row in range(N)]
    found = audit_rows(BELL, {"mrna": pairs}, split_of())
    assert "100 rows share an input with others and their labels differ" in found.warnings[-1]
    assert "no head can pass" in found.warnings[-1]


def test_outliers_are_named():
    targets = BELL.copy()
    targets[17] = 99_999.0
    found = audit_rows(targets, {"mrna": APART}, split_of())
    assert found.outliers.furthest == "row-17" and found.outliers.score > 10_000
    (warning,) = found.warnings
    assert "row-17 is" in warning
    half = np.where(np.arange(N) < 60, 0.0, BELL)
    assert "Half of the labels" in audit_rows(half, {"mrna": APART}, split_of()).warnings[0]


def test_the_modified_z_score_is_the_hand_calculation():
    # median 3, deviations 2 1 0 1 97, MAD 1: 0.6745 * 97 = 65.4
    targets = np.tile([1.0, 2, 3, 4, 100], 20)
    outliers = audit_rows(targets, {"mrna": APART}, split_of()).outliers
    assert outliers.count == 20
    assert outliers.score == pytest.approx(65.4265)


def test_a_class_of_nearly_all_rows_is_warned_of():
    classes = (np.arange(N) % 20 == 0).astype(np.int64)
    found = audit_rows(classes, {"mrna": APART}, split_of(), ("no", "yes"))
    assert found.majority == 0.95 and found.outliers is None
    assert "95 % of all rows are of one class" in found.warnings[0]


def test_values_of_many_positions_are_audited_by_their_mean():
    matrix = np.stack([BELL - 1, BELL + 1, np.full(N, np.nan)], axis=1)
    one, flat = (audit_rows(each, {"mrna": APART}, split_of()) for each in (matrix, BELL))
    assert one.outliers.score == pytest.approx(flat.outliers.score)


def test_an_audit_is_strict_json():
    found = audit_rows(np.r_[np.zeros(60), BELL[60:]], {"protein": ["a"] * N}, split_of())
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["rows"] == N


def test_a_collection_of_one_protein_is_refused_in_its_protein_view_alone():
    # synonyms of one protein: every leucine written in one of six codons
    rng = np.random.default_rng(3)
    codons = ["CUU", "CUC", "CUA", "CUG", "UUA", "UUG"]
    genes = ["AUG" + "".join(rng.choice(codons, 40)) + "UAA" for _ in range(60)]
    document = audit_collection(collection_of(genes, label=rng.normal(size=60)), TASK)
    views = {view["view"]: view["distinct"] for view in document["views"]}
    assert views == {"mrna": 60, "dna": 60, "protein": 1, "cds": 60}
    (refusal,) = document["refusals"]
    assert refusal.startswith("protein: all 60 rows read one and the same input")
    text = audit_text(document)
    assert f"refused: {refusal}" in text
    assert "60 of 60 records used" in text


def test_lists_of_numbers_are_audited_by_their_mean():
    made = make_genes(40, seed=2)
    lists = [[value, value + 2, None] for value in made.label.tolist()]
    lists[5] = []
    one = audit_collection(collection_of(made.sequences, label=lists), TASK)
    assert one["unit"] == "label, mean over positions"
    assert one["dropped"] == {"no label": 1} and one["rows"] == 39


def test_a_view_that_no_row_has_is_left_out_of_the_table():
    noncoding = ["".join(RNG.choice([*"ACGU"], 40)) for _ in range(40)]
    document = audit_collection(collection_of(noncoding, label=RNG.normal(size=40)), TASK)
    text = audit_text(document)
    assert "\nmrna " in text and "\nprotein" not in text
    assert text.endswith("nothing to warn of\n")


def parted(train, validation, test):
    """Class numbers by part, and their split."""
    targets = np.array([*train, *validation, *test])
    ends = np.cumsum([len(train), len(validation)])
    parts = np.split(np.arange(len(targets)), ends)
    ids = tuple(f"row-{row}" for row in range(len(targets)))
    return targets, Split(
        ids=ids, train=parts[0], validation=parts[1], test=parts[2], seed=0, rule="mine"
    )


def audit_classes(train, validation, test, names=("a", "b", "rare")):
    targets, split = parted(train, validation, test)
    return audit_rows(targets, {"mrna": APART[: len(targets)]}, split, names)


def test_a_class_that_train_does_not_have_lowers_the_ceiling_and_is_told():
    found = audit_classes([0, 1] * 20, [0, 1] * 5, [2] * 5 + [0, 1, 0, 1, 0])
    (accuracy,) = found.views[0].ceilings
    assert accuracy.bound == pytest.approx(55 / 60)
    said = " ".join(found.warnings)
    assert "'rare' (5 rows) is absent from train" in said
    assert (
        "5 of the 10 test rows are wrong from the start, and the best accuracy there is 0.500"
        in said
    )
    assert "'rare' (5 rows) is absent from validation" in said
    assert "share an input" not in said  # nothing is shared
    assert found.as_json()["classes"]["rare"] == {"train": 0, "validation": 0, "test": 5}


def test_a_part_of_one_class_and_a_class_of_few_rows_are_told():
    found = audit_classes([0, 1] * 20, [0, 1] * 5, [0] * 10, ("a", "b"))
    assert any(each.startswith("All 10 test rows are of one class, 'a'") for each in found.warnings)
    assert any("'b' (25 rows) is absent from test" in each for each in found.warnings)
    found = audit_classes([0, 1] * 20 + [2], [0, 1] * 5, [0, 1] * 5)
    assert any("'rare' (1 row) has fewer than 3 rows" in each for each in found.warnings)


def test_every_class_in_every_part_is_beyond_doubt():
    found = audit_classes([0, 1] * 20, [0, 1] * 5, [0, 1] * 5, ("a", "b"))
    assert found.warnings == found.refusals == ()


def test_one_output_that_is_equal_in_a_part_is_refused_by_name():
    other = BELL[::-1].copy()
    other[85:] = 2.0
    found = audit_rows(BELL, {"mrna": APART}, split_of(), outputs={"one": BELL, "two": other})
    assert found.refusals == ("All 15 test labels of two are equal, so no score is defined.",)


def test_an_audit_of_classes_shows_them_by_part_and_counts_what_is_left_out():
    made = make_genes(80, seed=2)
    names = [("pos", "neg", "", "NA")[row % 4] for row in range(80)]
    task = Task(collection="genes", label="label", kind="classification")
    document = audit_collection(collection_of(made.sequences, label=names), task)
    text = audit_text(document)
    assert "60 of 80 records used; left out: 20 no label" in text
    assert "\nclass  train  validation  test\nNA " in text
    assert "warning: A class of label is named like a missing value: 'NA' (20 rows)" in text
    assert all(min(each.values()) >= 3 for each in document["classes"].values())
