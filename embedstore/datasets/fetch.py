"""Fetch a data set: a name in, a checked and cleaned table for a build out, and how it came to be.

A file is taken from a local folder where there is one, and downloaded elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedstore.datasets.at_hand import VARIABLE, data_folder, find_part
from embedstore.datasets.checksum import check_form
from embedstore.datasets.cleaning import Step, clean
from embedstore.datasets.download import download
from embedstore.datasets.entry import DataSet, Form, Part
from embedstore.datasets.tables import read_source
from embedstore.errors import BadInput, DataNotAtHand, LicenceNotAccepted
from embedstore.input_source import FORMATS
from embedstore.records import Records
from embedstore.store.files import write_atomically

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Where a data set comes from and how it is cleaned."""

    folder: Path | None = None
    """The only place to look for files; None: EMBEDSTORE_DATA, then a download."""
    accept_licence: bool = False
    max_nt: int | None = None
    """In place of the preset's."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch did."""

    table: Path
    """Parquet: id, sequence, molecule and labels."""
    rows: int
    steps: list[Step]
    document: dict[str, Any]
    """What stands in the JSON file beside the table."""


def table_path(entry: DataSet, output: Path | None) -> Path:
    """The Parquet file that is meant by a file, a folder, or nothing: the current folder.

    Raises
    ------
    BadInput
        The file is to have another format.
    """
    if output is None:
        return Path(f"{entry.name}.parquet")
    if output.suffix == ".parquet" and not output.is_dir():
        return output
    if output.is_file() or output.suffix in (*FORMATS, ".gz", ".json"):
        raise BadInput(
            f"{str(output)!r} is not where a table goes.", "Name a folder or a .parquet file."
        )
    return output / f"{entry.name}.parquet"


def fetch(entry: DataSet, output: Path, config: FetchConfig = FetchConfig()) -> Fetched:
    """Find or download the files of a data set, check and clean them, and write the table.

    Parameters
    ----------
    output : Parquet file; beside it go NAME.json, written last, and what is downloaded

    Raises
    ------
    LicenceNotAccepted, DataNotAtHand, DownloadFailed, BadChecksum, NoReader, BadInput, WriteFailed
        An older table stays as it was.
    """
    files = find_files(entry, output.parent, config)
    preset = entry.preset
    if config.max_nt is not None:
        preset = replace(preset, max_nt=config.max_nt)
    table = _read_parts(entry, [path for path, _ in files])
    records, steps = clean(entry, table, preset)
    content = _as_parquet(records)
    document = _describe(entry, [form for _, form in files]) | {
        "preset": asdict(preset),
        "rows_in": table.num_rows,
        "steps": [asdict(step) for step in steps],
        "rows": len(records.rows),
        "table": {"name": output.name, "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}"},
    }
    write_atomically(output, content)
    write_atomically(output.with_suffix(".json"), _as_bytes(document))
    return Fetched(table=output, rows=len(records.rows), steps=steps, document=document)


def fetch_raw(entry: DataSet, folder: Path, config: FetchConfig = FetchConfig()) -> list[Path]:
    """Bring the files of a data set into a folder as they are, checked, with a JSON beside them.

    Raises
    ------
    LicenceNotAccepted, DataNotAtHand, DownloadFailed, BadChecksum, WriteFailed
    """
    files = find_files(entry, folder, config)
    made = []
    for path, form in files:
        made.append(folder / form.name)
        if not (made[-1].exists() and made[-1].samefile(path)):
            write_atomically(made[-1], path.read_bytes())
    document = _describe(entry, [form for _, form in files])
    write_atomically(folder / f"{entry.name}.raw.json", _as_bytes(document))
    return made


