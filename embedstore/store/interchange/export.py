"""One export: a store and options in, a file that appears whole and a report out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedstore.errors import BadInput
from embedstore.store.files import replacing
from embedstore.store.interchange.hdf5 import write_hdf5
from embedstore.store.interchange.rows import embedded_rows
from embedstore.store.interchange.tables import write_npz, write_parquet
from embedstore.store.store import Store

FORMATS = ("h5", "npz", "parquet")
LAYOUTS = ("biotrainer", "ids", "protspace")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What kind of file an export writes."""

    format: str
    """`h5`, `npz` or `parquet`."""
    layout: str | None = None
    """Of an HDF5 file: `biotrainer` (None means it), `ids` or `protspace`."""
    pooled: bool = False
    """One vector a sequence, the average over its tokens; all that npz, parquet and ProtSpace
    take."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise BadInput(f"--format {self.format} is unknown.", f"Use {', '.join(FORMATS)}.")
        if self.layout is not None and self.format != "h5":
            raise BadInput(f"{self.format} has one layout.", "Leave --layout out.")
        if self.layout not in (None, *LAYOUTS):
            raise BadInput(f"--layout {self.layout} is unknown.", f"Use {', '.join(LAYOUTS)}.")
        if not self.pooled and (self.format != "h5" or self.layout == "protspace"):
            raise BadInput(
                f"{self.layout or self.format} holds one vector a sequence.",
                "Add --pooled, or write one matrix a sequence with --format h5 --layout ids.",
            )


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote."""

    recipe: str
    output: str
    format: str
    layout: str | None
    records: int
    """Records in the file."""
    distinct: int
    """Different embeddings among them."""
    missing: int
    """Records left out: they have no embedding."""
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def export_file(
    store: Store,
    backbone: str,
    output: Path,
    config: ExportConfig,
    collection: str | None = None,
) -> ExportReport:
    """Write the embeddings of a collection to a file for other programs.

    Embeddings are checked against their checksums and pass through memory in small batches. The
    file gets its name when it is complete and on disk; an older one stays until then. A link of
    that name is replaced, and what it leads to stays as it is.

    Parameters
    ----------
    backbone : backbone or recipe folder
    collection : None: every collection of the store

    Raises
    ------
    MissingRecipe, MissingCollection, MissingEmbedding, DamagedSegment, WriteFailed
    BadInput
        Ids that cannot stand in one file, or something else than a file stands at `output`.
    """
    if output.exists() and not output.is_file():
        raise BadInput(
            f"{str(output)!r} is a folder, a pipe or a device, and an export writes a file.",
            "Name a file with -o.",
        )
    reader = store.recipe(backbone)
    rows, missing = embedded_rows(store, reader, collection)
    layout = (config.layout or "biotrainer") if config.format == "h5" else None
    with replacing(output) as file:
        if config.format == "npz":
            write_npz(file, reader, rows)
        elif config.format == "parquet":
            write_parquet(file, reader, rows)
        else:
            by_id = layout != "biotrainer"
            write_hdf5(Path(file.name), reader, rows, by_id=by_id, pooled=config.pooled)
    return ExportReport(
        recipe=reader.name,
        output=str(output),
        format=config.format,
        layout=layout,
        records=len(rows),
        distinct=len({row.key for row in rows}),
        missing=missing,
        bytes=output.stat().st_size,
    )
