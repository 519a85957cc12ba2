"""Label columns: one table gives one column in every format, and every Arrow type its values."""

import csv
import datetime
import io
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore import create_store
from embedstore.label_columns import plain_column
from embedstore.records import read_records
from embedstore.store.collection import make_table
from probe.tasks import Task, infer_kind, read_labels

GENE = "ATGGCTAAATAA"


def as_csv(values, comma=","):
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=comma)
    writer.writerow(["id", "sequence", "y"])
    shown = {None: "", True: "true", False: "false"}
    for at, value in enumerate(values):
        text = shown[value] if value is None or isinstance(value, bool) else value
        writer.writerow([f"g{at}", GENE, text])
    return sink.getvalue().encode()


def as_jsonl(values):
    rows = [{"id": f"g{at}", "sequence": GENE, "y": value} for at, value in enumerate(values)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(values):
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    ids = [f"g{at}" for at in range(len(column))]
    sink = io.BytesIO()
    table = pa.table({"id": ids, "sequence": [GENE] * len(ids), "y": column})
    parquet.write_table(table, sink)
    return sink.getvalue()


WRITERS = {
    "csv": as_csv,
    "tsv": lambda values: as_csv(values, "\t"),
    "jsonl": as_jsonl,
    "parquet": as_parquet,
}


def label_of(folder, kind, content):
    path = folder / f"x.{kind}"
    path.write_bytes(content)
    return read_records(path).labels.column("y")


blank = st.sampled_from(["", " ", "\t", "\u00a0", " \n "])
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=6)
telling = st.sampled_from(["NA", "nan", "N/A", "-", "null", "007", "1e5", "2020-01-01", " x ", "1"])
columns = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6),
    st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=6),
    st.lists(st.none() | st.booleans(), min_size=1, max_size=6),
    # one word among them that is no number and no truth, or CSV could not tell it from these
    st.lists(st.none() | blank | words | telling, min_size=0, max_size=6).map(
        lambda texts: [*texts, "ND"]
    ),
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=columns)
def test_one_table_gives_one_label_column_in_every_format(values, tmp_path):
    found = {kind: label_of(tmp_path, kind, write(values)) for kind, write in WRITERS.items()}
    expected = [(value.strip() or None) if isinstance(value, str) else value for value in values]
    for kind, column in found.items():
        assert column.to_pylist() == expected, kind
    assert len({column.type for column in found.values()}) == 1


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_column_of_several_types_is_text(kind, tmp_path):
    values = [1, 2.5, None, "ND", True]
    found = label_of(tmp_path, kind, WRITERS[kind](values))
    assert found.to_pylist() == ["1", "2.5", None, "ND", "true"]


def test_a_json_column_that_changes_its_type_far_below_is_text(tmp_path):
    values = [*range(10_000), "ND", {}, [0.5], ["no"], 10**30, "\ud800"]
    found = label_of(tmp_path, "jsonl", as_jsonl(values)).to_pylist()
    assert found[:2] == ["0", "1"]
    assert found[10_000:] == ["ND", "{}", "[0.5]", '["no"]', str(10**30), "\\ud800"]


D = Decimal
TEXT = ["neg", "pos", None, "neg", "pos", "neg"]
WHOLE = [3, None, 1, 2, 0, 5]
BROKEN = [0.5, None, 1.5, -2.0, 0.25, 4.0]
DECIMAL = [D("0.10"), None, D("12345678.01"), D("-2.00"), D("0.30"), D("4.70")]
LISTS = [[1, 2], None, [3, 0], [1, 5], [2, 2], [4, 4]]
views = [pa.string_view()] if hasattr(pa, "string_view") else []

