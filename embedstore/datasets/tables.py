"""Source files of data sets to columns: what a build reads, and Excel workbooks and files of R."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from embedstore.errors import BadInput, NoReader
from embedstore.input_files import read_table
from embedstore.input_source import Source, file_format


def read_source(
    path: Path, text_columns: set[str], *, sheet: str | None = None, frame: str | None = None
) -> pa.Table:
    """All columns of one source file.

    Parameters
    ----------
    path : `.xlsx`, `.rda`, or any table that a build reads
    text_columns : never taken for numbers
    sheet, frame : which table of a workbook, of a file of R

    Raises
    ------
    NoReader
        The library that reads the format is not installed.
    BadInput
        The file cannot be read, or has no such table.
    """
    name = path.name.lower()
    if name.endswith(".xlsx"):
        return _read_workbook(path, sheet)
    if name.endswith(".rda"):
        return _read_r(path, frame)
    if name.endswith(".json"):  # one object a line, as the source names it
        return read_table(Source(path, "jsonl"), text_columns).columns
    return read_table(Source(path, file_format(path)), text_columns).columns


def _read_workbook(path: Path, sheet: str | None) -> pa.Table:
    reader = _library("openpyxl", "Excel workbooks")
    book = reader.load_workbook(path, read_only=True, data_only=True)
    try:
        if sheet not in book.sheetnames:
            raise BadInput(
                f"{path.name} has no sheet {sheet!r}.", f"It has: {', '.join(book.sheetnames)}."
            )
        rows = book[sheet].iter_rows(values_only=True)
        header = [str(value) for value in itertools.takewhile(lambda v: v is not None, next(rows))]
        filled = [row for row in rows if any(value is not None for value in row)]
        columns = itertools.zip_longest(*filled)  # a row may end before its empty cells
        return _table(path, dict(zip(header, map(list, columns), strict=False)))
    finally:
        book.close()


def _read_r(path: Path, frame: str | None) -> pa.Table:
    reader = _library("rdata", "files of R")
    with warnings.catch_warnings():
        # of attributes that R packages leave on a data frame, and that say nothing of its values
        warnings.simplefilter("ignore")
        frames = reader.read_rda(path)
    if frame not in frames:
        raise BadInput(f"{path.name} has no table {frame!r}.", f"It has: {', '.join(frames)}.")
    return _table(path, {str(name): list(values) for name, values in frames[frame].items()})


def _table(path: Path, columns: dict[str, list[object]]) -> pa.Table:
    """Columns of plain values; NaN, which is how absent numbers come, stands for absent."""
    try:
        return pa.table({name: pa.array(v, from_pandas=True) for name, v in columns.items()})
    except pa.ArrowException as error:
        problem = " ".join(str(error).split()).rstrip(".")
        raise BadInput(
            f"{path.name} has a column of several types: {problem}.",
            "Save its table as CSV and build from that.",
        ) from error


def _library(name: str, what: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise NoReader(
            f"{what} are read by the package {name}, which is not installed.",
            "Run: pip install 'embedstore[data]'",
        ) from error
