"""Columns of any Arrow type as labels: blanks, numbers in text, lists, huge values."""

import decimal

import numpy as np
import pyarrow as pa
import pytest

from embedstore.errors import BadInput
from probe.objective import Objective
from probe.tasks import Task, infer_kind, read_labels

STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


def table(values, letters=30, name="label"):
    column = values if isinstance(values, pa.Array) else pa.array(values)
    count = len(column)
    return pa.table(
        {
            "id": [f"a{row}" for row in range(count)],
            "sequence": ["A" * letters] * count,
            name: column,
        }
    )


def task(kind="regression", **options):
    return Task(collection="c", label="label", kind=kind, **options)


@pytest.mark.parametrize("dtype", STRINGS)
def test_blank_cells_are_no_label_and_class_names_are_stripped(dtype):
    texts = pa.array(["pos", " pos", "", "neg ", "\t", None, "neg"]).cast(dtype)
    found = read_labels(table(texts), task("classification"))
    assert found.classes == ("neg", "pos")
    assert found.rows.tolist() == [0, 1, 3, 6]
    assert found.dropped == {"no label": 3}


def test_classes_named_like_missing_values_stay_and_are_told():
    found = read_labels(table(["pos", "NA", "pos", "nan", "NA", "neg"] * 2), task("classification"))
    assert found.classes == ("NA", "nan", "neg", "pos")
    (note,) = found.notes
    assert "'NA' (4 rows), 'nan' (2 rows)" in note


@pytest.mark.parametrize("dtype", STRINGS)
def test_a_number_column_with_a_word_is_refused_by_name(dtype):
    cells = table(pa.array([*map(str, range(7)), "ND", *map(str, range(52))]).cast(dtype))
    for ask in (lambda: infer_kind(cells, "label"), lambda: read_labels(cells, task())):
        with pytest.raises(BadInput, match="label: 59 of 60 cells are numbers, a7 holds 'ND'"):
            ask()
    with pytest.raises(BadInput, match="--kind classification"):
        infer_kind(cells, "label")
    many = pa.array(["1", "2", "ND"] * 4)
    assert read_labels(table(many), task("classification")).classes == ("1", "2", "ND")


@pytest.mark.parametrize("odd", ["<0.1", ">100", "5%", "2 nM", "0x10", "1_000", "inf", "1e999"])
def test_what_is_no_number_is_named(odd):
    with pytest.raises(BadInput, match="3 of 4 cells are numbers, a2 holds"):
        infer_kind(table(["1.5", "2", odd, "4"]), "label")


@pytest.mark.parametrize(
    "cells", [["1\u00a0200", "1\u00a0300"], ["\u22121", "1"], ["1'200", "900"]]
)
def test_numbers_as_other_countries_write_them_are_no_classes(cells):
    with pytest.raises(BadInput, match="write such cells as"):
        infer_kind(table(cells * 6), "label")
    assert read_labels(table(cells * 6), task("classification")).classes == (*sorted(cells),)


def test_missing_marks_among_numbers_are_left_out_by_name():
    cells = table(["1.5", "NA", "2.5", "nan", "NA", "-", "", "4"])
    assert infer_kind(cells, "label") == "regression"
    found = read_labels(cells, task())
    assert found.targets.tolist() == [1.5, 2.5, 4]
    assert found.dropped == {"no label": 1, "'-'": 1, "'NA'": 2, "'nan'": 1}


def test_decimal_commas_are_read_where_they_are_asked_for():
    cells = table(["0,5", "1.234,5", "2,25"])
    with pytest.raises(BadInput, match="--decimal ,"):
        infer_kind(cells, "label")
    assert infer_kind(cells, "label", ",") == "regression"
    assert read_labels(cells, task(decimal=",")).targets.tolist() == [0.5, 1234.5, 2.25]
    with pytest.raises(BadInput, match=r"a1 holds '1\.234', which may be 1234 or 1\.234"):
        read_labels(table(["0,5", "1.234", "2,25"]), task(decimal=","))
    with pytest.raises(BadInput, match="read as numbers with a decimal point"):
        read_labels(table([1.5, 2.5]), task(decimal=","))
    with pytest.raises(BadInput, match="--decimal"):
        task("classification", decimal=",")


