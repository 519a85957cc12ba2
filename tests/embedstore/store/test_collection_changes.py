"""Labels are never lost: a table under a known name may add, and a change is named."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import create_store, open_store
from embedstore.cli import app
from embedstore.errors import CollectionConflict
from embedstore.records import Record
from embedstore.store.collection import make_table
from embedstore.store.collection_changes import find_loss, unite
from embedstore.store.merge import merge

NAN = float("nan")
places = pytest.mark.parametrize("bucket", [False, True], ids=["disk", "bucket"])


def table(*ids, **labels):
    made = make_table([Record(name, "AUGGCC", "mrna") for name in ids], pa.table({}))
    for name, values in labels.items():
        column = values if isinstance(values, pa.Array) else pa.array(values)
        made = made.append_column(name, column)
    return made


def loss(old, new):
    """What `find_loss` tells of one label of one record."""
    return find_loss(table("a", x=old), table("a", x=new))


@pytest.mark.parametrize(
    "old, new",
    [
        ([1], [1.0]),
        ([1.5], [Decimal("1.5")]),
        (pa.array([2], pa.uint8()), pa.array([2], pa.int64())),
        (pa.array([0.5], pa.float16()), [0.5]),
        ([None], [NAN]),
        ([NAN], [None]),
        ([NAN], [NAN]),
        ([None], [3]),
        ([NAN], [3.0]),
        ([""], ["word"]),
        ([" \t"], [None]),
        (pa.array([None], pa.null()), ["word"]),
        (pa.array(["w"]).dictionary_encode(), ["w"]),
        (pa.array(["w"], pa.string_view()), ["w"]),
        (pa.array(["w"], pa.large_string()), ["w"]),
        ([[1, 2]], [[1.0, 2.0]]),
        ([[1.0, NAN]], [[1.0, None]]),
        ([[1.0, None]], [[1.0, 2.0]]),
        ([None], [[1, 2]]),
        ([[]], [None]),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)), [[1.0, 2.0]]),
        ([[["a"], []]], [[["a"], []]]),
        ([{"a": 1, "b": None}], [{"a": 1, "b": 2, "c": 3}]),
        ([True], [True]),
        ([2**53 + 1], pa.array([2**53 + 1], pa.uint64())),
    ],
)
def test_equal_values_and_additions_pass(old, new):
    assert loss(old, new) is None
    united, change = unite(table("a", x=old), table("a", x=new))
    assert change is None
    assert find_loss(table("a", x=old), united) is None
    assert find_loss(table("a", x=new), united) is None


@pytest.mark.parametrize(
    "old, new",
    [
        ([1.0], [2.0]),
        ([1], [None]),
        ([1.0], [NAN]),
        (["w"], [""]),
        (["w"], [None]),
        (["w"], ["v"]),
        (["1"], [1]),
        ([1], ["1"]),
        ([1], [True]),
        ([[1, 2]], [[1, 3]]),
        ([[1, 2]], [[1, 2, 3]]),
        ([[1, 2]], [None]),
        ([[1.0, 2.0]], [[1.0, NAN]]),
        ([1], [[1]]),
        ([{"a": 1}], [{"a": 2}]),
        ([{"a": 1}], [{"b": 1}]),
        ([2**53 + 1], [float(2**53)]),
        (pa.array(["w"]).dictionary_encode(), ["v"]),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)), [[1.0, 2.5]]),
    ],
)
def test_a_value_that_changes_or_goes_is_named(old, new):
    change = loss(old, new)
    assert (change.id, change.column) == ("a", "x")
    assert repr(change.old) == repr(table("a", x=old).column("x")[0].as_py())
    assert repr(change.new) == repr(table("a", x=new).column("x")[0].as_py())
    assert "id 'a': x was " in str(change)


def test_the_first_row_then_the_first_column_is_named():
    old = table("a", "b", "c", x=[1, 2, 3], y=["p", "q", "r"])
    new = table("c", "a", "b", y=["s", "p", "t"], x=[9, 1, 8])
    change = find_loss(old, new)
    assert (change.id, change.column, change.old, change.new) == ("b", "x", 2, 8)


def test_rows_in_another_order_more_rows_and_more_columns_pass():
    old = table("a", "b", x=[1, None])
    new = table("c", "b", "a", z=["n", "e", "w"], x=[3.0, 2.0, 1.0])
    assert find_loss(old, new) is None
    assert find_loss(new, old) is not None


@pytest.mark.parametrize("column", ["sequence", "molecule"])
def test_another_sequence_or_molecule_is_another_record(column):
    old = table("a", "b")
    at = old.column_names.index(column)
    other = {"sequence": ["AUGGCC", "AUGGCA"], "molecule": ["mrna", "dna"]}[column]
    new = old.set_column(at, column, pa.array(other, old.schema.field(column).type))
    change = find_loss(old, new)
    assert (change.id, change.column, change.new) == ("b", column, other[1])
    assert unite(old, new)[1] == change


@pytest.mark.parametrize(
    "old, new, same",
    [
        (None, None, True),
        (None, [{"start": 3, "stop": 9}], False),  # what it is read as would change
        ([{"start": 3, "stop": 9}], None, False),
        ([{"start": 3, "stop": 9}], [{"start": 3, "stop": 9}], True),
        ([{"start": 3, "stop": 9}], [{"start": 6, "stop": 9}], False),
        ([{"start": 3, "stop": 9}], [{"start": 3, "stop": 9, "code": 12}], False),
        ([{"start": 3, "stop": 9, "code": None}], [{"start": 3, "stop": 9}], True),
        (None, pa.array([None], pa.struct([("start", pa.int64())])), True),
    ],
)
def test_another_coding_region_is_another_record(old, new, same):
    read = make_table([Record("a", "AUGGCCUAA", "mrna")], pa.table({}))
    tables = [
        read
        if each is None
        else read.append_column(
            "coding_region", each if isinstance(each, pa.Array) else pa.array(each)
        )
        for each in (old, new)
    ]
    for one, other in (tables, tables[::-1]):
        change = find_loss(one, other)
        assert (change is None) == same
        assert (unite(one, other)[1] is None) == same
        assert same or change.column == "coding_region"


@places
def test_a_conflict_writes_nothing_and_replace_writes(tmp_path, bucket):
    store = create_store(f"memory://{uuid.uuid4().hex}/s" if bucket else tmp_path / "s")
    store.write_collection("genes", table("a", "b", x=[1, 2]))
    path = store.folder / "collections" / "genes.json"  # names the table file by its digest
    before = path.read_bytes()
    for new, said in (
        (table("a", "b", x=[1, 3]), "id 'b': x was 2 and would be 3"),
        (table("a", "b"), "label column 'x' is gone"),
        (table("a", x=[1]), "id 'b' changed or gone"),
    ):
        for act in (store.check_collection, store.write_collection):
            with pytest.raises(CollectionConflict, match=said):
                act("genes", new)
        assert path.read_bytes() == before
    assert store.write_collection("genes", table("b", "c", "a", x=[2.0, 4.0, 1.0], y=[1, 2, 3]))
    assert store.collection("genes").ids == ["b", "c", "a"]
    assert store.write_collection("genes", table("a", x=[7]), replace=True)


def write_rows(path, rows):
    """Rows of id, sequence and label in the format that the name of the file says."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        sign = "\t" if path.suffix == ".tsv" else ","
        lines = [sign.join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join([sign.join(rows[0]), *lines]) + "\n")


