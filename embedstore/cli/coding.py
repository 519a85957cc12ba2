"""Options of coding regions, for every command that reads a table of sequences."""

from __future__ import annotations

from typing import Annotated

import typer

CdsColumns = Annotated[
    str | None,
    typer.Option(
        metavar="START,END",
        help="Columns with the first and last position of each coding region in its transcript.",
    ),
]
CdsPositions = Annotated[
    str,
    typer.Option(
        help="How --cds-columns count: 1-based (END is the last letter of the stop codon, as in "
        "GenBank and Ensembl), 0-based (END is the letter after it, as in BED), or auto: as the "
        "sequences show."
    ),
]
Orf = Annotated[
    str | None,
    typer.Option(
        help="longest: take the longest open reading frame of each transcript as its coding "
        "region, from a start codon to the next stop codon, in the three forward frames."
    ),
]
GeneticCode = Annotated[
    int | None,
    typer.Option(
        help="Genetic code by NCBI's number (11: bacteria, 12: CTG-clade yeasts), with all its "
        "start codons; a column 'transl_table' gives one a row. Default: standard, ATG start only."
    ),
]
AllowInnerStop = Annotated[
    bool, typer.Option("--allow-inner-stop", help="Read stop codons inside of a gene as X.")
]
SelenocysteineColumn = Annotated[
    str | None,
    typer.Option(help="Column (true or false) of the rows that read an inner TGA as U."),
]
