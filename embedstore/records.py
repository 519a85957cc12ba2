"""Records from FASTA, CSV, TSV, JSONL and Parquet, plain or gzipped; checked at the door.

Every row is checked before anything is written. Bad ones refuse the whole input, counted and by
name, or are left out by name, as the caller asks. Rows are counted from 1, the header and blank
lines left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.types as types

from embedstore.coding_regions import CodingOptions, give_regions
from embedstore.dogma import MOLECULES, WHOLE, Coding, Unreadable, View, view_of
from embedstore.errors import BadInput
from embedstore.input_files import read_table
from embedstore.input_source import InputTable, Source, find_source
from embedstore.label_columns import decoded, is_text, plain_table
from embedstore.letters import BadLetters, is_normal, looks_like, read_letters

SEQUENCE_COLUMNS = ("sequence", "seq")
RESERVED = re.compile(r"id|sequence|molecule|coding_region|key_.*", re.DOTALL)
BAD_RECORDS = ("error", "skip")
AMBIGUOUS = ("error", "N")
ID_FROM = ("first-word", "header", "number")

_NAMED = 5  # bad rows that an error or a note names


@dataclass(frozen=True, slots=True)
class Record:
    """One input row."""

    id: str
    """Printable, no white space around it."""
    sequence: str
    """Upper case, no white space; U in mRNA, T in DNA."""
    molecule: str
    """`mrna`, `dna` or `protein`."""
    coding: Coding | None = None
    """Where a nucleotide record codes and by which genetic code; None: the whole record, by the
    standard code."""

    def view(self, name: str) -> View:
        """What a backbone of that view (`mrna`, `dna`, `protein` or `cds`) reads of the record.

        Raises
        ------
        Unreadable
            The record has no such view.
        """
        return view_of(self.sequence, self.molecule, name, self.coding)

    def codons(self) -> tuple[int, int] | None:
        """First nt and the nt behind the last of what may be read in codons, 0-based.

        The coding region, else the whole record; None where there is none, or where it is no
        whole number of codons. That it is a reading frame is checked by the views alone.
        """
        if self.molecule == "protein":
            return None
        try:
            start, stop = (self.coding or WHOLE).region(len(self.sequence))
        except Unreadable:
            return None
        return None if (stop - start) % 3 else (start, stop)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An input row that could not become a record."""

    id: str
    """Its id, or `row-N` where that cannot be printed."""
    reason: str
    """A stable word: `bad-letter`, `inner-stop`, `empty-sequence`, `unknown-molecule`, `empty-id`
    or `unprintable-id`."""
    detail: str


@dataclass(frozen=True)
class Records:
    """All rows of one input, checked, in its order; repeated rows are kept once."""

    rows: list[Record]
    labels: pa.Table
    """Every other column, aligned with `rows`."""
    repeated: int
    """Rows left out because an equal one came before."""
    notes: list[str]
    """What was decided for the user, one sentence each."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Bad rows, where the reader was asked to skip them."""
    ambiguous: dict[str, int] = field(default_factory=dict)
    """By record id: how many IUPAC codes were read as N, where the reader was asked to."""

    def within(self, letters: int) -> Records:
        """The rows of at most that many letters.

        Raises
        ------
        BadInput
            There is none.
        """
        kept = [at for at, row in enumerate(self.rows) if len(row.sequence) <= letters]
        if not kept and self.rows:
            raise BadInput(f"Every sequence has more than {letters} letters.", "Raise --max-nt.")
        note = f"{len(self.rows) - len(kept)} rows of more than {letters} letters left out."
        short = self.take(kept)
        return replace(short, notes=[*self.notes, note]) if len(kept) < len(self.rows) else short

    def take(self, kept: Sequence[int]) -> Records:
        """The rows at these positions, in this order."""
        rows = [self.rows[at] for at in kept]
        labels = self.labels
        if labels.num_columns:
            labels = labels.take(pa.array(kept, pa.int64()))
        ambiguous = self.ambiguous and {
            row.id: self.ambiguous[row.id] for row in rows if row.id in self.ambiguous
        }
        return replace(self, rows=rows, labels=labels, ambiguous=ambiguous)


