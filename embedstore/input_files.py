"""Bytes of an input to columns: FASTA, CSV, TSV, JSONL or Parquet, plain or gzipped.

Whatever makes an input unreadable becomes one error that names the file, the place and the fix.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from embedstore.delimited import read_delimited
from embedstore.errors import BadInput
from embedstore.input_source import (
    InputTable,
    Source,
    cannot_unzip,
    check_text,
    one_line,
    undecodable_line,
)
from embedstore.json_lines import read_json_lines

_FREE_ROWS, _FREE_BYTES = 10_000_000, 1 << 30
"""Rows and unpacked bytes that a Parquet file may have however small it is."""
_MOST_PACKED = 1000
"""How many rows, and how many unpacked bytes, one byte of a larger file may stand for."""


def read_table(source: Source, text_columns: Collection[str]) -> InputTable:
    """All columns of a CSV, TSV, JSONL or Parquet input; of FASTA, `id` and `sequence`.

    Parameters
    ----------
    text_columns : never taken for numbers, so that ids like 007 stay as they are

    Raises
    ------
    BadInput
        The input is damaged, no text, or no table.
    """
    read = {"fasta": _read_fasta, "jsonl": _read_jsonl, "parquet": _read_parquet}
    try:
        if source.kind != "parquet":
            check_text(source)
        return read.get(source.kind, read_delimited)(source, text_columns)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise cannot_unzip(source, error) from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        line = None
        if source.kind != "parquet" and not isinstance(error, OSError):
            line = undecodable_line(source)
        if line is not None:
            raise BadInput(
                f"{source.name}, line {line} of the file: not UTF-8 text.",
                "Save the file as UTF-8, or name it .gz if it is gzipped.",
            ) from error
        raise BadInput(
            f"{source.name} cannot be read as {source.kind}: {one_line(error)}.",
            "Check the file and its name.",
        ) from error


def _read_fasta(source: Source, text_columns: Collection[str]) -> InputTable:
    """Ids as `source.id_from` says, empty where a header has none; and sequences."""
    ids: list[str] = []
    lines: list[int] = []
    sequences: list[str] = []
    parts: list[str] = []
    for number, line in source.lines():
        if line.startswith(">"):
            if ids:
                sequences.append("".join(parts))
            lines.append(number)
            ids.append(_fasta_id(line[1:].split(), len(lines), source.id_from))
            parts.clear()
        elif not line.startswith(";"):
            if not ids:
                raise BadInput(
                    f"{source.name}, line {number} of the file: text before the first header.",
                    "FASTA begins with a line '>id'.",
                )
            parts.append(line)
    if not ids:
        raise BadInput(f"{source.name} has no records.", "FASTA holds lines '>id' and sequences.")
    sequences.append("".join(parts))
    columns = pa.table({"id": ids, "sequence": pa.array(sequences, pa.large_string())})
    return InputTable(columns, range(1, len(ids) + 1), lines)


def _fasta_id(words: list[str], number: int, id_from: str | None) -> str:
    if id_from == "number":
        return f"row-{number}"
    if id_from == "header":
        return " ".join(words)
    return words[0] if words else ""


def _read_jsonl(source: Source, text_columns: Collection[str]) -> InputTable:
    return _numbered(read_json_lines(source, text_columns))


def _read_parquet(source: Source, text_columns: Collection[str]) -> InputTable:
    import pyarrow.parquet as parquet

    with source.open() as file:
        plain = isinstance(file, io.BufferedReader)
        # a file, not a path: of a path like molecule=dna/x.parquet columns would be made
        content = file if plain else io.BytesIO(file.read())
        size = content.seek(0, io.SEEK_END)
        content.seek(0)
        opened = parquet.ParquetFile(content, page_checksum_verification=True)
        _check_declared(source, opened.metadata, size)
        table = opened.read()
    table.validate(full=True)  # text that is no UTF-8, lists that end before they begin
    return _numbered(table)


def _check_declared(source: Source, metadata: Any, size: int) -> None:
    """Compare what a Parquet file says of itself with its bytes, before memory is taken for it."""
    groups = (metadata.row_group(at) for at in range(metadata.num_row_groups))
    unpacked = sum(max(group.total_byte_size, 0) for group in groups)
    rows = metadata.num_rows
    if not 0 <= rows <= max(_FREE_ROWS, _MOST_PACKED * size) or unpacked > max(
        _FREE_BYTES, _MOST_PACKED * size
    ):
        raise BadInput(
            f"{source.name} declares {rows} rows in {unpacked} bytes, and has {size} bytes itself.",
            "Write the file anew, or save it as CSV.",
        )


def _numbered(table: pa.Table) -> InputTable:
    return InputTable(table, range(1, table.num_rows + 1))
