"""The command that embeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from embedstore.cli.app import (
    GAPS,
    INTERRUPTED,
    AsJson,
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
def build(
    input_file: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="FASTA, CSV, TSV, JSONL or Parquet; .gz too; - is standard input."
        ),
    ],
    store: Annotated[
        str, typer.Option(help="Folder of the store, or s3://, gs://, az:// URL; made if missing.")
    ],
    backbone: Annotated[str, typer.Option(help="Short name or hub id; several with commas.")],
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the weights; default the hub.")
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
    name: Annotated[str | None, typer.Option(help="Collection; default the input's name.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N, or several of one kind: cuda:0,1.")
    ] = "auto",
    compute_dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.")
    ] = "auto",
    store_dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    layer: Annotated[int, typer.Option(help="Hidden state to keep; -1 is the last layer.")] = -1,
    long: Annotated[
        str, typer.Option(help="Longer input: error, truncate, skip or window.")
    ] = "error",
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest input, special tokens included.")
    ] = None,
    window_overlap: Annotated[
        int | None, typer.Option(help="Tokens shared by windows; default a quarter of one.")
    ] = None,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Leave records of more letters out; the paper: 1000.")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens in one forward pass.")] = 8_192,
    segment_mb: Annotated[int, typer.Option(help="Size at which a segment is closed.")] = 128,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse records the backbone cannot read.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the collection's table.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, or ray for a Ray cluster.")] = "local",
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Build part I (from 0) of N, as array jobs do.")
    ] = "0/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and estimate; write nothing.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    as_json: AsJson = False,
) -> None:
    """Embed every sequence of INPUT that STORE does not hold yet.

    Example: embedstore build genes.csv --store genes.store --molecule mrna --backbone one-hot-mrna
    """
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.backbones.specs import find_spec
    from embedstore.build import BuildConfig, plan_build
    from embedstore.build import build as run_build
    from embedstore.build.engines import RayCluster, check_engine, choose_engine
    from embedstore.build.hints import plan_hints
    from embedstore.coding_regions import CodingOptions
    from embedstore.input_source import collection_name
    from embedstore.records import read_records
    from embedstore.store import create_store

    with errors_in_one_line():
        coding = CodingOptions(
            cds_columns=cds_columns,
            cds_positions=cds_positions,
            orf=orf,
            genetic_code=genetic_code,
            allow_inner_stop=allow_inner_stop,
            selenocysteine_column=selenocysteine_column,
        )
        check_engine(engine)
        cluster = RayCluster(device=device) if engine == "ray" else None
        weighted = any(find_spec(each).needs_weights for each in backbone.split(","))
        elsewhere = cluster.devices() if cluster is not None and weighted else None
        prepared = [
            prepare(
                BackboneConfig(
                    backbone=each,
                    weights=weights,
                    device=device,
                    compute_dtype=compute_dtype,
                    store_dtype=store_dtype,
                    layer=layer,
                    long=long,
                    max_tokens=max_tokens,
                    window_overlap=window_overlap,
                    offline=offline,
                ),
                elsewhere,
            )
            for each in backbone.split(",")
        ]
        for each in prepared:
            if weights is None and each.config.spec.hub_id and each.checkpoint is not None:
                print(f"{each.recipe.backbone}: {each.checkpoint.origin}", file=sys.stderr)
        config = BuildConfig(
            collection=name or collection_name(input_file),
            batch_tokens=batch_tokens,
            segment_bytes=segment_mb << 20,
            strict=strict,
            replace=replace,
            shard=_parse_shard(shard),
        )
        records = read_records(
            input_file,
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
        if max_nt is not None:
            records = records.within(max_nt)
        for note in records.notes:
            print(note, file=sys.stderr)
        gaps = False
        hints: dict[str, None] = {}
        for each in prepared:
            if dry_run:
                there = create_store(store)
                each = each.known_as(there.recipes())
                plan = plan_build(there, records, each, config)
                show(_describe_plan(plan, each) | {"left_out": len(records.left_out)}, as_json)
                hints |= dict.fromkeys(plan_hints(records.rows, plan.failures))
                continue
            try:
                made_by = cluster or choose_engine(engine, each.devices)
                report = run_build(create_store(store), records, each, config, made_by)
            except KeyboardInterrupt:
                print(
                    "Interrupted. Published segments stay; run the same command to go on.",
                    file=sys.stderr,
                )
                raise typer.Exit(INTERRUPTED) from None
            values = report.as_json()
            if not as_json:
                del values["hints"]  # sentences, which are printed below
            show(values, as_json)
            gaps |= not report.complete
            hints |= dict.fromkeys(report.hints)
        for hint in hints:
            print(hint, file=sys.stderr)
    if gaps:
        print("Some records have no embedding: see the failures file.", file=sys.stderr)
        raise typer.Exit(GAPS)


def _parse_shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit()):
        raise BadInput(f"--shard {text!r} is not I/N.", "Give 0/4, 1/4, 2/4 and 3/4, say.")
    return int(part), int(parts)


def _describe_plan(plan: Any, prepared: Any) -> dict[str, Any]:
    from embedstore.build.plan import estimate_seconds, matrix_rate

    spec, recipe = prepared.config.spec, prepared.recipe
    seconds = 0.0
    if spec.needs_weights and plan.segments:
        rate = matrix_rate(prepared.device, recipe.compute_dtype)
        seconds = estimate_seconds(plan, spec.parameters, recipe.width, spec.layers, rate)
    row_bytes = recipe.width * (2 if recipe.store_dtype == "float16" else 4)
    return {
        "recipe": recipe.name,
        "records": plan.records,
        "distinct": plan.distinct,
        "present": plan.present,
        "to_embed": sum(1 for _ in plan.items),
        "unreadable": len(plan.failures),
        "segments": len(plan.segments),
        "tokens": plan.tokens,
        "bytes": plan.tokens * row_bytes,
        "model_seconds_at_least": round(seconds, 1),
    }