def read_records(
    path: Path,
    *,
    molecule: str | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    id_from: str | None = None,
    format: str | None = None,
    delimiter: str | None = None,
    bad_records: str = "error",
    ambiguous: str = "error",
    coding: CodingOptions | None = None,
) -> Records:
    """Read and check one input.

    Parameters
    ----------
    path : `.fasta`/`.fa`/`.faa`/`.fna`, `.csv`, `.tsv`, `.jsonl` or `.parquet`; `.gz` after any;
        `-` or `/dev/stdin` for standard input, and pipes, which are read once
    molecule : of every row; without it the column `molecule`, else told from the letters
    id_column : default the column `id`; without one, rows are named by number
    sequence_column : default the column `sequence` or `seq`
    id_from : of FASTA `first-word` of the header (the default) or the whole `header`; of any
        input `number`: `row-1`, `row-2`, ...
    format : `fasta`, `csv`, `tsv`, `jsonl` or `parquet`; default: told by the name, of a stream
        without a telling name by its first bytes
    delimiter : `,`, `;`, `|`, a tab, or comma, semicolon, pipe, tab; of CSV and TSV
    bad_records : `error`, or `skip`: leave them out, as `left_out`
    ambiguous : `error`, or `N`: read the IUPAC codes of nucleotides (RYKMSWBDHV) as N
    coding : where coding regions lie and by which genetic code; None: whole records, the standard
        code, or that of a column `transl_table`

    Raises
    ------
    BadInput
        Names the file, the rows and the fix.
    """
    if molecule is not None and molecule not in MOLECULES:
        raise BadInput(f"--molecule {molecule!r} is unknown.", f"Use {_one_of(MOLECULES)}.")
    for option, value, known in (
        ("--bad-records", bad_records, BAD_RECORDS),
        ("--ambiguous", ambiguous, AMBIGUOUS),
        ("--id-from", id_from or "number", ID_FROM),
    ):
        if value not in known:
            raise BadInput(f"{option} {value!r} is unknown.", f"Use {_one_of(known)}.")
    source = find_source(path, format=format, delimiter=delimiter, id_from=id_from)
    _check_id_options(source, id_column, sequence_column)
    notes: list[str] = []
    table = read_table(
        source, {"id", "molecule", *SEQUENCE_COLUMNS, *filter(None, (id_column, sequence_column))}
    )
    ids, sequences, molecules, labels = _columns(source, table, id_column, sequence_column, notes)
    if molecule is None and molecules is None:
        molecule = _tell_molecule(source, table, sequences)
        notes.append(f"Read as {molecule}, told from the letters; --molecule decides otherwise.")
    kinds: Sequence[str] = [molecule] * len(ids) if molecule is not None else molecules or []
    rows, bad, codes = _check_rows(source, table, ids, sequences, kinds, ambiguous)
    if bad and bad_records == "error":
        raise _refusal(source, len(ids), bad)
    numbers: Sequence[int] = table.numbers
    if bad:
        gone = {each.at for each in bad}
        kept = [at for at in range(len(ids)) if at not in gone]
        numbers = [numbers[at] for at in kept]
        labels = labels.take(pa.array(kept, pa.int64())) if labels.num_columns else labels
        notes.append(f"{_some_rows(source, len(bad), len(ids))} left out: {_first(source, bad)}.")
    if codes:
        notes.append(_ambiguity_note(codes))
    rows = give_regions(source.name, rows, labels, coding or CodingOptions(), notes)
    found = _drop_repeats(source, numbers, rows, labels, notes)
    return replace(
        found,
        left_out=[each.left_out for each in bad],
        ambiguous={name: len(letters) for name, letters in codes.items()},
    )


def _check_id_options(source: Source, id_column: str | None, sequence_column: str | None) -> None:
    if source.kind == "fasta" and (id_column or sequence_column):
        raise BadInput(
            f"{source.name} is FASTA, which has no columns.",
            "Leave --id-column and --sequence-column out; --id-from says what an id is.",
        )
    if source.kind != "fasta" and source.id_from not in (None, "number"):
        raise BadInput(
            f"--id-from {source.id_from} is of FASTA, and {source.name} is a table.",
            "Name the column of ids with --id-column, or say --id-from number.",
        )
    if source.id_from == "number" and id_column:
        raise BadInput(
            "--id-from number and --id-column exclude each other.", "Leave one of them out."
        )


