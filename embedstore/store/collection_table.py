"""The Parquet file of a collection: a table in, bytes out, and back, each part of it checked."""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from embedstore.dogma import ABSENT, ALPHABETS, MOLECULES, VIEWS
from embedstore.genetic_codes import known_codes
from embedstore.store.collection import CODING_COLUMN, CODING_TYPE, key_column

TEXT = (pa.string(), pa.large_string())
KEYS = tuple(map(key_column, VIEWS))
WRITTEN = b"embedstore.written"
"""Key in the metadata of a file in a bucket; its value is random, so no two have one digest."""
ROWS_A_BYTE = 64
"""Most rows that a byte of a file can stand for: ids differ, so each row takes some."""
EXPANSION = 1000
"""Most bytes that one byte of a file may claim to hold."""
FEW_BYTES = 256 << 20
"""What any file may claim to hold."""
FEW_ROWS = 1 << 16
OURS = "parquet-cpp-arrow"
"""Begins the name of the writer of our files; these have no gap between their parts."""
ARROW_SCHEMA = b"ARROW:schema"

SAME_IN_PARQUET = (
    *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    *(pa.string(), pa.large_string(), pa.binary()),
)

HEX = np.zeros(256, np.bool_)
HEX[list(b"0123456789abcdef")] = True
LETTERS = np.zeros(256, np.bool_)
LETTERS[list("".join(ALPHABETS.values()).encode())] = True


class BadTable(ValueError):
    """It is no table of a collection; the text names the column. Shown with a file's name only."""


def encode_table(table: pa.Table, *, unique: bool = False) -> bytes:
    """The Parquet file of a table.

    Parameters
    ----------
    unique : give no two files the same bytes, so that none that was replaced comes back under its
        old name; else the same table gives the same file
    """
    if unique:
        written = {WRITTEN: secrets.token_hex(8).encode()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **written})
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def columns_of(content: bytes) -> list[tuple[str, str]]:
    """Name and type of each column of a Parquet file that we wrote."""
    schema = parquet.read_schema(pa.BufferReader(content))
    return [(each.name, type_name(each.type)) for each in schema]


def decode_table(content: bytes) -> pa.Table:
    """The table in a Parquet file, with all that can be checked without its document.

    Raises
    ------
    BadTable
        It is no Parquet file, its parts do not agree with each other, it claims to hold more than
        its size allows, or it is no table of a collection.
    """
    try:
        source = pa.BufferReader(content)
        with parquet.ParquetFile(source, page_checksum_verification=True) as file:
            _check_claims(file.metadata, len(content))
            table = file.read()
            _check_footer(file, len(content))
        table.validate(full=True)
    except BadTable:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise BadTable(" ".join(str(error).split()).rstrip(".") or type(error).__name__) from error
    metadata = dict(table.schema.metadata or {})
    metadata.pop(WRITTEN, None)
    table = table.replace_schema_metadata(metadata or None)
    check_table(table)
    return table


def type_name(kind: pa.DataType) -> str:
    """A name of an Arrow type that does not depend on what a version calls parts of lists."""
    types = pa.types
    if types.is_map(kind):
        return f"map<{type_name(kind.key_type)}, {type_name(kind.item_type)}>"
    if types.is_struct(kind):
        return f"struct<{', '.join(f'{each.name}: {type_name(each.type)}' for each in kind)}>"
    if types.is_large_list(kind):
        return f"large_list<{type_name(kind.value_type)}>"
    if types.is_fixed_size_list(kind):
        return f"list<{type_name(kind.value_type)}>[{kind.list_size}]"
    if types.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return str(kind)


def check_table(table: pa.Table) -> None:
    """Check the columns that every collection has.

    Raises
    ------
    BadTable
        One is missing, of another type, or has a value that it cannot have; two rows have one id.
    """
    names = table.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadTable(f"its column {twice!r} stands twice")
    for name in ("id", "sequence", "molecule", *KEYS):
        if name not in names:
            raise BadTable(f"its column {name!r} is missing")
        column = table.column(name)
        if column.type not in TEXT:
            raise BadTable(f"its column {name!r} is of type {type_name(column.type)}, not of text")
        if name not in KEYS and column.null_count:
            raise BadTable(f"its column {name!r} has a row without a value")
    molecules = pc.unique(table.column("molecule")).to_pylist()
    if not set(molecules) <= set(MOLECULES):
        wrong = next(each for each in molecules if each not in MOLECULES)
        raise BadTable(f"its column 'molecule' has the value {wrong[:60]!r}")
    if not all(LETTERS[part].all() for part in _letters(table.column("sequence"))):
        raise BadTable("its column 'sequence' has a letter that no sequence has")
    for name in KEYS:
        _check_keys(name, table.column(name))
    _check_ids(table.column("id"))
    at = table.schema.get_field_index(CODING_COLUMN)
    if at >= 0 and table.schema.field(at).type.equals(CODING_TYPE):
        _check_regions(table.column(at))


