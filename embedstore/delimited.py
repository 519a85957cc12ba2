"""CSV and TSV to columns: separated text in, columns of numbers, true and false, or text out.

Cells are stripped of white space around them, and an empty one is null. A column is

- whole numbers (int64), numbers (float64), or true and false (bool), where every cell that is
  not empty is one;
- else text, every cell as it stands in the file. So `NA`, `nan` and `-` among numbers make a
  column of text: whoever reads numbers from it can name and count them.

Text that would lose something as a number stays text too: leading zeros (007), whole numbers that
int64, or float64 beside other numbers, cannot hold, and 1e5 where no cell has a decimal point.
Dates and times stay text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import BadInput
from embedstore.input_source import DELIMITED, DELIMITERS, InputTable, Source, undecodable_line

_BLOCK = 64 << 20  # bytes parsed together: no row may be longer
_HEAD = 1 << 20  # bytes in which a header is looked for first
_MARK = b"\xef\xbb\xbf"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's own

_WHOLE = "^-?(0|[1-9][0-9]*)$"
_DIGITS = r"((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)"
_NUMBER = rf"^[+-]?({_DIGITS}([eE][+-]?[0-9]+)?|(?i:inf|infinity))$"
_INFINITE = "(?i)^[+-]?inf(inity)?$"
_LIKE_AN_ID = "^[0-9]+[eE][0-9]+$"
_TRUTH = "^(true|false|True|False|TRUE|FALSE)$"
_EXACT = 2**53  # whole numbers up to here are exact in float64


def read_delimited(source: Source, text_columns: Collection[str]) -> InputTable:
    """All columns of a CSV or TSV input. Rows of nothing but separators are no rows.

    Parameters
    ----------
    text_columns : stay text, and as they are

    Raises
    ------
    BadInput
        A row has more or fewer columns than the header, or the header another separator.
    """
    with source.open() as file:
        delimiter, names, start = _find_header(source, file, text_columns)
        file.seek(start)
        if not file.read(1):
            return InputTable(pa.table({name: pa.nulls(0, pa.string()) for name in names}), ())
        file.seek(start)
        rows, skipped = _read_rows(source, file, delimiter, names)
        if any(_any(column, r"[\r\n]") for column in rows.columns):
            file.seek(0)
            _check_quotes(source, file.read(), start, delimiter)
    numbers: Sequence[int] = range(1, rows.num_rows + len(skipped) + 1)
    if skipped:
        numbers = [number for number in numbers if number not in skipped]
    blank = _blank_rows(rows)
    if blank is not None:
        rows = rows.filter(pc.invert(blank))
        numbers = [n for n, gone in zip(numbers, blank.to_pylist(), strict=True) if not gone]
    kept, columns = [], []
    for name, column in zip(names, rows.columns, strict=True):
        if name not in text_columns:
            column = typed(column)
            if not name.strip() and column.null_count == len(column):
                continue  # a spreadsheet's empty column
        kept.append(name)
        columns.append(column)
    return InputTable(pa.Table.from_arrays(columns, kept), numbers)


def typed(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text cells as the one type that loses nothing: int64, float64, bool or text.

    Parameters
    ----------
    cells : text, empty where there is nothing
    """
    cells = stripped(cells)
    present = cells.drop_null()
    if not len(present):
        return cells
    if _all(present, _TRUTH):
        return pc.utf8_lower(cells).cast(pa.bool_())
    if not _all(present, _NUMBER):
        return cells
    whole = pc.match_substring_regex(present, _WHOLE)
    try:
        if pc.all(whole).as_py():
            return cells.cast(pa.int64())  # refuses what does not fit
        exact = pc.abs_checked(present.filter(whole).cast(pa.int64()))
    except pa.ArrowInvalid:
        return cells
    if (pc.max(exact).as_py() or 0) > _EXACT:
        return cells
    if _any(present, _LIKE_AN_ID) and not _any(present, r"\."):
        return cells
    numbers = cells.cast(pa.float64())
    overflown = pc.and_(pc.is_inf(numbers), pc.invert(pc.match_substring_regex(cells, _INFINITE)))
    return cells if pc.any(overflown).as_py() else numbers