# type: what is written, and the type and values that the label has
TYPES = {
    **{
        str(kind): (pa.array(TEXT, kind), pa.string(), TEXT)
        for kind in (pa.string(), pa.large_string(), *views)
    },
    "dictionary": (pa.array(TEXT).dictionary_encode(), pa.string(), TEXT),
    "blank text": (pa.array([" a", "", "  ", "b", "a", "b\n"]), pa.string(), list("a--bab")),
    "dictionary of numbers": (pa.array(BROKEN).dictionary_encode(), pa.float64(), BROKEN),
    "bool": (pa.array([True, None, False] * 2), pa.bool_(), [True, None, False] * 2),
    **{
        str(kind): (pa.array(WHOLE, kind), pa.int64(), WHOLE)
        for kind in (
            *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
            *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
            *(pa.decimal128(20, 0), pa.decimal256(50, 0)),
        )
    },
    "uint64 beyond int64": (
        pa.array([2**64 - 1, None, 1], pa.uint64()),
        pa.float64(),
        [float(2**64 - 1), None, 1.0],
    ),
    **{
        str(kind): (pa.array(BROKEN, kind), pa.float64(), BROKEN)
        for kind in (pa.float16(), pa.float32(), pa.float64())
    },
    **{
        str(kind): (pa.array(DECIMAL, kind), pa.float64(), [v and float(v) for v in DECIMAL])
        for kind in (pa.decimal128(10, 2), pa.decimal128(38, 5), pa.decimal256(60, 2))
    },
    **{
        str(kind): (
            pa.array(LISTS, kind),
            pa.list_(pa.int64() if "int" in str(kind.value_type) else pa.float64()),
            LISTS,
        )
        for kind in (
            *(pa.list_(pa.int16()), pa.large_list(pa.uint64()), pa.list_(pa.float16())),
            *(pa.list_(pa.float32(), 2), pa.list_view(pa.int8()), pa.large_list_view(pa.float32())),
        )
    },
    "list of decimals": (
        pa.array([v and [D(v[0]), D(v[1])] for v in LISTS], pa.list_(pa.decimal128(5, 1))),
        pa.list_(pa.float64()),
        LISTS,
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_stored_as_its_values_and_trained_on(name, tmp_path):
    source, kind, expected = TYPES[name]
    expected = [None if value == "-" else value for value in expected]
    (tmp_path / "x.parquet").write_bytes(as_parquet(source))
    records = read_records(tmp_path / "x.parquet")
    store = create_store(tmp_path / "s")
    store.write_collection("c", make_table(records.rows, records.labels))
    table = store.collection("c").table
    column = table.column("y")
    assert column.to_pylist() == expected
    if pa.types.is_list(kind):
        assert pa.types.is_list(column.type) and column.type.value_type == kind.value_type
        return  # per-position labels, if asked for
    assert column.type == kind
    task = Task(collection="c", label="y", kind=infer_kind(table, "y"))
    found = read_labels(table, task)
    there = [at for at, value in enumerate(expected) if value is not None]
    assert found.rows.tolist() == there
    if task.kind == "regression":
        np.testing.assert_array_equal(found.targets, [float(expected[at]) for at in there])


def test_lists_serve_as_per_position_labels(tmp_path):
    for at, (name, (source, kind, _)) in enumerate(TYPES.items()):
        if not pa.types.is_list(kind):
            continue
        (tmp_path / f"{at}.parquet").write_bytes(as_parquet(source))
        records = read_records(tmp_path / f"{at}.parquet")
        table = make_table(records.rows, records.labels)
        task = Task(collection="c", label="y", kind="per-position")
        found = read_labels(table, task)
        assert found.targets[:, :2].tolist() == [each for each in LISTS if each], name


def test_dates_are_text_and_a_column_of_nulls_is_too(tmp_path):
    day = datetime.date(2020, 1, 2)
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5)
    for column, expected in (
        (pa.array([day, None]), "2020-01-02"),
        (pa.array([day, None], pa.date64()), "2020-01-02"),
        (pa.array([moment, None], pa.timestamp("us")), "2020-01-02 03:04:05"),
        (pa.array([moment, None], pa.timestamp("ns", "UTC")), "2020-01-02 03:04:05Z"),
        (pa.array([moment.time(), None], pa.time64("us")), "03:04:05"),
        (pa.nulls(2), None),
    ):
        found = label_of(tmp_path, "parquet", as_parquet(column))
        assert (found.type, found.to_pylist()) == (pa.string(), [expected, None])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"a": 1}, None]),
        pa.array([b"a", None]),
        pa.array([b"ab", None], pa.binary(2)),
        pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        pa.array([datetime.timedelta(1), None]),
        pa.array([[["a"]], None]),
        pa.array([["a ", ""], None]),
        pa.array([{"a": "x"}, None], pa.struct([("a", pa.string_view())])),
        pa.array([b"a", None], pa.binary_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_that_nobody_asked_for_never_stops_a_build(column, tmp_path):
    (tmp_path / "x.parquet").write_bytes(as_parquet(column))
    records = read_records(tmp_path / "x.parquet")
    store = create_store(tmp_path / "s")
    store.write_collection("c", make_table(records.rows, records.labels))
    first, second = store.collection("c").table.column("y").to_pylist()
    assert second is None
    assert first == column[0].as_py() or first == json.dumps(column[0].as_py())


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{}, None]),
        pa.array([pa.MonthDayNano([1, 2, 3]), None]),
        pa.RunEndEncodedArray.from_arrays([1, 2], pa.array(["x", None])),
        pa.DictionaryArray.from_arrays(
            pa.array([0, None], pa.int8()), pa.array(["x"], pa.string_view())
        ),
    ],
    ids=lambda column: str(column.type),
)
def test_what_parquet_cannot_hold_has_a_plain_column_too(column, tmp_path):
    plain = plain_column(pa.chunked_array([column]))
    parquet.write_table(pa.table({"y": plain}), tmp_path / "x.parquet")
    assert plain.type == pa.string()
    assert plain.null_count == 1


def test_slices_and_chunks_of_lists_keep_their_rows(tmp_path):
    column = pa.chunked_array(
        [pa.array(LISTS, kind).slice(at, 3) for at in (0, 2) for kind in (pa.list_(pa.int8()),)]
    )
    assert plain_column(column).to_pylist() == LISTS[0:3] + LISTS[2:5]


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_ids_and_sequences_of_any_text_type_are_read(kind, tmp_path):
    table = pa.table({"id": pa.array(["a", "b"], kind), "sequence": pa.array([GENE, "ATG"], kind)})
    parquet.write_table(table, tmp_path / "x.parquet")
    rows = read_records(tmp_path / "x.parquet").rows
    assert [(row.id, row.sequence) for row in rows] == [("a", GENE), ("b", "ATG")]
