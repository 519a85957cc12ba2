"""Coding regions at the door: records, their table and the user's options in, records out.

Positions in a table are 0- or 1-based, as the user says or as the sequences show; in a `Coding`
they are 0-based and half-open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from embedstore.dogma import WHOLE, Coding, Unreadable, view_of
from embedstore.errors import BadInput
from embedstore.genetic_codes import check_code, genetic_code
from embedstore.label_columns import is_missing_mark
from embedstore.orf import longest_orf

if TYPE_CHECKING:
    from embedstore.records import Record

CODE_COLUMN = "transl_table"
"""Column with the genetic code of each row, named as in GenBank."""

WORDS = {
    "1-based": "counted from 1 with END included",
    "0-based": "counted from 0 with END not included",
}

_INTEGER = re.compile(r"([+-]?[0-9]{1,15})(?:\.0*)?")
_WORDS_OF_BOOL = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class CodingOptions:
    """What a user says of the coding regions of a file."""

    cds_columns: str | None = None
    """`START,END`: columns with the first and last position of each coding region."""
    cds_positions: str = "auto"
    """`1-based`: END is the last letter of the stop codon, as in GenBank and Ensembl; `0-based`:
    END is the letter after, as in BED and Python; `auto`: told from the sequences."""
    orf: str | None = None
    """`longest`: the longest open reading frame of each record."""
    genetic_code: int | None = None
    """NCBI's number; None: the column `transl_table`, else standard with AUG as only start."""
    allow_inner_stop: bool = False
    selenocysteine_column: str | None = None
    """Column that says which rows read an inner UGA as selenocysteine."""

    def __post_init__(self) -> None:
        if self.cds_positions not in ("auto", *WORDS):
            raise BadInput(
                f"--cds-positions {self.cds_positions!r} is unknown.",
                "Use 1-based (END is the last letter, as in GenBank), 0-based (END is the letter "
                "after, as in BED) or auto.",
            )
        if self.orf not in (None, "longest"):
            raise BadInput(f"--orf {self.orf!r} is unknown.", "Use --orf longest.")
        if self.orf and self.cds_columns:
            raise BadInput(
                "--orf and --cds-columns both say where the coding regions are.", "Give one."
            )
        if self.cds_columns is not None and len(set(self.columns)) != 2:
            raise BadInput(
                f"--cds-columns {self.cds_columns!r} does not name two columns.",
                "Give it as START,END, e.g. --cds-columns cds_start,cds_end.",
            )
        if self.cds_positions != "auto" and self.cds_columns is None:
            raise BadInput(
                "--cds-positions says how positions are counted, and no columns hold any.",
                "Name them with --cds-columns START,END.",
            )
        if self.genetic_code is not None:
            check_code(self.genetic_code, "--genetic-code")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in `cds_columns`."""
        names = (self.cds_columns or "").split(",")
        return tuple(name.strip() for name in names if name.strip())

    @property
    def given(self) -> bool:
        """Whether any option was given."""
        return self != CodingOptions()


def give_regions(
    file: str, rows: Sequence[Record], labels: pa.Table, options: CodingOptions, notes: list[str]
) -> list[Record]:
    """The records with their coding regions and genetic codes.

    Parameters
    ----------
    file : its name, for errors
    labels : the other columns, aligned with `rows`
    notes : what was decided for the user is added, one sentence each

    Raises
    ------
    BadInput
        A column is missing or holds something else, a code is unknown, or the positions do not
        fit the sequences.
    """
    if options.given and all(row.molecule == "protein" for row in rows):
        raise BadInput(
            f"{file} holds proteins, which have no coding region.",
            "Leave out the options of coding regions, or say --molecule mrna.",
        )
    codes = _codes(file, rows, labels, options, notes)
    seleno = [False] * len(rows)
    if options.selenocysteine_column is not None:
        name = options.selenocysteine_column
        cells = _column(file, labels, name, "--selenocysteine-column")
        seleno = [
            _read_bool(cell, f"{file}, id {row.id!r}: {name}")
            for cell, row in zip(cells, rows, strict=True)
        ]
    codings = [
        Coding(code=code, inner_stops=options.allow_inner_stop, selenocysteine=each)
        for code, each in zip(codes, seleno, strict=True)
    ]
    if options.cds_columns is not None:
        codings = _from_columns(file, rows, labels, codings, options, notes)
    elif options.orf == "longest":
        codings = [
            coding if row.molecule == "protein" else with_orf(row.sequence, coding)
            for row, coding in zip(rows, codings, strict=True)
        ]
    return [with_coding(row, coding) for row, coding in zip(rows, codings, strict=True)]


def with_coding(row: Record, coding: Coding) -> Record:
    """The record read in that way; a protein, and what says nothing new, stays as it is."""
    if row.molecule == "protein" or coding == WHOLE:
        return row
    return replace(row, coding=coding)


def with_orf(sequence: str, coding: Coding) -> Coding:
    """The same, at the longest open reading frame of a DNA or mRNA; `no-orf` if it has none.

    Raises
    ------
    BadInput
        The genetic code does not tell where a frame ends.
    """
    found = longest_orf(sequence.replace("T", "U"), coding)
    if found is None:
        return replace(coding, start=None, stop=None, absent="no-orf")
    return replace(coding, start=found[0], stop=found[1])


def _codes(
    file: str, rows: Sequence[Record], labels: pa.Table, options: CodingOptions, notes: list[str]
) -> list[int | None]:
    """Genetic code of each row: that of its column, else that of the option."""
    asked = options.genetic_code
    if CODE_COLUMN not in labels.column_names:
        return [asked] * len(rows)
    codes: list[int | None] = []
    own = 0
    for row, cell in zip(rows, labels.column(CODE_COLUMN).to_pylist(), strict=True):
        where = f"{file}, id {row.id!r}: {CODE_COLUMN}"
        if row.molecule == "protein" or _is_blank(cell):
            codes.append(asked)
            continue
        number = _read_integer(cell)
        if number is None:
            raise BadInput(
                f"{where} holds {cell!r}.", "Give NCBI's number of a genetic code, e.g. 11."
            )
        check_code(number, where)
        if asked is not None and number != asked:
            raise BadInput(
                f"{where} is {number}, and --genetic-code says {asked}.",
                f"Leave out --genetic-code, or rename the column {CODE_COLUMN}.",
            )
        own += 1
        codes.append(number)
    if own:
        notes.append(f"The column {CODE_COLUMN!r} gives the genetic code of {own} rows.")
    return codes


def _from_columns(
    file: str,
    rows: Sequence[Record],
    labels: pa.Table,
    codings: Sequence[Coding],
    options: CodingOptions,
    notes: list[str],
) -> list[Coding]:
    """Codings at the positions of two columns, in the convention that the sequences bear out."""
    first, last = (_column(file, labels, name, "--cds-columns") for name in options.columns)
    cells = list(zip(first, last, strict=True))
    ways: dict[str, list[Coding]] = {
        "1-based": [_place(pair, -1, coding) for pair, coding in zip(cells, codings, strict=True)],
        "0-based": [_place(pair, 0, coding) for pair, coding in zip(cells, codings, strict=True)],
    }
    fits = {way: _count(rows, found, _is_coding) for way, found in ways.items()}
    starts = {way: _count(rows, found, _starts) for way, found in ways.items()}
    score = {way: (fits[way], starts[way]) for way in ways}
    better = max(ways, key=lambda way: score[way])
    worse = "0-based" if better == "1-based" else "1-based"
    names = " and ".join(options.columns)
    chosen = better if options.cds_positions == "auto" else options.cds_positions
    short = _count(rows, ways[chosen], _lacks_stop)
    if short > fits[better]:
        raise BadInput(
            f"{file}: the regions of {short} rows end right before a stop codon, as those of GTF "
            "files do, and a coding region ends with it.",
            f"Add 3 to the column {options.columns[1]}.",
        )
    if options.cds_positions == "auto" and score[better] == score[worse]:
        raise BadInput(
            f"{file}: {names} enclose coding sequences in {fits['1-based']} rows {WORDS['1-based']}"
            f", and in {fits['0-based']} {WORDS['0-based']}{_first_misfit(rows, ways)}.",
            "Name the columns of the coding region in letters of the transcript, and say "
            "--cds-positions 1-based or 0-based; or use --orf longest.",
        )
    if options.cds_positions == worse and score[better] > score[worse]:
        raise BadInput(
            f"{file}: {names}, {WORDS[worse]}, enclose coding sequences in {fits[worse]} rows; "
            f"{WORDS[better]}, in {fits[better]}.",
            f"Say --cds-positions {better}.",
        )
    nucleotides = sum(row.molecule != "protein" for row in rows)
    note = f"Positions in {names} are {chosen} ({WORDS[chosen]}): {fits[chosen]} of {nucleotides}"
    note += " rows have a coding sequence there"
    if fits[other := ("0-based" if chosen == "1-based" else "1-based")]:
        note += f"; {fits[other]} would have one if they were {other}"
    notes.append(f"{note}.")
    return ways[chosen]


def _place(pair: tuple[Any, Any], shift: int, coding: Coding) -> Coding:
    """A coding at the positions of two cells; `shift` is added to START, as END is half-open."""
    if any(map(_is_blank, pair)):
        return replace(coding, absent="no-coding-region")
    start, stop = map(_read_integer, pair)
    if start is None or stop is None:
        return replace(coding, absent="bad-positions")
    return replace(coding, start=start + shift, stop=stop)


def _count(
    rows: Sequence[Record], codings: Sequence[Coding], test: Callable[[str, Coding], bool]
) -> int:
    """How many nucleotide records pass a test of their mRNA and coding."""
    return sum(
        row.molecule != "protein" and test(row.sequence.replace("T", "U"), coding)
        for row, coding in zip(rows, codings, strict=True)
    )


def _is_coding(mrna: str, coding: Coding) -> bool:
    try:
        view_of(mrna, "mrna", "cds", coding)
    except Unreadable:
        return False
    return True


def _starts(mrna: str, coding: Coding) -> bool:
    try:
        start, _ = coding.region(len(mrna))
    except Unreadable:
        return False
    return mrna[start : start + 3] in genetic_code(coding.code).start_codons


def _lacks_stop(mrna: str, coding: Coding) -> bool:
    """Whether a region would be a coding sequence with one codon more."""
    if coding.start is None or coding.stop is None or _is_coding(mrna, coding):
        return False
    return _is_coding(mrna, replace(coding, stop=coding.stop + 3))


def _first_misfit(rows: Sequence[Record], ways: dict[str, list[Coding]]) -> str:
    """What stands at the first region, for the error that neither convention fits."""
    for at, row in enumerate(rows):
        coding = ways["0-based"][at]
        if row.molecule == "protein" or coding.start is None or coding.stop is None:
            continue
        try:
            start, stop = coding.region(len(row.sequence))
        except Unreadable as error:
            return f" (id {row.id!r}: {error.detail})"
        letters = row.sequence[max(start - 1, 0) : stop]
        shown = letters if len(letters) <= 14 else f"{letters[:7]}...{letters[-7:]}"
        return f" (id {row.id!r}: {shown})"
    return " (they are blank, or hold no whole numbers)"


def _column(file: str, labels: pa.Table, name: str, option: str) -> list[Any]:
    if name not in labels.column_names:
        there = ", ".join(map(repr, labels.column_names)) or "none besides ids and sequences"
        raise BadInput(f"{file} has no column {name!r} for {option}.", f"Columns: {there}.")
    return list(labels.column(name).to_pylist())


def _is_blank(cell: Any) -> bool:
    """Whether a cell is empty, or says in writing that it is: R and pandas write NA."""
    if isinstance(cell, str):
        return not cell.strip() or is_missing_mark(cell)
    return cell is None or cell != cell


def _read_integer(cell: Any) -> int | None:
    """A whole number, however the table holds it; None: it is none."""
    if isinstance(cell, str):
        found = _INTEGER.fullmatch(cell.strip())  # 12.0: numbers beside an NA, as pandas has them
        return int(found[1]) if found else None
    try:
        number = int(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    exact = number == cell and not isinstance(cell, bool) and abs(number) < 10**15
    return number if exact else None


def _read_bool(cell: Any, where: str) -> bool:
    if _is_blank(cell):
        return False
    number = _read_integer(cell)
    word = str(cell if number is None else number)
    if word.strip().lower() not in _WORDS_OF_BOOL:
        raise BadInput(f"{where} holds {cell!r}.", "Use true or false; blank is false.")
    return _WORDS_OF_BOOL[word.strip().lower()]