def stripped(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text without white space around it; what is then empty is null."""
    cells = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.equal(cells, ""), pa.scalar(None, cells.type), cells)


def _all(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells, pattern)).as_py())


def _any(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(cells, pattern)).as_py())


def _find_header(
    source: Source, file: io.BufferedIOBase, text_columns: Collection[str]
) -> tuple[str, list[str], int]:
    """Separator, names of the columns, and the first byte behind the header."""
    head = file.read(_HEAD)
    while True:
        mark = len(_MARK) if head.startswith(_MARK) else 0
        # undecodable bytes are kept, so that lengths stay right
        text = head[mark:].decode(errors="surrogateescape")
        delimiter, header, names, length = _parse_header(source, text)
        more = file.read(len(head)) if length == len(text) else b""
        if not more:
            break
        head += more  # the header may end behind what was looked at
    if not names:
        raise pa.ArrowInvalid("Empty file")
    header.encode()  # UnicodeError where it is not UTF-8
    _check_separator(source, delimiter, header, names, text_columns)
    start = mark + len(text[:length].encode(errors="surrogateescape"))
    return delimiter, names, start


def _parse_header(source: Source, text: str) -> tuple[str, str, list[str], int]:
    """Separator, the header, the names in it, and where it ends; no names where there is none."""
    ends = [0]

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):  # lines end as they do in the file
            ends.append(ends[-1] + len(line))
            yield line

    remaining = lines()
    delimiter = source.delimiter or DELIMITED[source.kind]
    first = next((line for line in remaining if line.strip("\r\n ")), "")
    said = _SEPARATOR_LINE.fullmatch(first)
    begin = ends[-1] if said else ends[-1] - len(first)
    if said:
        delimiter = source.delimiter or said[1]
        first = next(remaining, "")
    reader = csv.reader(_followed_by(first, remaining), delimiter=delimiter)
    try:
        for names in reader:
            if any(name.strip() for name in names):
                names = [name.strip() for name in names]
                return delimiter, text[begin : ends[-1]].strip("\r\n"), names, ends[-1]
            begin = ends[-1]
    except csv.Error as error:
        raise BadInput(
            f"{source.name}: the header cannot be read ({error}).",
            "Close every quote, and write the names of the columns on the first line.",
        ) from None
    return delimiter, "", [], len(text)


def _followed_by(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others


def _check_separator(
    source: Source, delimiter: str, header: str, names: list[str], text_columns: Collection[str]
) -> None:
    """Refuse a header that only another separator splits into columns that are wanted."""
    if any(name in text_columns for name in names):
        return
    for other in dict.fromkeys(DELIMITERS.values()):
        columns = next(csv.reader(io.StringIO(header), delimiter=other), [])
        if len(columns) < 2 or other == delimiter:
            continue
        if len(names) == 1 or any(name in text_columns for name in columns):
            word = {"\t": "tab"}.get(other, other)
            shown = header if len(header) <= 60 else header[:57] + "..."
            raise BadInput(
                f"{source.name}: the header {shown!r} is separated by {_name(other)}, "
                f"not by {_name(delimiter)}.",
                f"Say --delimiter {word!r}, or save the table with {_name(delimiter)}.",
            )


def _name(delimiter: str) -> str:
    return {"\t": "tabs", ",": "commas ','", ";": "semicolons ';'"}.get(delimiter, repr(delimiter))


def _read_rows(
    source: Source, file: io.BufferedIOBase, delimiter: str, names: list[str]
) -> tuple[pa.Table, set[int]]:
    """The rows below the header, all text, and the numbers of those that are only separators."""
    import pyarrow.csv as arrow_csv

    ragged: list[arrow_csv.InvalidRow] = []
    skipped: set[int] = set()

    def refuse(row: arrow_csv.InvalidRow) -> str:
        if not row.text.replace(delimiter, "").replace('"', "").strip():
            skipped.add(row.number)
            return "skip"
        ragged.append(row)
        return "error"

    try:
        table = arrow_csv.read_csv(
            file,
            # one thread: with more, no row has a number
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK,
                column_names=[f"{at}" for at in range(len(names))],
            ),
            arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse
            ),
            arrow_csv.ConvertOptions(
                column_types={f"{at}": pa.string() for at in range(len(names))}
            ),
        )
    except pa.ArrowInvalid:
        if not ragged or undecodable_line(source) is not None:
            raise
        row = ragged[0]
        raise BadInput(
            f"{source.rows(row.number)}: {row.actual_columns} columns, but the header "
            f"has {row.expected_columns}.",
            "Give every row all columns, and quote values that hold the separator.",
        ) from None
    return table, skipped


def _check_quotes(source: Source, data: bytes, start: int, delimiter: str) -> None:
    """Refuse a stray quotation mark that takes the rows below it into its cell.

    Parameters
    ----------
    start : first byte behind the header
    """
    part = re.escape(delimiter.encode())
    for found in re.finditer(rb'(?<![^\r\n%b])"[^"]*(?:""[^"]*)*("?)' % part, data[start:]):
        end = start + found.end()
        if found[1] and data[end : end + 1] in (b"", b"\r", b"\n", delimiter.encode()):
            continue
        if not re.search(rb"[\r\n]", found[0]):
            continue  # it takes no other row
        at = start + found.start()
        line = len(re.findall(rb"\r\n?|\n", data[:at])) + 1
        cell = re.split(rb"[\r\n]", data[at : at + 160])[0].decode(errors="replace")
        raise BadInput(
            f"{source.name}, line {line} of the file: the quotation mark at {cell[:40]!r} is not "
            "closed where its cell ends, so the rows below would be part of the cell.",
            'Close it; inside of a quoted cell write "" for a quotation mark.',
        )


def _blank_rows(rows: pa.Table) -> pa.ChunkedArray | None:
    """True where every cell is blank; None where no row is."""
    blank = None
    for column in rows.columns:
        here = pc.equal(pc.utf8_trim_whitespace(column), "")
        blank = here if blank is None else pc.and_(blank, here)
        if not pc.any(blank).as_py():
            return None
    return blank
