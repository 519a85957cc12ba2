"""Splits: a function of the set of ids and the seed; saved by id."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.documents import seal
from embedstore.errors import BadInput, NewerFormat
from probe.splits import load_split, random_split

IDS = [f"gene-{number}" for number in range(40)]


def ids_of(split):
    return {part: [split.ids[row] for row in rows] for part, rows in split.parts.items()}


@given(order=st.permutations(IDS), seed=st.integers(0, 2**32))
def test_the_order_of_rows_changes_nothing(order, seed):
    split, other = random_split(IDS, seed), random_split(order, seed)
    assert ids_of(split) == ids_of(other)
    assert split.digest == other.digest


@given(count=st.integers(20, 300), seed=st.integers(0, 99))
def test_every_row_is_in_exactly_one_part(count, seed):
    split = random_split([str(number) for number in range(count)], seed)
    assert sorted(np.concatenate(list(split.parts.values()))) == list(range(count))
    assert len(split.train) == round(0.7 * count)
    assert split.train.dtype == np.int64


def test_a_split_is_the_same_on_every_machine():
    # written by this code on 2026-11-22, numpy 2.4: a change here changes every published split
    split = random_split(IDS, 0)
    assert split.digest == "3b846e062879168f99b9a1dd8419e888"
    test = ids_of(split)["test"]
    assert test == [
        "gene-13",
        "gene-21",
        "gene-22",
        "gene-35",
        "gene-37",
        "gene-39",
    ]


def test_another_seed_gives_another_split():
    assert random_split(IDS, 0).digest != random_split(IDS, 1).digest


def test_the_digest_tells_the_parts_apart():
    split = random_split(IDS, 0, (0.70, 0.15, 0.15))
    assert random_split(IDS, 0, (0.15, 0.70, 0.15)).digest != split.digest


def test_a_saved_split_comes_back_for_rows_in_any_order(tmp_path):
    split = random_split(IDS, 3)
    split.save(tmp_path / "split.json")
    again = load_split(tmp_path / "split.json", IDS[::-1])
    assert ids_of(again) == ids_of(split)
    assert (again.seed, again.rule, again.digest) == (3, "random 0.7:0.15:0.15", split.digest)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


def test_other_ids_are_refused(tmp_path):
    random_split(IDS, 0).save(tmp_path / "split.json")
    with pytest.raises(BadInput, match="splits other ids"):
        load_split(tmp_path / "split.json", [*IDS[:-1], "stranger"])


def test_an_edited_split_is_refused(tmp_path):
    path = tmp_path / "split.json"
    random_split(IDS, 0).save(path)
    document = json.loads(path.read_text())
    document["train"].append(document["test"].pop())
    path.write_text(json.dumps(seal(document)))
    with pytest.raises(BadInput, match="was changed"):
        load_split(path, IDS)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, BadInput),
        ("{", BadInput),
        ("[]", BadInput),
        ('{"kind": "run", "format": 1}', BadInput),
        ('{"kind": "split"}', BadInput),
        ('{"kind": "split", "format": 1}', BadInput),
        ('{"kind": "split", "format": 3}', NewerFormat),
    ],
)
def test_a_file_that_is_no_split_is_refused(tmp_path, text, error):
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error):
        load_split(path, IDS)


def test_too_few_rows_are_refused():
    with pytest.raises(BadInput, match="10 rows are too few"):
        random_split(IDS[:10], 0)


def test_an_id_that_occurs_twice_is_named():
    with pytest.raises(BadInput, match="'gene-7' occurs more than once"):
        random_split([*IDS, "gene-7"], 0)


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_whole_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions"):
        random_split(IDS, 0, fractions)