def _columns(
    source: Source,
    table: InputTable,
    id_column: str | None,
    sequence_column: str | None,
    notes: list[str],
) -> tuple[list[str], list[str], list[str] | None, pa.Table]:
    """ids, sequences, molecules and the other columns."""
    columns = table.columns
    file, there = source.name, columns.column_names
    if columns.num_rows == 0:
        raise BadInput(f"{file} has no rows.", "Give a table with at least one row.")
    for name, times in Counter(there).items():
        if times > 1:
            what = f"two columns {name!r}" if name else f"{times} columns without a name"
            raise BadInput(f"{file} has {what}.", "Give each column of the header its own name.")
    for option, wanted in (("--id-column", id_column), ("--sequence-column", sequence_column)):
        if wanted is not None and wanted not in there:
            raise BadInput(f"{file} has no column {wanted!r}.", f"{option} takes {_one_of(there)}.")
    if sequence_column is None:
        sequence_column = next((name for name in SEQUENCE_COLUMNS if name in there), None)
        if sequence_column is None:
            raise BadInput(
                f"{file} has no column 'sequence'.",
                f"--sequence-column takes {_one_of(there)}.",
            )
    numbered = source.id_from == "number" and source.kind != "fasta"
    if id_column is None and "id" in there and sequence_column != "id":
        id_column = "id"
    if id_column == sequence_column or "molecule" in (id_column, sequence_column):
        raise BadInput(
            f"Ids are read from {id_column!r} and sequences from {sequence_column!r}.",
            "Give --id-column and --sequence-column two columns, neither of them 'molecule'.",
        )
    if id_column is None or numbered:
        if id_column is None and not numbered:
            notes.append("No column 'id': rows are named row-1, row-2, ...; --id-column names one.")
        ids = [f"row-{number}" for number in table.numbers]
    else:
        ids = _texts(source, columns, id_column)
    molecules = None
    if "molecule" in there:
        molecules = [text.strip() for text in _texts(source, columns, "molecule")]
    used = {id_column, sequence_column, "molecule"}
    labels = columns.select([name for name in there if name not in used])
    if numbered and id_column is not None and "source_id" not in there:
        labels = labels.append_column("source_id", columns.column(id_column))
        notes.append(f"Rows are named by number; the column {id_column!r} is kept as 'source_id'.")
    _check_labels(source, labels)
    return ids, _texts(source, columns, sequence_column), molecules, plain_table(labels)


def _texts(source: Source, table: pa.Table, column: str) -> list[str]:
    """Text and whole numbers as text, null as the empty string."""
    values = decoded(table.column(column))
    kind = values.type
    if not (is_text(kind) or types.is_null(kind) or types.is_integer(kind)):
        raise BadInput(
            f"{source.name}: the column {column!r} holds {kind}, not text.",
            "Store it as text.",
        )
    return list(values.cast(pa.large_string()).fill_null("").to_pylist())


def _check_labels(source: Source, labels: pa.Table) -> None:
    """Refuse columns that the table of a collection could not have."""
    for name in labels.column_names:
        if RESERVED.fullmatch(name):
            raise BadInput(
                f"{source.name} has a column {name!r}, a name this store keeps for itself.",
                "Rename the column.",
            )


def check_sequence(name: str, sequence: str, molecule: str | None, where: str) -> Record:
    """A record that stands in no file, checked like a row.

    Parameters
    ----------
    molecule : None: told from the letters
    where : how an error names its place

    Raises
    ------
    BadInput
        The sequence is empty or has a letter that the molecule does not.
    """
    if molecule is None:
        protein = looks_like(sequence) == "protein"
        molecule = "protein" if protein else "mrna" if "U" in sequence.upper() else "dna"
    try:
        return Record(name, read_letters(sequence, molecule)[0], molecule)
    except BadLetters as error:
        raise BadInput(f"{where}: {error.detail}.", error.fix) from None


def _tell_molecule(source: Source, table: InputTable, sequences: list[str]) -> str:
    """The molecule that all sequences look like, the first 10,000 of them."""
    seen: dict[str, int] = {}
    for number, sequence in zip(table.numbers, sequences[:10_000], strict=False):
        kind = looks_like(sequence)
        if kind is not None:
            seen.setdefault(kind, number)
    if len(seen) > 1:
        (one, at), (other, odd) = seen.items()
        raise BadInput(
            f"{source.rows(at, odd)}: the first looks like {one}, the second like {other}.",
            "Say --molecule, or give the table a column 'molecule'.",
        )
    if "protein" in seen:
        return "protein"
    return "mrna" if any("U" in text or "u" in text for text in sequences[:10_000]) else "dna"


@dataclass(frozen=True)
class _Bad:
    """A row that cannot become a record."""

    at: int
    """Its position in the table."""
    number: int
    name: str
    """Its id, empty where it has none."""
    left_out: LeftOut
    fix: str
    ambiguous: bool = False


def _check_rows(
    source: Source,
    table: InputTable,
    ids: list[str],
    sequences: list[str],
    molecules: Sequence[str],
    ambiguous: str,
) -> tuple[list[Record], list[_Bad], dict[str, str]]:
    """Records of the good rows, the bad rows, and the codes that were read as N by record id."""
    rows: list[Record] = []
    bad: list[_Bad] = []
    codes: dict[str, str] = {}
    for at, (raw_name, raw, molecule) in enumerate(zip(ids, sequences, molecules, strict=True)):
        name = raw_name.strip()
        try:
            _check_name(table, at, name, molecule)
            # the quickest test first: most rows need no more
            if not is_normal(raw, molecule):
                raw, found = read_letters(raw, molecule, ambiguous_as_n=ambiguous == "N")
                if found:
                    codes[name] = found
        except BadLetters as error:
            number = table.numbers[at]
            known = name if name.isprintable() and name else f"row-{number}"
            left_out = LeftOut(known, error.reason, error.detail)
            bad.append(_Bad(at, number, name, left_out, error.fix, error.ambiguous))
            continue
        rows.append(Record(name, raw, molecule))
    return rows, bad, codes