def test_a_task_with_a_comma_comes_back_and_one_with_a_point_is_as_it_ever_was():
    comma = task(decimal=",")
    assert Task.from_json(comma.as_json()) == comma and comma != task()
    assert "decimal" not in task().as_json()


def test_codes_stay_text_and_that_is_said():
    cells = table(["007", "12", "007", "12"])
    assert infer_kind(cells, "label") == "classification"
    found = read_labels(cells, task("classification"))
    assert found.classes == ("007", "12") and "'007' of a0" in found.notes[0]
    with pytest.raises(BadInput, match="a0 holds '007'"):
        read_labels(cells, task())


def test_whole_numbers_in_text_are_regressed_with_a_note():
    cells = table(["1", "2", "1", "2"])
    assert infer_kind(cells, "label") == "regression"
    assert "--kind classification" in read_labels(cells, task()).notes[0]


@pytest.mark.parametrize(
    "numbers",
    [
        pa.array(np.array([1, 2], np.float16)),
        pa.array([decimal.Decimal("1.0"), decimal.Decimal("2.0")]),
        pa.array([1.0, 2.0]).dictionary_encode(),
        pa.array([1, 2], pa.uint8()),
        pa.array([1.0, 2.0], pa.float32()),
    ],
)
def test_numbers_of_any_type_are_labels(numbers):
    assert infer_kind(table(numbers), "label") == "regression"
    assert read_labels(table(numbers), task()).targets.tolist() == [1, 2]


def test_columns_whose_names_begin_like_ours_are_labels():
    cells = table([1.0, 2.0], name="identity")
    assert infer_kind(cells, "identity") == "regression"


def test_lists_are_per_position_only_where_they_are_as_long_as_their_sequences():
    assert infer_kind(table([[0, 1, 0, 1, 1]] * 4, letters=5), "label") == "per-position"
    with pytest.raises(BadInput, match=r"lists of 5 numbers for sequences of 30 letters \(a0"):
        infer_kind(table([[0, 1, 0, 1, 1]] * 4), "label")
    with pytest.raises(BadInput, match="--kind per-position"):
        infer_kind(table([[0.5] * 5, [0.5] * 4, None], letters=5), "label")


@pytest.mark.parametrize("value", [1e300, -1e39, 10**40])
def test_labels_too_large_to_compute_with_name_the_row(value):
    cells = table(pa.array([1.0, 2.0, float(value)]))
    with pytest.raises(BadInput, match=r"The label of a2 is .*beyond the 1e\+30"):
        read_labels(cells, task())
    with pytest.raises(BadInput, match="a1 is"):
        read_labels(table([[1.0, 2.0], [3.0, float(value)]]), task("per-position"))
    if value > 0:
        assert np.isfinite(read_labels(cells, task(transform="log10")).targets).all()


def test_labels_too_close_to_compute_with_are_refused():
    with pytest.raises(BadInput, match="too little to compute with"):
        read_labels(table([1e-200, 2e-200, 3e-200]), task())
    train = np.array([1e-200, 2e-200])
    with pytest.raises(BadInput, match="too little"):
        Objective.fit(task(), (), train)


def test_labels_up_to_the_bound_are_computed_with():
    targets = read_labels(table([1e30, -1e30, 5e29]), task()).targets
    values = Objective.fit(task(), (), targets).training_values(targets)
    assert np.isfinite(values).all()


def test_a_column_without_any_value_says_so():
    for empty in (pa.nulls(3), pa.array(["", " ", None]), pa.array([None, None], pa.float64())):
        with pytest.raises(BadInput, match="No row has a value"):
            infer_kind(table(empty), "label")
