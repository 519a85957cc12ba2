"""The command line of `embedstore`: options in, library calls, plain text or JSON out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from embedstore.errors import BadInput, StoreError

GAPS, FAILED, INTERRUPTED = 3, 1, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Precompute and read embeddings of biological language models.",
)
data = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(data, name="data")

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Backbone = Annotated[str, typer.Option(help="Short name, hub id or recipe folder.")]
CollectionName = Annotated[str | None, typer.Option(help="Name of the collection.")]


@app.callback()
def main() -> None:
    """Precompute and read embeddings of biological language models."""
    let_idle_threads_sleep()


def let_idle_threads_sleep() -> None:
    """Keep waiting threads of torch off the processor; it must be said before torch is imported.

    By default they spin: on cores shared with anything else, two threads then ran twenty times
    slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Our errors as one line on stderr and exit code 1; bugs keep their traceback."""
    try:
        yield
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None


@app.command()
def build(
    input_file: Annotated[
        Path, typer.Argument(metavar="INPUT", help="FASTA, CSV, TSV, JSONL or Parquet; .gz too.")
    ],
    store: Annotated[Path, typer.Option(help="Folder of the store; made if missing.")],
    backbone: Annotated[str, typer.Option(help="Short name or hub id; several with commas.")],
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the weights; default the hub.")
    ] = None,
    molecule: Annotated[
        str | None, typer.Option(help="mrna, dna or protein; default: told from the input.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids; default 'id'.")] = None,
    sequence_column: Annotated[
        str | None, typer.Option(help="Column of sequences; default 'sequence' or 'seq'.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Collection; default the input's name.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N, or several: cuda:0,1.")
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
    from embedstore.build import BuildConfig, plan_build
    from embedstore.build import build as run_build
    from embedstore.build.engines import choose_engine, parse_devices
    from embedstore.records import file_format, read_records
    from embedstore.store import create_store, open_store

    with errors_in_one_line():
        prepared = [
            prepare(
                BackboneConfig(
                    backbone=each,
                    weights=weights,
                    device=parse_devices(device)[0],
                    compute_dtype=compute_dtype,
                    store_dtype=store_dtype,
                    layer=layer,
                    long=long,
                    max_tokens=max_tokens,
                    window_overlap=window_overlap,
                    offline=offline,
                )
            )
            for each in backbone.split(",")
        ]
        file_format(input_file)
        config = BuildConfig(
            collection=name or input_file.name.split(".")[0],
            batch_tokens=batch_tokens,
            segment_bytes=segment_mb << 20,
            strict=strict,
            replace=replace,
            shard=_parse_shard(shard),
        )
        records = read_records(
            input_file, molecule=molecule, id_column=id_column, sequence_column=sequence_column
        )
        if max_nt is not None:
            records = records.within(max_nt)
        for note in records.notes:
            print(note, file=sys.stderr)
        gaps = False
        for each in prepared:
            if dry_run:
                there = (store / "store.json").exists()
                plan = plan_build(open_store(store) if there else None, records, each, config)
                _show(_describe_plan(plan, each), as_json)
                continue
            try:
                report = run_build(
                    create_store(store), records, each, config, choose_engine(engine, device)
                )
            except KeyboardInterrupt:
                print(
                    "Interrupted. Published segments stay; run the same command to go on.",
                    file=sys.stderr,
                )
                raise typer.Exit(INTERRUPTED) from None
            _show(report.as_json(), as_json)
            gaps |= not report.complete
    if gaps:
        print("Some records have no embedding: see the failures file.", file=sys.stderr)
        raise typer.Exit(GAPS)


@app.command()
def ls(
    store: StorePath,
    name: Annotated[str | None, typer.Argument(help="Collection or recipe to list.")] = None,
    as_json: AsJson = False,
) -> None:
    """List collections and recipes; with a NAME, its record ids or its keys.

    Example: embedstore ls genes.store
    """
    from embedstore.store import open_store

    with errors_in_one_line():
        opened = open_store(store)
        if name is None:
            _show_rows(
                [
                    {"kind": "collection", "name": each, "rows": len(opened.collection(each))}
                    for each in opened.collections()
                ]
                + [
                    {"kind": "recipe", "name": each, "rows": len(opened.recipe(each))}
                    for each in opened.recipes()
                ],
                as_json,
            )
            return
        is_collection = name in opened.collections()
        names = opened.collection(name).ids if is_collection else opened.recipe(name).keys()
        print(json.dumps(names) if as_json else "\n".join(names))


@app.command()
def info(store: StorePath, as_json: AsJson = False) -> None:
    """Say what STORE holds: bytes, recipes, how much of each collection they cover, and whence.

    `records` is all of a collection, `with_view` those that the backbone can read at all. Drafts
    and quarantined segments are seen by no reader.

    Example: embedstore info genes.store
    """
    from embedstore.store import open_store
    from embedstore.store.inventory import inventory

    with errors_in_one_line():
        held = inventory(open_store(store))
        if as_json:
            print(json.dumps(held, indent=1))
            return
        for row in held["provenance"]:
            row["made"] = ", ".join(f"{name} {value}" for name, value in row["made"].items())
        for number, rows in enumerate(held.values()):
            if number and rows:
                print()
            _show_rows(rows, as_json)


@app.command()
def get(
    store: StorePath,
    record: Annotated[str, typer.Argument(metavar="ID", help="Record id, or a key.")],
    backbone: Backbone,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npy file to write.")],
    collection: CollectionName = None,
) -> None:
    """Write one per-token embedding, shape (L, D), as .npy.

    Example: embedstore get genes.store gene-1 --backbone one-hot-mrna -o gene-1.npy
    """
    import io

    import numpy as np

    from embedstore.store import open_store
    from embedstore.store.files import write_atomically

    with errors_in_one_line():
        rows = open_store(store).recipe(backbone).get(record, collection)
        content = io.BytesIO()
        np.save(content, rows, allow_pickle=False)
        write_atomically(output, content.getvalue())
        print(f"{output}: {rows.shape[0]} x {rows.shape[1]} {rows.dtype}", file=sys.stderr)


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
        _show(report.as_json(), as_json)
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
    store: Annotated[Path, typer.Option(help="Folder of the store; made if missing.")],
    backbone: Annotated[str, typer.Option(help="A new name for what made the embeddings.")],
    collection: Annotated[str | None, typer.Option(help="Collection with the sequences.")] = None,
    fasta: Annotated[
        Path | None,
        typer.Option(help="Or a file with them: FASTA, CSV, TSV, JSONL or Parquet."),
    ] = None,
    molecule: Annotated[
        str | None, typer.Option(help="With --fasta: mrna, dna or protein; default: told from it.")
    ] = None,
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
    from embedstore.errors import BadInput
    from embedstore.records import read_records
    from embedstore.store import Collection, create_store, open_store
    from embedstore.store.collection import make_table
    from embedstore.store.interchange import ImportConfig, import_file

    with errors_in_one_line():
        config = ImportConfig(
            backbone=backbone, view=view, store_dtype=store_dtype, replace=replace
        )
        if (collection is None) == (fasta is None):
            raise BadInput(
                "The sequences come from one place.", "Give either --collection or --fasta."
            )
        if fasta is None:
            opened = open_store(store)
            sequences = opened.collection(str(collection))
        else:
            opened = create_store(store)
            records = read_records(fasta, molecule=molecule)
            for note in records.notes:
                print(note, file=sys.stderr)
            table = make_table(records.rows, records.labels)
            sequences = Collection(name or fasta.name.split(".")[0], table)
        report = import_file(opened, file, sequences, config)
        _show(report.as_json(), as_json)
    if not report.complete:
        print("Some records have no embedding: see the failures file.", file=sys.stderr)
        raise typer.Exit(GAPS)


@app.command()
def missing(
    store: StorePath,
    backbone: Backbone,
    collection: CollectionName = None,
    as_json: AsJson = False,
) -> None:
    """List the records without an embedding, and why.

    Example: embedstore missing genes.store --backbone one-hot-mrna
    """
    from embedstore.build.missing import missing_records
    from embedstore.store import open_store

    with errors_in_one_line():
        _show_rows(missing_records(open_store(store), backbone, collection), as_json)


@app.command()
def backbones(as_json: AsJson = False) -> None:
    """List every backbone: what it reads, how wide and large it is, and its licence.

    Lengths are in letters of the view; sizes in bytes, of 1,000 letters in the store as float16
    and of the weights in memory.

    Example: embedstore backbones
    """
    from embedstore.backbones.specs import SPECS

    _show_rows([spec.as_row() for spec in SPECS.values()], as_json)


@data.command()
def synthetic(
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV file to write.")],
    rows: Annotated[int, typer.Option(min=1, help="How many genes.")] = 1500,
    seed: Annotated[int, typer.Option(help="Same seed, same genes.")] = 0,
) -> None:
    """Write SYNTHETIC coding sequences with a planted signal, to try the tool on.

    Example: embedstore data synthetic --rows 1500 -o synthetic.csv
    """
    from embedstore.store.files import write_atomically
    from embedstore.synthetic import make_genes

    with errors_in_one_line():
        write_atomically(output, make_genes(rows, seed).as_csv().encode())
        print(f"{output}: {rows} synthetic genes", file=sys.stderr)


def _parse_shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit()):
        raise BadInput(f"--shard {text!r} is not I/N.", "Give 0/4, 1/4, 2/4 and 3/4, say.")
    return int(part), int(parts)


@app.command()
def verify(
    store: StorePath,
    backbone: Annotated[
        str | None, typer.Option(help="Check this backbone or recipe folder alone.")
    ] = None,
    sample: Annotated[
        float | None, typer.Option(help="Check so many sequences a recipe, or a part below 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every checksum, count and key in STORE; exit 1 where something is damaged.

    Example: embedstore verify genes.store --sample 1000
    """
    from embedstore.store import open_store
    from embedstore.store.verify import verify as run_verify

    with errors_in_one_line():
        report = run_verify(open_store(store), backbone, sample=sample)
        if as_json:
            print(json.dumps(report.as_json(), indent=1))
        else:
            for problem in report.problems:
                print(f"{problem.where}: {problem.what}")
        counts = ", ".join(f"{count:,} {name}" for name, count in report.checked.items())
        print(f"Checked {counts}: {len(report.problems)} problems.", file=sys.stderr)
        if not report.whole:
            print("`embedstore repair` sets damaged segments aside.", file=sys.stderr)
            raise typer.Exit(FAILED)


