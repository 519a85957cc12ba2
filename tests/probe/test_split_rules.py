"""Split rules: each form is followed, groups never straddle, unknown ones are refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import BadInput
from embedstore.records import Record
from embedstore.store.collection import Collection, make_table
from embedstore.synthetic import make_genes
from probe.split_rules import SplitRule, make_split
from probe.splits import column_split, fold_split, group_split, random_split

N = 60
IDS = [f"gene-{number}" for number in range(N)]
ALL = np.arange(N)


@pytest.fixture(scope="module")
def collection():
    """Rows 2i and 2i + 1 share their protein; the last four are no coding sequences."""
    texts = []
    for text in make_genes(N // 2, seed=5).sequences:
        body = text[:-6]
        texts += [body + "CUUUAA", body + "CUCUAA"]
    texts[-4:] = [text + "A" for text in texts[-4:]]
    columns = {
        "part": [("train", "train", "train", "Dev", "test")[row % 5] for row in range(N)],
        "species": [None if row == 7 else f"species {row // 6}" for row in range(N)],
    }
    rows = [Record(id, text, "mrna") for id, text in zip(IDS, texts, strict=True)]
    return Collection("genes", make_table(rows, pa.table(columns)))


def part_of(split):
    return {split.ids[row]: part for part, rows in split.parts.items() for row in rows.tolist()}


def straddlers(split, values):
    """Values that stand in more than one part."""
    seen: dict[str, set[str]] = {}
    parts = part_of(split)
    for id, value in zip(split.ids, values, strict=True):
        if value is not None:
            seen.setdefault(value, set()).add(parts[id])
    return {value for value, where in seen.items() if len(where) > 1}


def test_random_is_the_split_of_the_paper(collection):
    split = make_split(SplitRule(), collection, ALL, 3)
    assert split.digest == random_split(IDS, 3).digest


def test_rows_of_one_view_stay_together(collection):
    proteins, mrnas = (collection.keys(view) for view in ("protein", "mrna"))
    assert straddlers(make_split(SplitRule(), collection, ALL, 0), proteins)
    for text in ("group:view", "group:protein", "group:kmer"):
        split = make_split(SplitRule(text=text), collection, ALL, 0)
        assert not straddlers(split, proteins), text
        assert {part: len(rows) for part, rows in split.parts.items()} == pytest.approx(
            {"train": 42, "validation": 9, "test": 9}, abs=1
        )
    assert straddlers(make_split(SplitRule(text="group:mrna"), collection, ALL, 0), proteins)
    assert not straddlers(make_split(SplitRule(text="group:mrna"), collection, ALL, 0), mrnas)


def test_rules_are_told_in_words(collection):
    def rule(text, **folds):
        return make_split(SplitRule(text=text, **folds), collection, ALL, 0).rule

    # 28 pairs of one protein, and four rows without
    assert rule("group:view") == "identical view in 32 groups 0.7:0.15:0.15"
    assert rule("group:kmer").startswith("protein 4-mers, Jaccard 0.2 and dna 11-mers, Jaccard 0.2")
    assert rule("group:species", folds=5) == (
        "identical species (1 row without species is a group of its own) fold 0 of 5"
    )
    assert rule("column:part") == "column part"


def test_a_row_without_a_value_is_a_group_of_its_own(collection):
    split = make_split(SplitRule(text="group:species"), collection, ALL, 0)
    assert not straddlers(split, collection.table.column("species").to_pylist())
    assert "in 11 groups" in split.rule  # ten species and row 7


def test_a_column_says_where_rows_go(collection):
    parts = part_of(make_split(SplitRule(text="column:part"), collection, ALL, 0))
    assert [parts[id] for id in IDS[:5]] == ["train", "train", "train", "validation", "test"]


def test_a_saved_split_serves_other_runs(collection, tmp_path):
    path = tmp_path / "split.json"
    whole = make_split(SplitRule(text="group:view"), collection, ALL, 0)
    whole.save(path)
    again = make_split(SplitRule(text=str(path)), collection, ALL[::-1], 9)
    assert (again.digest, again.rule, again.seed) == (whole.digest, whole.rule, 0)
    some = make_split(SplitRule(text=str(path)), collection, ALL[:50], 9)  # fewer rows
    assert part_of(some).items() <= part_of(whole).items()
    with pytest.raises(BadInput, match="too few"):
        make_split(SplitRule(text=str(path)), collection, ALL[:6], 9)


def test_mmseqs_clusters_proteins_and_the_rest_apart(collection, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "probe.split_rules.cluster_with_mmseqs",
        lambda texts: asked.append(texts) or np.arange(len(texts)),
    )
    split = make_split(SplitRule(text="group:mmseqs"), collection, ALL, 0)
    assert "mmseqs protein and mmseqs dna in 60 groups" in split.rule
    assert [len(texts) for texts in asked] == [56, 4]
    assert set("".join(asked[1])) == set("ACGT")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stratified", "no rule and no file"),
        ("group:", "no rule and no file"),
        ("column:", "no rule and no file"),
        ("column:fold", "no column 'fold'"),
        ("group:genus", "no column 'genus'.*part, species"),
        ("column:species", "says 'species 0' of gene-0"),
        ("nowhere/split.json", "no rule and no file"),
    ],
)
def test_what_cannot_be_followed_is_refused(collection, text, problem):
    with pytest.raises(BadInput, match=problem):
        make_split(SplitRule(text=text), collection, ALL, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"text": "column:part", "folds": 5},
        {"text": "split.json", "folds": 5},
        {"fold": 2},
    ],
)
def test_folds_without_sense_are_refused(options):
    with pytest.raises(BadInput):
        SplitRule(**options)


def test_blank_cells_join_nothing_and_are_counted(collection):
    blanks = pa.array(["", "  ", None, "x ", " x", "NA", "NA", *[f"g{row}" for row in range(53)]])
    for column in (blanks, blanks.dictionary_encode(), blanks.cast(pa.string_view())):
        table = collection.table.append_column("cl", column)
        made = make_split(SplitRule(text="group:cl"), Collection("genes", table), ALL, 0)
        assert made.rule == (
            "identical cl (3 rows without cl are each a group of their own; all 2 rows of 'NA' are "
            "one) in 58 groups 0.7:0.15:0.15"
        )
    numbers = pa.array([float("nan"), float("nan"), *map(float, range(58))])
    table = collection.table.append_column("cl", numbers)
    made = make_split(SplitRule(text="group:cl"), Collection("genes", table), ALL, 0)
    assert "2 rows without cl" in made.rule and "in 60 groups" in made.rule


def test_a_blank_part_is_an_error_that_names_the_row(collection):
    parts = pa.array([" Train ", "", *["train", "dev", "test"] * 19, "test"])
    table = collection.table.append_column("where", parts)
    with pytest.raises(BadInput, match="says nothing of gene-1"):
        make_split(SplitRule(text="column:where"), Collection("genes", table), ALL, 0)


def test_classes_are_split_by_class_unless_the_paper_is_asked_for(collection):
    classes = (ALL % 4 == 0).astype(np.int64)
    by_class = make_split(SplitRule(), collection, ALL, 0, classes)
    assert by_class.rule == "random by class 0.7:0.15:0.15"
    counts = {part: int(classes[rows].sum()) for part, rows in by_class.parts.items()}
    assert sum(counts.values()) == 15 and counts["train"] in (10, 11)
    plain = make_split(SplitRule(text="random-plain"), collection, ALL, 0, classes)
    assert plain.digest == random_split(IDS, 0).digest
    folds = [SplitRule(folds=5, fold=fold) for fold in range(5)]
    tests = [make_split(rule, collection, ALL, 0, classes).test for rule in folds]
    assert [int(classes[rows].sum()) for rows in tests] == [3] * 5
    grouped = make_split(SplitRule(text="group:view"), collection, ALL, 0, classes)
    assert not straddlers(grouped, collection.keys("protein"))
    assert "groups by class" in grouped.rule


# ---- the splits themselves


@given(
    groups=st.lists(st.integers(0, 25), min_size=40, max_size=40),
    order=st.permutations(range(40)),
    seed=st.integers(0, 99),
)
def test_group_splits_depend_on_who_is_with_whom_alone(groups, order, seed):
    ids, number = IDS[:40], np.array(groups)
    try:
        one = group_split(ids, number, seed, rule="mine")
    except BadInput:
        return  # groups too large
    assert not straddlers(one, groups)
    other = group_split([ids[at] for at in order], 7 - number[list(order)], seed, rule="mine")
    assert other.digest == one.digest


def test_groups_too_large_are_refused():
    with pytest.raises(BadInput, match=r"too few.*form 2 groups"):
        group_split(IDS, np.arange(N) % 2, 0, rule="mine")


@given(folds=st.integers(3, 10), seed=st.integers(0, 99), grouped=st.booleans())
def test_over_all_folds_each_row_is_tested_once(folds, seed, grouped):
    groups = np.arange(N) // 2 if grouped else None
    splits = [fold_split(IDS, seed, folds=folds, fold=f, groups=groups) for f in range(folds)]
    assert sorted(row for split in splits for row in split.test.tolist()) == list(range(N))
    for split, following in zip(splits, [*splits[1:], splits[0]], strict=True):
        assert split.validation.tolist() == following.test.tolist()
        assert len(split.train) + len(split.validation) + len(split.test) == N
        assert not grouped or not straddlers(split, list(groups))
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= (2 if grouped else 1)


@pytest.mark.parametrize(("folds", "fold"), [(2, 0), (5, 5), (5, -1)])
def test_folds_that_are_not_there_are_refused(folds, fold):
    with pytest.raises(BadInput, match="no fold"):
        fold_split(IDS, 0, folds=folds, fold=fold)


def test_a_row_without_a_part_is_named():
    with pytest.raises(BadInput, match="says nothing of gene-1"):
        column_split(IDS[:2], ["train", None], "part")