def _check_name(table: InputTable, at: int, name: str, molecule: str) -> None:
    """Raise BadLetters where the id or the molecule of a row is none."""
    if not name:
        detail = "the id is empty"
        if table.lines is not None:
            detail = f"line {table.lines[at]} of the file is a header without an id"
        raise BadLetters("empty-id", detail, "Give every row an id.")
    if not name.isprintable():
        raise BadLetters(
            "unprintable-id", "the id holds a tab, a new line or the like", "Write ids on one line."
        )
    if molecule not in MOLECULES:
        raise BadLetters(
            "unknown-molecule", f"molecule {molecule!r} is unknown", f"Use {_one_of(MOLECULES)}."
        )


def _refusal(source: Source, rows: int, bad: list[_Bad]) -> BadInput:
    """One error for all bad rows."""
    fix = " ".join(dict.fromkeys(each.fix for each in bad))
    if any(each.ambiguous for each in bad):
        fix += " --ambiguous N reads IUPAC codes as N."
    fix += " --bad-records skip leaves bad records out."
    if len(bad) == 1:
        (one,) = bad
        place = source.rows(one.number, name=one.name)
        return BadInput(f"{place}: {one.left_out.detail}.", fix)
    count = _some_rows(source, len(bad), rows)
    return BadInput(f"{source.name}: {count} are bad: {_first(source, bad)}.", fix)


def _some_rows(source: Source, some: int, rows: int) -> str:
    return f"{some:,} of {rows:,} {'records' if source.kind == 'fasta' else 'rows'}"


def _first(source: Source, bad: list[_Bad]) -> str:
    """The first bad rows with their reasons, and how many more there are."""
    shown = [
        f"{source.place(each.number, name=each.name)}: {each.left_out.detail}"
        for each in bad[:_NAMED]
    ]
    more = len(bad) - len(shown)
    return "; ".join(shown) + (f"; and {more:,} more" if more else "")


def _ambiguity_note(codes: dict[str, str]) -> str:
    letters = Counter("".join(codes.values()))
    counts = ", ".join(f"{letter} {count:,}" for letter, count in sorted(letters.items()))
    shown = ", ".join(f"{name!r} {len(found):,}" for name, found in [*codes.items()][:_NAMED])
    more = f", and {len(codes) - _NAMED:,} more" if len(codes) > _NAMED else ""
    return (
        f"{letters.total():,} ambiguous letters ({counts}) read as N in {len(codes):,} records: "
        f"{shown}{more}."
    )


def _drop_repeats(
    source: Source,
    numbers: Sequence[int],
    rows: list[Record],
    labels: pa.Table,
    notes: list[str],
) -> Records:
    """Keep the first of equal rows; equal ids with unequal rows are refused."""
    first: dict[str, int] = {}
    kept = []
    repeats: list[tuple[int, int]] = []
    for at, row in enumerate(rows):
        before = first.setdefault(row.id, at)
        if before == at:
            kept.append(at)
            continue
        repeats.append((before, at))
        if rows[before] != row:
            what = "molecules" if rows[before].sequence == row.sequence else "sequences"
            if replace(rows[before], coding=row.coding) == row:
                what = "coding regions or genetic codes"
            raise _conflict(source, row.id, numbers[before], numbers[at], what)
    if repeats and labels.num_columns:
        old, new = (
            map(repr, labels.take(list(side)).to_pylist())  # in repr, NaN equals NaN
            for side in zip(*repeats, strict=True)
        )
        for (before, at), ours, theirs in zip(repeats, old, new, strict=True):
            if ours != theirs:
                raise _conflict(source, rows[at].id, numbers[before], numbers[at], "labels")
        labels = labels.take(kept)
    if repeats:
        notes.append(f"{len(repeats)} repeated rows left out.")
    return Records([rows[at] for at in kept], labels, len(repeats), notes)


def _conflict(source: Source, name: str, before: int, at: int, what: str) -> BadInput:
    ways = ["--id-from number names rows by number"]
    if source.kind == "fasta" and source.id_from != "header":
        ways.insert(0, "--id-from header takes the whole header line")
    return BadInput(
        f"{source.rows(before, at)} share the id {name!r} but have different {what}.",
        f"Give each its own id; {', '.join(ways)}.",
    )


def _one_of(names: Iterable[str]) -> str:
    return "one of: " + ", ".join(map(repr, names))