@app.command()
def repair(store: StorePath, as_json: AsJson = False) -> None:
    """Move the damaged segments of STORE to quarantine, so that the next build embeds them anew.

    Nothing is deleted. Exit 1 where something is left that only a copy can mend.

    Example: embedstore repair genes.store
    """
    from embedstore.store import open_store
    from embedstore.store.repair import repair as run_repair

    with errors_in_one_line():
        report = run_repair(open_store(store))
        if as_json:
            print(json.dumps(report.as_json(), indent=1))
        else:
            for where in [*report.quarantined, *report.index_removed]:
                print(where)
        for problem in report.left:
            print(f"not repaired: {problem.where}: {problem.what}", file=sys.stderr)
        if report.quarantined:
            print("Build again to embed what was set aside.", file=sys.stderr)
        if report.left:
            raise typer.Exit(FAILED)


@app.command()
def gc(
    store: StorePath,
    older_than: Annotated[
        str, typer.Option(help="Age of drafts to remove: a number and s, m, h or d.")
    ] = "24h",
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Remove what repair set aside, too.")
    ] = False,
    redundant: Annotated[
        bool, typer.Option("--redundant", help="Remove segments that no reader uses, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would go; remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what killed builds left in STORE.

    Example: embedstore gc genes.store --dry-run
    """
    from dataclasses import asdict

    from embedstore.store import open_store
    from embedstore.store.gc import collect_garbage, parse_age

    with errors_in_one_line():
        removed = collect_garbage(
            open_store(store),
            older_than=parse_age(older_than),
            quarantine=quarantine,
            redundant=redundant,
            dry_run=dry_run,
        )
        _show_rows([asdict(each) for each in removed], as_json)


@app.command()
def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar="SOURCE... INTO", help="Stores; the last is written.")
    ],
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Name collections SOURCE-NAME, after their stores.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy collections and embeddings of every SOURCE into the store INTO, checking them.

    Exit 1 where damaged segments were left out.

    Example: embedstore merge node-1.store node-2.store all.store
    """
    from embedstore.store import open_store
    from embedstore.store.merge import merge as run_merge

    with errors_in_one_line():
        if len(stores) < 2:
            raise typer.BadParameter("name at least one SOURCE, and INTO")
        *sources, into = stores
        report = run_merge([open_store(source) for source in sources], into, prefix=prefix)
        values = report.as_json()
        if not as_json:
            values["collections"] = ", ".join(report.collections) or "none new"
            values["damaged"] = len(report.damaged)
        _show(values, as_json)
        for line in report.damaged:
            print(f"left out: {line}", file=sys.stderr)
        if not report.whole:
            raise typer.Exit(FAILED)


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


def _show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items()) or "none"
        print(f"{name:24} {_text(value)}")


def _show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        return
    texts = [list(rows[0])] + [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print(
            "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