def find_files(entry: DataSet, folder: Path, config: FetchConfig) -> list[tuple[Path, Form]]:
    """A checked file of every part; downloads go into the folder.

    Raises
    ------
    LicenceNotAccepted, DataNotAtHand, DownloadFailed, BadChecksum, BadInput, WriteFailed
    """
    if entry.licence.must_accept and not config.accept_licence:
        raise LicenceNotAccepted(
            f"{entry.name} is under a licence to agree to first, {entry.licence.name}: "
            f"{entry.licence.asks}",
            f"Read {entry.licence.url} and add --accept-licence if you agree to it.",
        )
    if config.folder is not None and not config.folder.is_dir():
        raise BadInput(f"There is no folder {str(config.folder)!r}.", "Correct --from.")
    local = config.folder or data_folder()
    found = []
    for part in entry.parts:
        held = find_part(entry, part, [local] if local else [])
        if held is None and config.folder is None:
            held = _downloaded(part, folder)
        if held is not None:
            path, form = held
            check_form(path, form, "Replace or remove the file, then run the same command again.")
        else:
            form = _to_download(entry, part, config.folder)
            path = download(form, folder)
        found.append((path, form))
    return found


def commands(entry: DataSet, table: Path) -> list[str]:
    """Command lines that embed the table and train or audit probes on it."""
    store = str(table.with_name(f"{entry.name}.store"))
    build = ["embedstore", "build", str(table), "--store", store, "--name", entry.name]
    build += ["--backbone", entry.backbones]
    target = entry.target
    probe = [store, "--collection", entry.name, "--label", target.label]
    if target.classes or target.kind == "per-position":
        probe += ["--kind", target.kind]
    if target.transform:
        probe += ["--transform", target.transform]
    if target.min_label is not None:
        probe += ["--min-label", f"{target.min_label:g}"]
    if entry.split:
        probe += ["--split", f"column:{entry.split}"]
    elif target.kind == "classification":
        probe += ["--split", "random-plain"]  # the paper's
    if target.kind == "per-position":
        return [shlex.join(build), shlex.join(["probe", "audit", *probe])]
    run = str(table.with_name(f"{entry.name}-run"))
    probe += ["--backbone", entry.backbones, "-o", run]
    return [shlex.join(build), shlex.join(["probe", "grid", *probe])]


def _downloaded(part: Part, folder: Path) -> tuple[Path, Form] | None:
    """What an earlier fetch brought."""
    for form in part.forms:
        if form.url and (folder / form.name).is_file():
            return folder / form.name, form
    return None


def _to_download(entry: DataSet, part: Part, folder: Path | None) -> Form:
    names = " or ".join(name for form in part.forms for name in form.names)
    url = next((form.url for form in part.forms if form.url), None)
    if folder is not None:
        where = f"Download it from {url}" if url else f"Its source is {entry.source}: put it there"
        raise DataNotAtHand(
            f"{str(folder)!r} has no file {names}, of the data set {entry.name}.",
            f"{where}, or correct --from.",
        )
    if url is None:
        raise DataNotAtHand(
            f"{entry.name} cannot be downloaded: {names} was made from files of {entry.source}.",
            f"Give the folder that holds it with --from, or in {VARIABLE}.",
        )
    return next(form for form in part.forms if form.url)


def _read_parts(entry: DataSet, paths: Sequence[Path]) -> pa.Table:
    text = {entry.sequence_column, *([entry.id_column] if entry.id_column else [])}
    tables = []
    for part, path in zip(entry.parts, paths, strict=True):
        table = read_source(path, text, sheet=entry.sheet, frame=entry.frame)
        if entry.split and part.name:
            names = pa.array([part.name] * table.num_rows, pa.string())
            table = table.append_column(entry.split, names)
        tables.append(table)
    return pa.concat_tables(tables, promote_options="permissive")


def _describe(entry: DataSet, forms: Sequence[Form]) -> dict[str, Any]:
    from embedstore import __version__

    return {
        "format": FORMAT,
        "data_set": entry.name,
        "title": entry.title,
        "source": entry.source,
        "licence": asdict(entry.licence),
        "files": [asdict(form) for form in forms],
        "target": asdict(entry.target) | {"metric": entry.target.metric},
        "made_by": f"embedstore {__version__}",
    }


def _as_parquet(records: Records) -> bytes:
    import pyarrow.parquet as parquet

    columns = {
        "id": pa.array([row.id for row in records.rows], pa.string()),
        "sequence": pa.array([row.sequence for row in records.rows], pa.large_string()),
        "molecule": pa.array([row.molecule for row in records.rows], pa.string()),
    }
    columns |= {name: records.labels.column(name) for name in records.labels.column_names}
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _as_bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
