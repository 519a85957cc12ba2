"""Labels of a collection: what is kept, what is dropped and counted, what is refused."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import BadInput
from probe.objective import Objective, Scale
from probe.tasks import Task, infer_kind, read_labels


def table(values, letters=None):
    count = len(values)
    return pa.table(
        {
            "id": [f"r{row}" for row in range(count)],
            "sequence": ["A" * n for n in letters or [30] * count],
            "molecule": ["mrna"] * count,
            "label": values if isinstance(values, pa.Array) else pa.array(values),
            "key_mrna": ["0" * 32] * count,
        }
    )


def task(kind="regression", **options):
    return Task(collection="genes", label="label", kind=kind, **options)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "classification"),
        ([True, False], "classification"),
        ([1, 2], "regression"),
        ([1.5, 2.5], "regression"),
    ],
)
def test_text_and_truth_values_are_classes_and_numbers_are_not(values, kind):
    assert infer_kind(table(values), "label") == kind


def test_an_unknown_label_column_lists_those_there_are():
    with pytest.raises(BadInput, match=r"no label column 'halflife'\. Known: label"):
        infer_kind(table([1.0]), "halflife")


@pytest.mark.parametrize("column", ["id", "sequence", "molecule", "key_mrna"])
def test_our_own_columns_are_no_labels(column):
    with pytest.raises(BadInput, match="no label column"):
        infer_kind(table([1.0]), column)


def test_lists_of_numbers_are_labels_of_positions_and_others_are_none():
    assert infer_kind(table([[1.0], [2.0]], letters=[1, 1]), "label") == "per-position"
    with pytest.raises(BadInput, match="list"):
        infer_kind(table([["a"], ["b"]]), "label")


def test_lists_make_a_matrix_with_what_is_missing_as_nan():
    found = read_labels(
        table([[1.0, 2.0], [None, 3.0, math.nan], [], None, [None]]), task("per-position")
    )
    assert found.rows.tolist() == [0, 1]
    assert found.dropped == {"no label": 3}
    np.testing.assert_array_equal(found.targets, [[1, 2, math.nan], [math.nan, 3, math.nan]])
    assert found.positions.tolist() == [2, 3]


def test_a_transform_reaches_every_position():
    found = read_labels(table([[1.0, 2.0], [4.0, None]]), task("per-position", transform="log2"))
    np.testing.assert_array_equal(found.targets, [[0, 1], [2, math.nan]])
    with pytest.raises(BadInput, match=r"r1 has the label 0, which has no log2"):
        read_labels(table([[1.0, 2.0], [4.0, 0.0]]), task("per-position", transform="log2"))


def test_a_list_longer_than_its_sequence_names_the_record():
    with pytest.raises(BadInput, match="r1 has 3 labels for 2 positions"):
        read_labels(table([[1.0], [1.0, 2.0, 3.0]], letters=[2, 2]), task("per-position"))


def test_several_columns_are_several_outputs_and_rows_need_all():
    both = table([1.0, None, 3.0, 4.0]).append_column("more", pa.array([5, 6, None, 8]))
    several = Task(collection="genes", label="label,more", kind="regression", transform="log2")
    assert infer_kind(both, several.label) == "regression"
    found = read_labels(both, several)
    assert found.rows.tolist() == [0, 3]
    np.testing.assert_allclose(found.targets, np.log2([[1, 5], [4, 8]]))
    assert found.dropped == {"no label": 1, "no more": 1}
    assert several.units == ("log2(label)", "log2(more)")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"label": "a,b", "kind": "classification"}, "2 columns of one classification"),
        ({"label": "a,a", "kind": "regression"}, "names a column twice"),
        ({"label": "a", "kind": "regression", "balance": True}, "no classes to balance"),
        ({"label": "a", "kind": "regression", "scored_by": "accuracy"}, "not scored by accuracy"),
        ({"label": "a", "kind": "classification", "scored_by": "pearson"}, "not scored by pearson"),
        ({"label": "a", "kind": "per-position", "min_label": 1.0}, "no smallest one"),
    ],
)
def test_what_a_kind_of_task_does_not_have_is_refused(options, problem):
    with pytest.raises(BadInput, match=problem):
        Task(collection="genes", **options)


def test_the_usual_metric_by_name_is_the_same_task():
    assert task(scored_by="spearman") == task()
    other = task("classification", scored_by="macro-f1", balance=True)
    assert other.metric == "macro-f1"
    assert Task.from_json(other.as_json()) == other
    older = {name: value for name, value in task().as_json().items() if name != "balance"}
    assert Task.from_json(older) == task()


def test_classes_weigh_as_much_as_they_are_rare_and_one_on_average():
    train = np.array([0, 0, 0, 2, 2, 0])
    found = Objective.fit(task("classification", balance=True), ("a", "b", "c"), train)
    assert found.weights == pytest.approx((0.75, 1.0, 1.5))
    assert np.mean(np.array(found.weights)[train]) == pytest.approx(1)
    assert Objective.fit(task("classification"), ("a", "b", "c"), train).weights is None


def test_each_output_has_its_own_scale_and_their_mean_score_counts():
    several = Task(collection="genes", label="a,b", kind="regression")
    train = np.array([[1.0, 100], [2, 300], [6, 200]])
    found = Objective.fit(several, (), train)
    values = found.training_values(train)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(found.decode(values), train, rtol=1e-6)
    assert found.scores(train * [1, -1], train) == pytest.approx([1, -1])
    assert found.score(train * [1, -1], train) == pytest.approx(0)
    with pytest.raises(BadInput, match="nothing to learn"):
        Objective.fit(several, (), np.array([[1.0, 5], [2, 5]]))


def test_positions_without_a_label_do_not_enter_the_score():
    nan = math.nan
    targets = np.array([[1.0, nan, 2], [3, 4, nan]])
    found = Objective.fit(task("per-position"), (), targets)
    predicted = np.array([[1.0, 99, 2], [3, 4, -99]])
    assert found.score(predicted, targets) == pytest.approx(1)
    assert found.outputs == 3
    assert Objective.fit(task("per-position"), (), targets, by_token=True).outputs == 1


def test_rows_without_a_label_are_dropped_and_counted():
    labels = read_labels(table([1.0, None, math.nan, 4.0]), task())
    assert labels.rows.tolist() == [0, 3]
    assert labels.targets.tolist() == [1.0, 4.0]
    assert labels.dropped == {"no label": 2}


def test_filters_drop_rows_and_count_each_once():
    found = read_labels(
        table([1.0, 5.0, 9.0, 7.0, None], [10, 10, 99, 10, 99]), task(min_label=4, max_letters=50)
    )
    assert found.targets.tolist() == [5.0, 7.0]
    assert found.dropped == {
        "no label": 1,
        "sequence longer than 50 letters": 1,
        "label below 4": 1,
    }


def test_the_minimum_is_in_the_unit_of_the_column():
    found = read_labels(table([1.0, 8.0, 16.0]), task(transform="log2", min_label=8))
    assert found.targets.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(("transform", "value"), [("log2", 0.0), ("log10", -2.0), ("log1p", -1.0)])
def test_a_label_without_a_logarithm_names_the_record(transform, value):
    with pytest.raises(BadInput, match=f"r1 has the label .* no {transform}"):
        read_labels(table([1.0, value, 3.0]), task(transform=transform))


def test_an_infinite_label_names_the_record():
    with pytest.raises(BadInput, match="r1 is infinite"):
        read_labels(table([1.0, math.inf, 3.0]), task())


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [None, 1.0, None]])
def test_labels_that_do_not_differ_are_refused(values):
    with pytest.raises(BadInput, match="do not differ"):
        read_labels(table(values), task())


def test_classes_are_named_in_order_and_numbered():
    found = read_labels(table(["low", None, "high", "low", "high"]), task("classification"))
    assert found.classes == ("high", "low")
    assert found.targets.tolist() == [1, 0, 1, 0]
    assert found.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([True, False, True, False], ("false", "true")),
        ([3, 1, 3, 1], ("1", "3")),
        ([3.0, 1.0, None, 3.0, 1.0], ("1", "3")),
    ],
)
def test_truth_values_and_whole_numbers_can_be_classes(values, classes):
    assert read_labels(table(values), task("classification")).classes == classes


def test_a_fraction_is_no_class():
    with pytest.raises(BadInput, match=r"r1 has the label 2\.5"):
        read_labels(table([1.0, 2.5]), task("classification"))


@pytest.mark.parametrize("values", [["a", "a", "a"], ["a", "b", "c"]])
def test_one_class_and_a_class_a_row_are_refused(values):
    with pytest.raises(BadInput, match="classes in 3 rows"):
        read_labels(table(values), task("classification"))


def test_text_cannot_be_regressed():
    with pytest.raises(BadInput, match="--kind classification"):
        read_labels(table(["low", "high"]), task())


def test_classes_have_no_logarithm():
    with pytest.raises(BadInput, match="no logarithm"):
        task("classification", transform="log2")


@pytest.mark.parametrize(
    "options", [{"kind": "ranking"}, {"transform": "sqrt"}, {"max_letters": 0}]
)
def test_a_task_with_an_unknown_value_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        task(**options)


def test_a_task_comes_back_from_its_json():
    one = task(transform="log1p", min_label=2.0, max_letters=900)
    assert Task.from_json(one.as_json()) == one
    assert one.as_json()["metric"] == "spearman"
    assert one.unit == "log1p(label)"
    with pytest.raises(ValueError, match="accuracy"):
        Task.from_json(one.as_json() | {"metric": "accuracy"})


LABELS = st.floats(-1e6, 1e6).map(lambda value: round(value, 9))  # closer ones are refused


@given(st.lists(LABELS, min_size=3, max_size=20, unique=True))
def test_the_scale_is_undone_exactly_enough(values):
    targets = np.array(values)
    scale = Scale.fit(targets)
    standard = scale.standardise(targets)
    assert standard.std() == pytest.approx(1)
    assert np.allclose(scale.restore(standard), targets, rtol=1e-9, atol=1e-9 * scale.std)


def test_constant_training_targets_are_refused():
    with pytest.raises(BadInput, match="nothing to learn"):
        Objective.fit(task(), (), np.array([2.0, 2.0]))


def test_the_constant_answer_is_the_mean_or_the_most_frequent_class():
    regression = Objective.fit(task(), (), np.array([1.0, 2.0, 6.0]))
    assert regression.constant(np.array([1.0, 2.0, 6.0])) == 3.0
    train = np.array([1, 0, 1, 2])
    classes = Objective.fit(task("classification"), ("a", "b", "c"), train)
    assert classes.constant(train) == 1
    assert classes.show(np.array([2, 0])) == ["c", "a"]