def _check_keys(name: str, column: pa.ChunkedArray) -> None:
    sizes = pc.unique(pc.drop_null(pc.binary_length(column))).to_pylist()
    if not set(sizes) <= {32} or not all(HEX[part].all() for part in _letters(column)):
        raise BadTable(f"its column {name!r} has a value that is no key (32 hex digits)")


def _check_ids(column: pa.ChunkedArray) -> None:
    if pc.count_distinct(column).as_py() < len(column):
        counts = pc.value_counts(column)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise BadTable(f"the id {twice[0].as_py()[:60]!r} stands twice")


def _check_regions(column: pa.ChunkedArray) -> None:
    """Check what `Coding` and the genetic codes would refuse."""
    for cells in column.chunks:
        cells = cells.filter(cells.is_valid())
        start, stop, code, _, _, absent = cells.flatten()
        known = pc.is_in(code, value_set=pa.array([*known_codes()], code.type))
        why = pc.is_in(absent, value_set=pa.array([*ABSENT], absent.type))
        good = pc.equal(start.is_null(), stop.is_null())
        for part, allowed in ((code, known), (absent, why)):
            good = pc.and_(good, pc.or_(part.is_null(), allowed))
        if not pc.all(good).as_py() and len(cells):
            raise BadTable(f"its column {CODING_COLUMN!r} has a region that no record can have")


def _letters(column: pa.ChunkedArray) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a column of text, a chunk at a time."""
    for chunk in column.chunks:
        _, offsets, content = chunk.buffers()
        if content is None or not len(chunk):
            continue
        dtype = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        ends = np.frombuffer(offsets, dtype)[chunk.offset : chunk.offset + len(chunk) + 1]
        yield np.frombuffer(content, np.uint8)[ends[0] : ends[-1]]


def _check_claims(metadata: parquet.FileMetaData, size: int) -> None:
    """Compare what a file claims to hold with its size, before any of it is read.

    Raises
    ------
    BadTable
    """
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    rows = sum(each.num_rows for each in groups)
    held = sum(each.total_byte_size for each in groups)
    if rows != metadata.num_rows or min([0, *(each.num_rows for each in groups)]) < 0:
        raise BadTable(f"its parts hold {rows} rows, and it claims to hold {metadata.num_rows}")
    if rows > FEW_ROWS + ROWS_A_BYTE * size or held > max(FEW_BYTES, EXPANSION * size):
        raise BadTable(f"it claims to hold {rows} rows and {held} bytes in {size} bytes")


def _check_footer(file: parquet.ParquetFile, size: int) -> None:
    """Compare what the footer says with itself and with the size of the file.

    The pages have checksums and the footer has none, so a bit that changes there could take rows
    or columns away, or give a column another name or type. Only for files that could be read: of
    others pyarrow 26 ends the process where it is asked for the metadata of a column.

    Raises
    ------
    BadTable
    """
    metadata = file.metadata
    spans = []
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        for number in range(group.num_columns):
            chunk = group.column(number)
            flat = metadata.schema.column(number).max_repetition_level == 0
            if chunk.num_values != group.num_rows if flat else chunk.num_values < group.num_rows:
                raise BadTable(
                    f"its column {chunk.path_in_schema!r} has {chunk.num_values} values in a part "
                    f"of {group.num_rows} rows"
                )
            begins = (chunk.dictionary_page_offset, chunk.data_page_offset)
            spans.append((min(begin for begin in begins if begin), chunk.total_compressed_size))
    if str(metadata.created_by).startswith(OURS):
        end = 4  # after the letters PAR1
        for begin, length in sorted(spans):
            if begin != end or length < 0:
                raise BadTable(f"its footer does not account for byte {end}")
            end = begin + length
        if end + metadata.serialized_size + 8 != size:
            raise BadTable(f"its footer does not account for byte {end}")
    told = (metadata.metadata or {}).get(ARROW_SCHEMA)
    if told is not None:
        _check_schema(file.schema_arrow, told)


def _check_schema(read: pa.Schema, told: bytes) -> None:
    """Compare the columns as Parquet has them with those that Arrow wrote beside them.

    Arrow's types that Parquet has too; it keeps seconds as milliseconds, for instance.
    """
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(told, validate=True)))
    if read.names != schema.names:
        pairs = zip(read.names, schema.names, strict=False)
        differ = next((one for one, other in pairs if one != other), "")
        raise BadTable(f"its footer gives its columns two names ({differ[:60]!r})")
    for one, other in zip(read, schema, strict=True):
        if other.type in SAME_IN_PARQUET and one.type != other.type:
            raise BadTable(f"its column {one.name!r} is of type {one.type}, and was {other.type}")
