"""Records from FASTA, CSV, TSV, JSONL and Parquet, plain or gzipped; checked at the door.

One bad row refuses the whole file, by name, before anything is written. Rows are counted from 1,
the header and blank lines left out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from embedstore.coding_regions import CodingOptions, give_regions
from embedstore.dogma import ALPHABETS, MOLECULES, WHOLE, Coding, Unreadable, View, view_of
from embedstore.errors import BadInput
from embedstore.input_files import Source, read_table

FASTA = (".fa", ".fasta", ".faa", ".fna", ".ffn", ".fas")
FORMATS = {
    **dict.fromkeys(FASTA, "fasta"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
SEQUENCE_COLUMNS = ("sequence", "seq")
RESERVED = re.compile(r"id|sequence|molecule|coding_region|key_.*", re.DOTALL)

_SPACE = re.compile(r"\s+")
_NO_LETTERS = re.compile("[^A-Za-z]+")
_MOSTLY = 0.8  # of the letters of a sequence, to look like nucleotides


def _foreign(letters: str) -> re.Pattern[str]:
    return re.compile(f"[^{re.escape(letters + letters.lower())}]")


# before upper(): the upper case of some foreign letters, as of ß, is letters of a protein
_FOREIGN = {
    "mrna": _foreign(ALPHABETS["mrna"] + "T"),
    "dna": _foreign(ALPHABETS["dna"]),
    "protein": _foreign(ALPHABETS["protein"]),
}
_NORMAL = {molecule: ALPHABETS[molecule].encode() for molecule in MOLECULES}


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

    def within(self, letters: int) -> Records:
        """The rows of at most that many letters.

        Raises
        ------
        BadInput
            There is none.
        """
        kept = [at for at, row in enumerate(self.rows) if len(row.sequence) <= letters]
        if not kept:
            raise BadInput(f"Every sequence has more than {letters} letters.", "Raise --max-nt.")
        note = f"{len(self.rows) - len(kept)} rows of more than {letters} letters left out."
        short = self.take(kept)
        return replace(short, notes=[*self.notes, note]) if len(kept) < len(self.rows) else short

    def take(self, kept: Sequence[int]) -> Records:
        """The rows at these positions, in this order."""
        return Records(
            [self.rows[at] for at in kept],
            self.labels.take(pa.array(kept, pa.int64()))
            if self.labels.num_columns
            else self.labels,
            self.repeated,
            self.notes,
        )


def read_records(
    path: Path,
    *,
    molecule: str | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    coding: CodingOptions | None = None,
) -> Records:
    """Read and check one input file.

    Parameters
    ----------
    path : `.fasta`/`.fa`/`.faa`/`.fna`, `.csv`, `.tsv`, `.jsonl` or `.parquet`; `.gz` after any
    molecule : of every row; without it the column `molecule`, else told from the letters
    id_column : default the column `id`; without one, rows are named by number
    sequence_column : default the column `sequence` or `seq`
    coding : where coding regions lie and by which genetic code; None: whole records, the standard
        code, or that of a column `transl_table`

    Raises
    ------
    BadInput
        Names the file, the row and the fix.
    """
    if molecule is not None and molecule not in MOLECULES:
        raise BadInput(f"--molecule {molecule!r} is unknown.", f"Use {_one_of(MOLECULES)}.")
    source = Source(path, file_format(path))
    if source.kind == "fasta" and (id_column or sequence_column):
        raise BadInput(
            f"{path.name} is FASTA, which has no columns.",
            "Leave --id-column and --sequence-column out.",
        )
    notes: list[str] = []
    ids, sequences, molecules, labels = _columns(source, id_column, sequence_column, notes)
    if molecule is None and molecules is None:
        molecule = _tell_molecule(source, sequences)
        notes.append(f"Read as {molecule}, told from the letters; --molecule decides otherwise.")
    kinds: Sequence[str] = [molecule] * len(ids) if molecule is not None else molecules or []
    rows = _check_rows(source, ids, sequences, kinds)
    rows = give_regions(source.path.name, rows, labels, coding or CodingOptions(), notes)
    return _drop_repeats(source, rows, labels, notes)


def file_format(path: Path) -> str:
    """`fasta`, `csv`, `tsv`, `jsonl` or `parquet`, by the file's name.

    Raises
    ------
    BadInput
        There is no such file, or its name tells no format.
    """
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder.", "Give one file.")
    if not path.is_file():
        raise BadInput(f"There is no file {str(path)!r}.", "Check the path.")
    name = path.name.lower().removesuffix(".gz")
    for suffix, kind in FORMATS.items():
        if name.endswith(suffix):
            return kind
    raise BadInput(
        f"The format of {path.name!r} is unknown.",
        f"Name it {', '.join(FORMATS)}, with .gz behind if gzipped.",
    )


def _columns(
    source: Source, id_column: str | None, sequence_column: str | None, notes: list[str]
) -> tuple[list[str], list[str], list[str] | None, pa.Table]:
    """ids, sequences, molecules and the other columns."""
    named = [name for name in (id_column, sequence_column) if name]
    table = read_table(source, {"id", "molecule", *SEQUENCE_COLUMNS, *named})
    file, there = source.path.name, table.column_names
    if table.num_rows == 0:
        raise BadInput(f"{file} has no rows.", "Give a table with at least one row.")
    for name in there:
        if there.count(name) > 1:
            raise BadInput(f"{file} has two columns {name!r}.", "Rename or remove one.")
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
    if id_column is None and "id" in there and sequence_column != "id":
        id_column = "id"
    if id_column == sequence_column or "molecule" in (id_column, sequence_column):
        raise BadInput(
            f"Ids are read from {id_column!r} and sequences from {sequence_column!r}.",
            "Give --id-column and --sequence-column two columns, neither of them 'molecule'.",
        )
    if id_column is None:
        notes.append("No column 'id': rows are named row-1, row-2, ...; --id-column names one.")
        ids = [f"row-{number}" for number in range(1, table.num_rows + 1)]
    else:
        ids = _texts(source, table, id_column)
    molecules = _texts(source, table, "molecule") if "molecule" in there else None
    used = {id_column, sequence_column, "molecule"}
    labels = table.select([name for name in there if name not in used])
    _check_labels(source, labels)
    return ids, _texts(source, table, sequence_column), molecules, labels


def _texts(source: Source, table: pa.Table, column: str) -> list[str]:
    """Text and whole numbers as text, null as the empty string."""
    values = table.column(column)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    names = ("string", "large_string", "string_view", "null")
    if str(kind) not in names and not pa.types.is_integer(kind):
        raise BadInput(
            f"{source.path.name}: the column {column!r} holds {kind}, not text.",
            "Store it as text.",
        )
    return list(values.cast(pa.large_string()).fill_null("").to_pylist())


def _check_labels(source: Source, labels: pa.Table) -> None:
    """Refuse columns that the table of a collection could not have."""
    import pyarrow.parquet as parquet

    for name in labels.column_names:
        if RESERVED.fullmatch(name):
            raise BadInput(
                f"{source.path.name} has a column {name!r}, a name this store keeps for itself.",
                "Rename the column.",
            )
    try:
        parquet.write_table(labels.schema.empty_table(), io.BytesIO())
    except pa.ArrowException as error:
        raise BadInput(
            f"{source.path.name} has a column that no table can keep: {error}",
            "Remove the column.",
        ) from error


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
        protein = _looks_like(sequence) == "protein"
        molecule = "protein" if protein else "mrna" if "U" in sequence.upper() else "dna"
    return Record(name, _normalise(where, sequence, molecule), molecule)


def _looks_like(sequence: str) -> str | None:
    """`nucleotides` or `protein`; None where there are no letters."""
    letters = _NO_LETTERS.sub("", sequence).upper()
    if not letters:
        return None
    nucleotides = sum(map(letters.count, "ACGTUN"))
    return "nucleotides" if nucleotides >= _MOSTLY * len(letters) else "protein"


def _tell_molecule(source: Source, sequences: list[str]) -> str:
    """The molecule that all sequences look like, the first 10,000 of them."""
    seen: dict[str, int] = {}
    for number, sequence in enumerate(sequences[:10_000], start=1):
        kind = _looks_like(sequence)
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


def _check_rows(
    source: Source, ids: list[str], sequences: list[str], molecules: Sequence[str]
) -> list[Record]:
    rows = []
    for number, (raw_name, raw, molecule) in enumerate(
        zip(ids, sequences, molecules, strict=True), start=1
    ):
        name = raw_name.strip()
        if not name:
            raise BadInput(f"{source.rows(number)}: the id is empty.", "Give every row an id.")
        if not name.isprintable():
            raise BadInput(
                f"{source.rows(number, name=name)}: the id holds a tab, a new line or the like.",
                "Write ids on one line.",
            )
        if molecule not in MOLECULES:
            raise BadInput(
                f"{source.rows(number, name=name)}: molecule {molecule!r} is unknown.",
                f"Use {_one_of(MOLECULES)}.",
            )
        # leaving out every known letter is the quickest test: a microsecond for 1,000 letters
        if not raw or raw.encode().translate(None, _NORMAL[molecule]):
            raw = _normalise(source.rows(number, name=name), raw, molecule)
        rows.append(Record(name, raw, molecule))
    return rows


def _normalise(where: str, raw: str, molecule: str) -> str:
    """Upper case without white space; every letter one the molecule has."""
    sequence = _SPACE.sub("", raw)
    if molecule == "protein":
        sequence = sequence.removesuffix("*")  # the stop of a translated sequence
    if not sequence:
        raise BadInput(
            f"{where}: the sequence is empty.",
            "Remove the row or fill it in.",
        )
    foreign = _FOREIGN[molecule].search(sequence)
    if foreign:
        raise BadInput(
            f"{where}: letter {foreign.group()!r} at position "
            f"{foreign.start()} (0-based, without white space) is not one of {molecule} "
            f"({ALPHABETS[molecule]}).",
            "Correct the letter, remove the row, or give another --molecule.",
        )
    sequence = sequence.upper()
    return sequence.replace("T", "U") if molecule == "mrna" else sequence


def _drop_repeats(
    source: Source, rows: list[Record], labels: pa.Table, notes: list[str]
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
            raise _conflict(source, row.id, before, at, what)
    if repeats and labels.num_columns:
        old, new = (
            map(repr, labels.take(list(side)).to_pylist())  # in repr, NaN equals NaN
            for side in zip(*repeats, strict=True)
        )
        for (before, at), ours, theirs in zip(repeats, old, new, strict=True):
            if ours != theirs:
                raise _conflict(source, rows[at].id, before, at, "labels")
        labels = labels.take(kept)
    if repeats:
        notes.append(f"{len(repeats)} repeated rows left out.")
    return Records([rows[at] for at in kept], labels, len(repeats), notes)


def _conflict(source: Source, name: str, before: int, at: int, what: str) -> BadInput:
    return BadInput(
        f"{source.rows(before + 1, at + 1)} share the id {name!r} but have different {what}.",
        "Give each its own id, or have rows named by number: no --id-column and no column 'id'.",
    )


def _one_of(names: Iterable[str]) -> str:
    return "one of: " + ", ".join(map(repr, names))
