"""Workbooks and files of R become columns; without a reader, an error says how to get it."""

import sys

import pyarrow as pa
import pytest

from embedstore.datasets.tables import read_source
from embedstore.errors import BadInput, NoReader

COLUMNS = {
    "name": ["a", "b", "c"],
    "E": [0, 5, 3],
    "rate": [0.5, None, -2.0],
    "seq": ["ATGTAA", "ATGAAATAA", "ATG"],
}


def write_workbook(path, columns=COLUMNS, sheet="E6348.csv"):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "read me"
    page = book.create_sheet(sheet)
    page.append([*columns, None])  # a cell that was once filled
    for row in zip(*columns.values(), strict=True):
        page.append([*row, None])
    page.append([None] * len(columns))
    book.save(path)


def write_r(path, columns=COLUMNS, frame="training"):
    rdata, pandas = pytest.importorskip("rdata"), pytest.importorskip("pandas")
    plain = {  # rdata writes no text of the type pandas would choose
        name: pandas.Series(values, dtype=object if isinstance(values[0], str) else None)
        for name, values in columns.items()
    }
    rdata.write_rda(path, {frame: pandas.DataFrame(plain), "other": [1]})


@pytest.mark.parametrize("form", ["xlsx", "rda"])
def test_a_table_is_read_with_numbers_text_and_gaps(form, tmp_path):
    path = tmp_path / f"table.{form}"
    write_workbook(path) if form == "xlsx" else write_r(path)
    found = read_source(path, {"name"}, sheet="E6348.csv", frame="training")
    assert found.to_pydict() == COLUMNS
    assert pa.types.is_floating(found.column("rate").type)
    assert pa.types.is_integer(found.column("E").type)


def test_a_sheet_or_table_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_workbook(tmp_path / "t.xlsx")
    with pytest.raises(BadInput, match=r"no sheet 'S'.*read me, E6348\.csv"):
        read_source(tmp_path / "t.xlsx", set(), sheet="S")
    write_r(tmp_path / "t.rda")
    with pytest.raises(BadInput, match=r"no table 'F'.*training, other"):
        read_source(tmp_path / "t.rda", set(), frame="F")


@pytest.mark.parametrize(("form", "package"), [("xlsx", "openpyxl"), ("rda", "rdata")])
def test_without_the_reader_the_error_says_how_to_get_it(form, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(NoReader, match=rf"{package}.*embedstore\[data\]"):
        read_source(tmp_path / f"t.{form}", set())


def test_json_of_the_source_is_one_object_a_line(tmp_path):
    (tmp_path / "train.json").write_text('{"id": "a", "track": [1, 2.5]}\n{"id": "b"}\n')
    assert read_source(tmp_path / "train.json", {"id"}).to_pydict() == {
        "id": ["a", "b"],
        "track": [[1.0, 2.5], None],
    }
