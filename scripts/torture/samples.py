"""The store that is damaged: small, and with one of everything that a store and a run hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GENES = 30
NAMES = ("transcripts", "isoforms")
BACKBONES = ("one-hot-mrna", "one-hot-protein")
SEGMENT_BYTES = {"one-hot-mrna": 10_000, "one-hot-protein": 20_000}
FAILURES = "20260101T000000.000000Z-abcdef.jsonl"
GRID = ("--label", "label", "--head", "ridge", "--threads", "1")


@dataclass(frozen=True)
class Sample:
    """What the store was made of, and what can be asked of it."""

    tables: dict[str, str]
    """Input file by collection."""
    records: dict[str, str]
    """A record id by collection."""
    backbones: list[str]
    recipes: dict[str, str]
    """Folder of the recipe by backbone."""
    keys: dict[str, list[str]]
    """Every stored key by backbone."""
    probe: str
    """Name of the run's probe."""
    grid_words: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def make_sample(store: str, folder: Path, genes: int = GENES, *, run: bool = True) -> Sample:
    """Build a store of two collections, two recipes of several segments each, and a run.

    It has failures, key indexes and a neighbour index, each made by the product.

    Parameters
    ----------
    store : where nothing is yet; a folder or a URL
    folder : for the inputs and, as `run`, the run
    genes : records, each with two embeddings
    run : also a run of `probe grid`, for which torch is imported
    """
    from embedstore import create_store, open_store
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.build import BuildConfig, build
    from embedstore.records import read_records
    from embedstore.store import index_upkeep
    from torture.operations import command

    index_upkeep.FEW_KEYS = 0  # so few keys are not written otherwise
    tables, records = _write_tables(folder, genes)
    for name, table in tables.items():
        rows = read_records(Path(table), molecule="mrna")
        for backbone in BACKBONES:
            config = BuildConfig(
                collection=name,
                segment_bytes=SEGMENT_BYTES[backbone],
                batch_tokens=400,
                quiet=True,
            )
            build(create_store(store), rows, prepare(BackboneConfig(backbone=backbone)), config)
    opened = open_store(store)
    recipes = {name: opened.find_recipe(name).name for name in BACKBONES}
    keys = {name: opened.recipe(name).keys() for name in BACKBONES}
    _rename_failures(opened.folder)
    grid = [*GRID, "--backbone", BACKBONES[0]]
    words = ("grid", store, "--collection", NAMES[0], *grid, "-o", folder / "run")
    for each in (
        *([("probe", *words)] if run else []),
        ("embedstore", "neighbors", store, records[NAMES[0]], "--backbone", BACKBONES[0]),
        ("embedstore", "verify", store),
    ):
        ended, _, errors, broken = command(*each)
        if ended or broken:
            raise SystemExit(f"the sample cannot be made: {each[1]}: {errors} {broken}")
    return Sample(tables, records, list(BACKBONES), recipes, keys, BACKBONES[0], grid)


def _write_tables(folder: Path, count: int) -> tuple[dict[str, str], dict[str, str]]:
    """Two tables that share records; one record has no protein."""
    from embedstore.synthetic import make_genes

    genes = make_genes(count, seed=5)
    rows = [
        f"{name},{sequence[:60]}UAA,{label:.3f}"
        for name, sequence, label in zip(genes.ids, genes.sequences, genes.label, strict=True)
    ]
    parts = {
        NAMES[0]: [*rows, "broken,AUGGCUUAAGCUUAA,0.5"],
        NAMES[1]: [*rows[:4], "new,AUGGCUGCUUAA,0.1", "newer,AUGGCUGCUGCUUAA,0.2"],
    }
    tables = {}
    for name, lines in parts.items():
        path = folder / f"{name}.csv"
        path.write_text("\n".join(["id,sequence,label", *lines]) + "\n")
        tables[name] = str(path)
    return tables, {NAMES[0]: genes.ids[0], NAMES[1]: "new"}


def _rename_failures(folder: Any) -> None:
    """A name without the time, so that a damage can be repeated on another sample."""
    from embedstore.store.objects import matching

    (path,) = matching(folder, "recipes/*/failures/*.jsonl")
    if isinstance(path, Path):
        path.rename(path.with_name(FAILURES))
    else:
        path.with_name(FAILURES).write(path.read_bytes())
        path.unlink()


def dump(sample: Sample) -> bytes:
    """As JSON, to cross processes."""
    return json.dumps(sample.as_json()).encode()


def load(content: bytes) -> Sample:
    """What `dump` wrote."""
    return Sample(**json.loads(content))
