"""Designs: rows that belong together, sizes, and the JSON that says them."""

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.documents import BadDocument
from probe.judging import Design, join_rows, read_design

FOLDS = Design(
    groups=np.array([4, 4, 7, 9, 9, 9]),
    tests=(np.array([0, 1]), np.array([2, 3]), np.array([4, 5])),
    train_rows=(4, 5, 4),
    table_rows=9,
    resplit="folds",
    seeds=(0, 1, 2),
    outputs=("x", "y"),
    positions=3,
    linked_by=("families", "shared inputs"),
)


def test_split_groups_and_shared_inputs_join():
    # a-b by family, b-c by input, so a, b, c are one; d and e share nothing; None joins nothing
    families = ["f1", "f1", "f2", "f3", None]
    inputs = ["i1", "i2", "i2", "i4", None]
    assert join_rows(list("abcde"), [families, inputs]).tolist() == [0, 0, 0, 1, 2]
    assert join_rows(list("ab"), []).tolist() == [0, 1]
    with pytest.raises(ValueError, match="2 rows"):
        join_rows(["a", "b"], [["x"]])


@given(
    values=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=12)
def test_the_order_of_rows_does_not_enter_the_groups(values, order):
    ids = [f"row{at:02}" for at in range(len(values))]
    shuffled = list(range(len(values)))
    order.shuffle(shuffled)
    columns = [list(column) for column in zip(*values, strict=True)]
    one = join_rows(ids, columns)
    other = join_rows(
        [ids[at] for at in shuffled], [[column[at] for at in shuffled] for column in columns]
    )
    assert np.array_equal(one[shuffled], other)


def test_unequal_groups_tell_less():
    # sizes 2, 1, 3: 6^2 / (4 + 1 + 9) = 2.571
    assert FOLDS.effective_groups == pytest.approx(36 / 14)
    assert Design.of_one_split(np.arange(8), 20).effective_groups == 8
    half = Design.of_one_split(np.array([0] * 50 + list(range(1, 51))), 200)
    assert half.effective_groups == pytest.approx(100**2 / (50**2 + 50))  # about 4 of 51
    assert "51 groups" in half.words() and "3.9 groups of one size" in half.words()


def test_a_row_that_several_splits_test_counts_as_often():
    design = Design(
        groups=np.arange(3),
        tests=(np.array([0, 1]), np.array([0, 2])),
        train_rows=(6, 6),
        table_rows=10,
        resplit="repeats",
    )
    assert design.effective_groups == pytest.approx(4**2 / (2**2 + 1 + 1))
    assert design.train_share == 0.6


def test_json_comes_back_as_it_was():
    again = read_design(json.dumps(FOLDS.document()).encode())
    for field in fields(Design):
        mine, theirs = getattr(FOLDS, field.name), getattr(again, field.name)
        if field.name == "tests":
            assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        else:
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("groups", []),
        ("groups", [1, -1]),
        ("groups", [0.5] * 6),
        ("tests", [[0, 1], [2, 3], [4, 6]]),
        ("tests", [[0, 0], [2, 3], [4, 5]]),
        ("tests", [[0, 1], [2, 3], [3, 4]]),
        ("tests", [[0, 1], [2, 3], []]),
        ("train_rows", [4]),
        ("table_rows", 5),
        ("resplit", "one"),
        ("resplit", "sometimes"),
        ("seeds", [1, 1]),
        ("seeds", []),
        ("outputs", []),
        ("positions", 0),
        ("surprise", 1),
    ],
)
def test_a_damaged_design_is_refused(field, value):
    document = {**FOLDS.document(), field: value}
    if (field, value) == ("tests", [[0, 1], [2, 3], [3, 4]]):  # row 3 twice and row 5 never
        document["groups"] = document["groups"][:5]
    with pytest.raises(BadDocument):
        read_design(json.dumps(document).encode())