def genes(*labels):
    return [
        {"id": f"g{n}", "sequence": "ATGGCT" + "AAA" * n + "TAA", "half_life": label}
        for n, label in enumerate(labels)
    ]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_build_with_other_labels_is_refused_and_keeps_the_old_ones(tmp_path, snapshot, form):
    store = tmp_path / "s"

    def build(name, *labels):
        path = tmp_path / f"{name}.{form}"
        write_rows(path, genes(*labels))
        words = ["build", str(path), "--store", str(store), "--backbone", "one-hot-mrna"]
        return CliRunner().invoke(app, [*words, "--name", "genes"])

    assert build("a", 1, 2, 3).exit_code == 0
    before = snapshot(store)
    for labels in ((1, 5, 3), (1, None, 3)):
        done = build("b", *labels)
        assert done.exit_code == 1
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert "id 'g1': half_life was 2" in line
        assert "--replace" in line
        assert snapshot(store) == before
    assert build("c", 1.0, 2.0, 3.0, 4.5).exit_code == 0
    labels = open_store(store).collection("genes").table.column("half_life").to_pylist()
    assert labels == [1, 2, 3, 4.5]


@places
def test_a_merge_unites_what_each_store_adds(tmp_path, bucket):
    def place(name):
        return f"memory://{uuid.uuid4().hex}/{name}" if bucket else tmp_path / name

    one, two, into = (create_store(place(name)) for name in ("one", "two", "all"))
    one.write_collection("genes", table("a", "b", x=[1, None], y=["p", "q"]))
    two.write_collection("genes", table("b", "c", z=[[1], [2]], x=[2.5, 3.5]))
    for _ in range(2):
        merge([one, two], into.folder)
        found = into.collection("genes")
        assert found.ids == ["a", "b", "c"]
        assert found.labels == ["x", "y", "z"]
        assert found.table.column("x").to_pylist() == [1.0, 2.5, 3.5]
        assert found.table.column("y").to_pylist() == ["p", "q", None]
        assert found.table.column("z").to_pylist() == [None, [1], [2]]
        assert None not in found.keys("mrna")
    three = create_store(place("three"))
    three.write_collection("genes", table("c", x=[4.5]))
    before = (into.folder / "collections" / "genes.json").read_bytes()
    with pytest.raises(CollectionConflict, match=r"id 'c': x was 3\.5 and would be 4\.5.*--prefix"):
        merge([three], into.folder)
    assert (into.folder / "collections" / "genes.json").read_bytes() == before
    three.write_collection("genes", table("d", x=["slow"]), replace=True)
    with pytest.raises(CollectionConflict, match="x"):
        merge([three], into.folder)
    assert (into.folder / "collections" / "genes.json").read_bytes() == before


def test_an_import_with_other_labels_is_refused(tmp_path, snapshot):
    write_rows(tmp_path / "a.csv", genes(1, 2))
    write_rows(tmp_path / "b.csv", genes(1, 3))
    write_rows(tmp_path / "c.csv", genes(1, 2, 3))
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for n, row in enumerate(genes(1, 2, 3)):
            file[f"g{n}"] = np.ones((len(row["sequence"]), 4), np.float32)

    def run(name):
        words = [
            "import",
            str(tmp_path / "e.h5"),
            "--store",
            str(tmp_path / "s"),
            "--fasta",
            str(tmp_path / name),
        ]
        words += ["--backbone", "theirs", "--name", "genes"]
        return CliRunner().invoke(app, [*words, "--molecule", "mrna"])

    assert run("a.csv").exit_code == 0, run("a.csv").output
    before = snapshot(tmp_path / "s")
    done = run("b.csv")
    assert done.exit_code == 1
    assert "id 'g1': half_life was 2 and would be 3" in done.stderr
    assert snapshot(tmp_path / "s") == before
    assert run("c.csv").exit_code == 0
    assert len(open_store(tmp_path / "s").collection("genes")) == 3
