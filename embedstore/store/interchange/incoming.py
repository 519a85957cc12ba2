"""One import: an HDF5 file that others wrote and a collection in, a recipe of its own out."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.backbones.backbone import Embedded
from embedstore.backbones.specs import BYTES, SPECS
from embedstore.dogma import VIEWS
from embedstore.errors import BadInput
from embedstore.records import LeftOut
from embedstore.regular_files import open_regular
from embedstore.store.collection import Collection
from embedstore.store.collection_files import NAME
from embedstore.store.failures import Failure, FailuresFile
from embedstore.store.interchange.matching import Source, Wanted
from embedstore.store.recipe import IMPORTED, Recipe
from embedstore.store.segment import SegmentWriter
from embedstore.store.store import Store

STORED = ("float16", "float32")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How a file is read."""

    backbone: str
    """Name for what made the embeddings: not one of ours, as ours would not make these numbers."""
    view: str | None = None
    """View whose letters the rows are; None: the records' own molecule."""
    store_dtype: str = "float16"
    segment_bytes: int = 128 << 20
    """Embedding bytes of a segment at most; a longer sequence is a segment of its own."""
    replace: bool = False
    """Let the collection's table be replaced by other records."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.backbone):
            raise BadInput(
                f"{self.backbone!r} cannot name a backbone.",
                "Use letters, digits, '.', '_' and '-' in --backbone.",
            )
        if self.backbone in SPECS:
            raise BadInput(
                f"{self.backbone} is what `embedstore build` makes; imported numbers are not its.",
                f"Give --backbone another name, such as {self.backbone}-imported.",
            )
        if self.view not in (None, *VIEWS):
            raise BadInput(f"--view {self.view} is unknown.", f"Use {', '.join(VIEWS)}.")
        if self.store_dtype not in STORED:
            raise BadInput(
                f"--store-dtype {self.store_dtype} is unknown.", f"Use {' or '.join(STORED)}."
            )


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did."""

    recipe: str
    collection: str
    records: int
    data_sets: int
    """In the file."""
    unknown: int
    """Of those, of no record; they were left."""
    imported: int
    """Embeddings stored by this import."""
    present: int
    """Embeddings that an earlier import of the file had stored."""
    failures: dict[str, int] = field(default_factory=dict)
    """Records without an embedding, by reason."""
    failures_file: str | None = None
    segments: int = 0
    tokens: int = 0
    """Rows stored by this import."""

    @property
    def complete(self) -> bool:
        """True where every record has its embedding."""
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def import_file(
    store: Store,
    path: Path,
    collection: Collection,
    config: ImportConfig,
    left_out: Sequence[LeftOut] = (),
) -> ImportReport:
    """Store the per-token embeddings of an HDF5 file under a recipe that names the file.

    A data set belongs to a record by its hash of the sequence (biotrainer), else by its
    `original_id`, else by its name. All are read and checked before the first is stored; one is in
    memory at a time. One with a value that is not finite in the stored dtype is a failure of its
    record. Running a stopped import again does the rest.

    Parameters
    ----------
    collection : the records; kept in the store if it is not there yet
    left_out : rows of the records' own input that could not become records, to report

    Raises
    ------
    BadInput
        The file is not HDF5, has nothing of the records, or a data set that cannot be theirs;
        nothing was written.
    CollectionConflict
        Other records have the collection's name; nothing was written.
    DamagedSegment, NewerFormat
        A segment of an earlier import of the file cannot be read; nothing was written.
    """
    store.check_collection(collection.name, collection.table, replace=config.replace)
    wanted = Wanted(collection, config.view or _own_view(collection))
    with Source(path, wanted, config.store_dtype) as source:
        source.check()
        recipe = Recipe(
            backbone=config.backbone,
            view=wanted.view,
            width=source.width,
            weights=f"{IMPORTED}sha256:{_digest(path)}",
            compute_dtype="unknown",
            store_dtype=config.store_dtype,
        )
        if recipe.name in store.recipes():
            store.recipe(recipe.name).check_whole()
        store.write_recipe(recipe)
        store.write_collection(collection.name, collection.table, replace=config.replace)
        failures = [Failure(row.id, wanted.view, row.reason, row.detail) for row in left_out]
        failures += wanted.lacking(source.names, source.not_finite, path.name)
        failures_file = FailuresFile(store, recipe.name, failures)
        failures_file.write()
        keys = list(source.names)
        there = store.recipe(recipe.name).has(keys)
        new = [key for key, has in zip(keys, there, strict=True) if not has]
        segments = 0
        row_bytes = recipe.width * BYTES[recipe.store_dtype]
        for part in _parts(new, wanted.rows, config.segment_bytes // row_bytes):
            _write_segment(store, recipe, source, part)
            segments += 1
    return ImportReport(
        recipe=recipe.name,
        collection=collection.name,
        records=len(collection),
        data_sets=source.data_sets,
        unknown=source.unknown,
        imported=len(new),
        present=len(keys) - len(new),
        failures=failures_file.by_reason(),
        failures_file=failures_file.path.name if failures else None,
        segments=segments,
        tokens=sum(wanted.rows[key] for key in new),
    )


def _own_view(collection: Collection) -> str:
    """The view named like the records' molecule."""
    molecules = sorted(set(collection.table.column("molecule").to_pylist()))
    if len(molecules) != 1:
        raise BadInput(
            f"Collection {collection.name!r} holds {' and '.join(molecules) or 'no records'}.",
            f"Say with --view what the rows stand for: {', '.join(VIEWS)}.",
        )
    return str(molecules[0])


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts(keys: Iterable[str], rows: dict[str, int], limit: int) -> Iterator[list[str]]:
    """Runs of keys that come to at most `limit` rows, or of one key."""
    part: list[str] = []
    held = 0
    for key in keys:
        if part and held + rows[key] > limit:
            yield part
            part, held = [], 0
        part.append(key)
        held += rows[key]
    if part:
        yield part


def _write_segment(store: Store, recipe: Recipe, source: Source, keys: list[str]) -> None:
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        for key in keys:
            tokens = source.read(key)
            embedded = Embedded(
                tokens=tokens,
                lengths=np.array([len(tokens)], np.int64),
                mean=tokens.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32),
                cls=None,
                finite=np.array([True]),
            )
            writer.append([key], embedded)
        writer.publish(
            {
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "imported": source.path.name,
                "python": platform.python_version(),
                "versions": {name: version(name) for name in ("embedstore", "h5py", "numpy")},
            }
        )
