"""Where records are read from: a path or a stream in, its format and its bytes out."""

from __future__ import annotations

import gzip
import io
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from embedstore.errors import BadInput

FASTA = (".fa", ".fasta", ".faa", ".fna", ".ffn", ".fas")
FORMATS = {
    **dict.fromkeys(FASTA, "fasta"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""Ending of a file's name to its format."""
KINDS = tuple(dict.fromkeys(FORMATS.values()))
DELIMITERS = {
    ",": ",",
    ";": ";",
    "|": "|",
    "\t": "\t",
    "\\t": "\t",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
    "tab": "\t",
}
"""What `--delimiter` takes, and the character that is meant."""
DELIMITED = {"csv": ",", "tsv": "\t"}
"""Formats with a separator, and the usual one of each."""

_GZIP = b"\x1f\x8b"
_STANDARD_INPUT = ("-", "/dev/stdin")
_OPEN_FILES = ("/dev/fd", "/proc/self/fd")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


@dataclass(frozen=True)
class Source:
    """The input that is read, and how errors name places in it."""

    path: Path
    kind: str
    """`fasta`, `csv`, `tsv`, `jsonl` or `parquet`."""
    content: bytes | None = field(default=None, repr=False)
    """Of a stream, which can be read only once; None: read the file."""
    delimiter: str | None = None
    """Separator of the columns of CSV and TSV; None: as the format or the first line says."""
    id_from: str | None = None
    """Of FASTA: `first-word` (None), `header` or `number`."""

    @property
    def name(self) -> str:
        """The file's name, or `standard input`."""
        return "standard input" if str(self.path) in _STANDARD_INPUT else self.path.name

    def open(self) -> io.BufferedReader | gzip.GzipFile | io.BytesIO:
        """The bytes from the start, unzipped; may be opened again, and can seek."""
        if self.content is not None:
            file = io.BytesIO(self.content)
            return gzip.GzipFile(fileobj=file) if self.content.startswith(_GZIP) else file
        zipped = self.path.name.lower().endswith(".gz")
        return gzip.open(self.path, "rb") if zipped else self.path.open("rb")

    def lines(self) -> Iterator[tuple[int, str]]:
        """Number, from 1, and text of every line that is not blank."""
        with io.TextIOWrapper(self.open(), encoding="utf-8-sig") as text:
            for number, raw in enumerate(text, start=1):
                line = raw.strip()
                if line:
                    yield number, line

    def place(self, *numbers: int, name: str = "") -> str:
        """Rows as a person finds them in the file; the first is 1."""
        word = ("record" if self.kind == "fasta" else "row") + "s" * (len(numbers) > 1)
        place = {"csv": " below the header", "tsv": " below the header", "parquet": " (from 1)"}
        found = f"{word} {' and '.join(map(str, numbers))}{place.get(self.kind, '')}"
        return found + (f", id {name!r}" if name else "")

    def rows(self, *numbers: int, name: str = "") -> str:
        """The same behind the file's name."""
        return f"{self.name}, {self.place(*numbers, name=name)}"


@dataclass(frozen=True)
class InputTable:
    """All columns of an input."""

    columns: pa.Table
    numbers: Sequence[int]
    """Number of each row in the file, from 1, as errors name it."""
    lines: Sequence[int] | None = None
    """Of FASTA: the line of each header, from 1."""


def find_source(
    path: Path,
    *,
    format: str | None = None,
    delimiter: str | None = None,
    id_from: str | None = None,
) -> Source:
    """The input at a path; a stream is read to its end here, and never again.

    Parameters
    ----------
    path : a file; `-` or `/dev/stdin` for standard input; a named pipe
    format : None: told by the name, or by the first bytes of a stream without a telling name
    delimiter : a key of DELIMITERS

    Raises
    ------
    BadInput
        There is no such file, it cannot be read as a file, or its format cannot be told.
    """
    if format is not None and format not in KINDS:
        raise BadInput(f"--format {format!r} is unknown.", f"Use one of: {', '.join(KINDS)}.")
    if delimiter is not None and delimiter not in DELIMITERS:
        raise BadInput(
            f"--delimiter {delimiter!r} cannot separate columns.",
            "Use ',', ';', '|' or a tab, or the words comma, semicolon, pipe, tab.",
        )
    content = None
    if is_stream(path):
        content = _read_stream(path)
        kind = format or _kind_by_name(path) or _kind_by_content(Source(path, "", content))
    else:
        kind = file_format(path, format)
    if delimiter is not None and kind not in DELIMITED:
        raise BadInput(
            f"{Source(path, kind).name} is read as {kind}, which has no separator.",
            "Leave --delimiter out, or say --format csv.",
        )
    return Source(path, kind, content, delimiter and DELIMITERS[delimiter], id_from)


def file_format(path: Path, format: str | None = None) -> str:
    """`fasta`, `csv`, `tsv`, `jsonl` or `parquet`: what was asked for, else by the file's name.

    Raises
    ------
    BadInput
        There is no such file, or its name tells no format.
    """
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder.", "Give one file.")
    if not path.exists():
        raise BadInput(f"There is no file {str(path)!r}.", "Check the path.")
    if not path.is_file():
        raise BadInput(f"{str(path)!r} is a device.", "Give a file, or - for standard input.")
    kind = format or _kind_by_name(path)
    if kind is None:
        raise BadInput(
            f"The format of {path.name!r} is unknown.",
            f"Name it {', '.join(FORMATS)}, with .gz behind if gzipped, or say --format.",
        )
    return kind


def is_stream(path: Path) -> bool:
    """Whether a path is standard input, a pipe or another open file: to be read once."""
    if str(path) in _STANDARD_INPUT or str(path.parent) in _OPEN_FILES:
        return True
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def collection_name(path: Path) -> str:
    """The name that a collection has if no other is given.

    Raises
    ------
    BadInput
        A stream has no name.
    """
    if str(path) in _STANDARD_INPUT or str(path.parent) in _OPEN_FILES:
        raise BadInput("Standard input names no collection.", "Give it a name with --name.")
    return path.name.split(".")[0]


def check_text(source: Source) -> None:
    """Refuse what is not UTF-8 by its first bytes: another encoding, a workbook.

    Raises
    ------
    BadInput
        Names what it is and the way out.
    """
    with source.open() as file:
        head = file.read(4096)
    if head.startswith(_GZIP):
        return  # told by the error of whoever decodes it
    where = f"{source.name}, line 1 of the file: not UTF-8 text but"
    save = "Save it as 'CSV UTF-8'"
    if head.startswith(_WORKBOOKS):
        raise BadInput(f"{where} a workbook or a zip file.", f"{save}, or unzip it.")
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        encoding = "UTF-16 without a byte order mark, or no text at all"
    if encoding is not None:
        fix = f"{save}, or convert it: iconv -f {encoding[:6]} -t UTF-8 FILE."
        raise BadInput(f"{where} {encoding}.", fix)


def undecodable_line(source: Source) -> int | None:
    """The first line, from 1, that is not UTF-8."""
    with source.open() as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def cannot_unzip(source: Source, error: Exception) -> BadInput:
    """The error of an input that is named or begins like gzip and is not."""
    return BadInput(
        f"{source.name} cannot be unzipped: {one_line(error)}.",
        "Copy it again, or leave .gz out of its name if it is not gzipped.",
    )


def one_line(error: Exception) -> str:
    """What an error says, on one line, without the full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _read_stream(path: Path) -> bytes:
    name = Source(path, "").name
    try:
        if str(path) in _STANDARD_INPUT:
            if sys.stdin is None or sys.stdin.isatty():
                raise BadInput(
                    "Standard input is a terminal.", "Pipe a file into the command, or name one."
                )
            content = sys.stdin.buffer.read()
        elif path.is_dir():  # an open folder under /dev/fd
            raise BadInput(f"{str(path)!r} is a folder.", "Give one file.")
        else:
            content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{name} cannot be read: {one_line(error)}.", "Give a file.") from error
    if not content:
        raise BadInput(f"{name} is empty.", "Check the command that writes it.")
    return content


def _kind_by_name(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)


def _kind_by_content(source: Source) -> str:
    """Told by the first bytes; what looks like nothing else is CSV."""
    try:
        with source.open() as file:
            head = file.read(1 << 16)
    except (EOFError, OSError, zlib.error) as error:
        raise cannot_unzip(source, error) from error
    if head.startswith(b"PAR1"):
        return "parquet"
    lines = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \r\n").splitlines()
    first = lines[0] if lines else b""
    if first.startswith(b">"):
        return "fasta"
    if first.startswith(b"{"):
        return "jsonl"
    return "tsv" if b"\t" in first else "csv"
