"""Options of every command that reads records from a file."""

from __future__ import annotations

from typing import Annotated

import typer

Molecule = Annotated[
    str | None, typer.Option(help="mrna, dna or protein; default: told from the input.")
]
IdColumn = Annotated[str | None, typer.Option(help="Column of ids; default 'id'.")]
SequenceColumn = Annotated[
    str | None, typer.Option(help="Column of sequences; default 'sequence' or 'seq'.")
]
IdFrom = Annotated[
    str | None,
    typer.Option(help="Ids of FASTA: first-word of the header, or header; of any input: number."),
]
InputFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="fasta, csv, tsv, jsonl or parquet; default: told by the name, of - by its content.",
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="Separator of CSV and TSV: comma, semicolon, tab or pipe, or the character."),
]
BadRecords = Annotated[
    str,
    typer.Option(
        help="Records with a bad letter, no sequence or no id: error, or skip to leave them out."
    ),
]
Ambiguous = Annotated[
    str,
    typer.Option(help="IUPAC codes of nucleotides (RYKMSWBDHV): error, or N to read them as N."),
]
