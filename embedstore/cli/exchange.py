"""Commands that bring data in and out in the forms that others read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli.app import (
    GAPS,
    AsJson,
    Backbone,
    CollectionName,
    StorePath,
    app,
    errors_in_one_line,
    show,
)
from embedstore.cli.coding import (
    AllowInnerStop,
    CdsColumns,
    CdsPositions,
    GeneticCode,
    Orf,
    SelenocysteineColumn,
)
from embedstore.cli.reading import (
    Ambiguous,
    BadRecords,
    Delimiter,
    IdColumn,
    IdFrom,
    InputFormat,
    Molecule,
    SequenceColumn,
)
from embedstore.errors import BadInput


@app.command()
def export(
    store: StorePath,
    backbone: Backbone,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    file_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="h5, npz or parquet.")
    ] = "h5",
    layout: Annotated[
        str | None, typer.Option(help="Of h5: biotrainer (the default), ids or protspace.")
    ] = None,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="The average of each sequence, not one row a token.")
    ] = False,
    collection: CollectionName = None,
    as_json: AsJson = False,
) -> None:
    """Write embeddings to a file that other programs read: HDF5, .npz or Parquet.

    Example: embedstore export genes.store --backbone one-hot-mrna --format h5 -o genes.h5
    """
    from embedstore.store import open_store
    from embedstore.store.interchange import ExportConfig, export_file

    with errors_in_one_line():
        config = ExportConfig(format=file_format, layout=layout, pooled=pooled)
        report = export_file(open_store(store), backbone, output, config, collection)
        show(report.as_json(), as_json)
    if report.missing:
        print(
            f"{report.missing} records have no embedding; `embedstore missing` says why.",
            file=sys.stderr,
        )
        raise typer.Exit(GAPS)


@app.command("import")
def import_embeddings(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="HDF5 with one (L, D) data set a sequence.")
    ],
    store: Annotated[
        str, typer.Option(help="Folder of the store, or s3://, gs://, az:// URL; made if missing.")
    ],
    backbone: Annotated[str, typer.Option(help="A new name for what made the embeddings.")],
    collection: Annotated[str | None, typer.Option(help="Collection with the sequences.")] = None,
    fasta: Annotated[
        Path | None,
        typer.Option(
            help="Or a file with them: FASTA, CSV, TSV, JSONL or Parquet; - is standard input."
        ),
    ] = None,
    molecule: Molecule = None,
    id_column: IdColumn = None,
    sequence_column: SequenceColumn = None,
    id_from: IdFrom = None,
    input_format: InputFormat = None,
    delimiter: Delimiter = None,
    bad_records: BadRecords = "error",
    ambiguous: Ambiguous = "error",
    cds_columns: CdsColumns = None,
    cds_positions: CdsPositions = "auto",
    orf: Orf = None,
    genetic_code: GeneticCode = None,
    allow_inner_stop: AllowInnerStop = False,
    selenocysteine_column: SelenocysteineColumn = None,
    name: Annotated[
        str | None, typer.Option(help="With --fasta: the collection; default the file's name.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the collection's table.")
    ] = False,
    view: Annotated[
        str | None, typer.Option(help="Whose letters the rows are; default the molecule's.")
    ] = None,
    store_dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    as_json: AsJson = False,
) -> None:
    """Store embeddings that another program wrote to HDF5: biotrainer, bio_embeddings, UniProt.

    Example: embedstore import prott5.h5 --store p.store --backbone prott5 --fasta proteins.fasta
    """
    from embedstore.coding_regions import CodingOptions
    from embedstore.input_source import collection_name
    from embedstore.records import LeftOut, read_records
    from embedstore.store import Collection, create_store, open_store
    from embedstore.store.collection import make_table
    from embedstore.store.interchange import ImportConfig, import_file

    with errors_in_one_line():
        config = ImportConfig(
            backbone=backbone, view=view, store_dtype=store_dtype, replace=replace
        )
        coding = CodingOptions(
            cds_columns=cds_columns,
            cds_positions=cds_positions,
            orf=orf,
            genetic_code=genetic_code,
            allow_inner_stop=allow_inner_stop,
            selenocysteine_column=selenocysteine_column,
        )
        if collection is not None and coding.given:
            raise BadInput(
                f"Collection {collection!r} has its coding regions already.",
                "Leave out the options of coding regions, or give the sequences with --fasta.",
            )
        if (collection is None) == (fasta is None):
            raise BadInput(
                "The sequences come from one place.", "Give either --collection or --fasta."
            )
        if fasta is None:
            opened = open_store(store)
            left_out: list[LeftOut] = []
            sequences = opened.collection(str(collection))
        else:
            opened = create_store(store)
            named = name or collection_name(fasta)
            records = read_records(
                fasta,
                molecule=molecule,
                id_column=id_column,
                sequence_column=sequence_column,
                id_from=id_from,
                format=input_format,
                delimiter=delimiter,
                bad_records=bad_records,
                ambiguous=ambiguous,
                coding=coding,
            )
            for note in records.notes:
                print(note, file=sys.stderr)
            table = make_table(records.rows, records.labels)
            sequences = Collection(named, table)
            left_out = records.left_out
        report = import_file(opened, file, sequences, config, left_out)
        show(report.as_json(), as_json)
    if not report.complete:
        print("Some records have no embedding: see the failures file.", file=sys.stderr)
        raise typer.Exit(GAPS)
