"""One build: records and a backbone in, published segments and a report out."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embedstore.backbones.load import PreparedBackbone
from embedstore.build.engines import Engine, OneDevice
from embedstore.build.hints import plan_hints
from embedstore.build.plan import Item, Plan, make_plan
from embedstore.build.progress import Progress
from embedstore.build.worker import Tally
from embedstore.errors import BadInput
from embedstore.records import Records
from embedstore.store import Store
from embedstore.store.collection import make_table
from embedstore.store.failures import Failure, FailuresFile
from embedstore.store.segment import segment_name


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How a build runs; nothing here changes the numbers."""

    collection: str
    """Name under which the records are kept."""
    batch_tokens: int = 8_192
    """Tokens in one forward pass."""
    segment_bytes: int = 128 << 20
    """Embedding bytes after which a segment is closed."""
    strict: bool = False
    """Refuse records that the backbone cannot read, instead of skipping them."""
    replace: bool = False
    """Let the collection's table be replaced by other records."""
    shard: tuple[int, int] = (0, 1)
    """(i, n): build the i-th of n parts, from 0. Parts are told by the names of the segments, so
    n builds of one input need no coordinator, whenever each starts."""
    quiet: bool = False
    """No progress."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise BadInput(f"--batch-tokens is {self.batch_tokens}.", "Give at least 1.")
        if self.segment_bytes < 1:
            raise BadInput(f"--segment-mb is {self.segment_bytes >> 20}.", "Give at least 1.")
        part, parts = self.shard
        if not 0 <= part < parts:
            raise BadInput(f"--shard {part}/{parts} is no part.", "Give 0/n to (n-1)/n.")

    def owns(self, items: list[Item]) -> bool:
        """Whether a planned segment is of this build's shard."""
        part, parts = self.shard
        return int(segment_name([item.key for item in items]), 16) % parts == part


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did."""

    recipe: str
    collection: str
    records: int
    distinct: int
    """Different views."""
    present: int
    """Of those, stored before."""
    embedded: int
    failures: dict[str, int] = field(default_factory=dict)
    """Records left out, by reason."""
    hints: list[str] = field(default_factory=list)
    """What would bring records in, where many fail alike."""
    cut: int = 0
    """Records stored by this build, but not whole."""
    failures_file: str | None = None
    """Lists what was left out or cut, and why."""
    segments: int = 0
    tokens: int = 0
    """Token rows stored by this build."""
    share: dict[str, float] = field(default_factory=dict)
    """Part of the whole time that each stage was at work; stages run beside each other. On a GPU
    `model` is the time to queue the work and `copy` the time to wait for it."""
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """True where every record has its embedding."""
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return {**asdict(self), "tokens_per_second": round(rate, 1)}


def plan_build(
    store: Store | None, records: Records, prepared: PreparedBackbone, config: BuildConfig
) -> Plan:
    """What `build` would do; writes nothing.

    Parameters
    ----------
    store : None where there is none yet

    Raises
    ------
    TooLong, BadInput
        A record cannot be read and the build was asked to be strict.
    DamagedSegment, NewerFormat
        A segment of the recipe cannot be read: nobody knows which records it has.
    """
    if store is not None:
        prepared = prepared.known_as(store.recipes())
    reader = None
    if store is not None and prepared.recipe.name in store.recipes():
        reader = store.recipe(prepared.recipe.name)
        reader.check_whole()  # what a damaged segment holds would be embedded twice
    plan = make_plan(
        records.rows,
        prepared,
        lambda keys: reader.has(keys) if reader else np.zeros(len(keys), np.bool_),
        config.segment_bytes,
    )
    if plan.failures and config.strict:
        first = plan.failures[0]
        raise BadInput(
            f"{len(plan.failures)} of {plan.records} records have no {first.view} view, which "
            f"{prepared.recipe.backbone} reads; the first is {first.id!r}: {first.detail}.",
            "Correct them, or leave --strict out to skip them.",
        )
    return plan


def build(
    store: Store,
    records: Records,
    prepared: PreparedBackbone,
    config: BuildConfig,
    engine: Engine | None = None,
) -> BuildReport:
    """Embed every record that is not stored yet.

    Segments are published one by one: whatever stops the build, what was published stays, and
    running it again does the rest.

    Parameters
    ----------
    engine : where the segments are made; None: the device of `prepared`, in this process

    Raises
    ------
    StoreError
        Before anything is written: records or weights that cannot be used.
    """
    began = time.monotonic()
    prepared = prepared.known_as(store.recipes())
    table = make_table(records.rows, records.labels)
    store.check_collection(config.collection, table, replace=config.replace)
    plan = plan_build(store, records, prepared, config)
    mine = [items for items in plan.segments if config.owns(items)]
    tokens = sum(item.count for items in mine for item in items)
    engine = engine or OneDevice()
    if mine:
        engine.start(store.recipe_folder(prepared.recipe.name), prepared, config.batch_tokens)
    store.write_recipe(prepared.recipe)
    store.write_collection(config.collection, table, replace=config.replace)
    view = prepared.recipe.view
    left_out = [Failure(row.id, view, row.reason, row.detail) for row in records.left_out]
    failures = FailuresFile(store, prepared.recipe.name, [*left_out, *plan.failures], plan.cuts)
    failures.write()
    tally = Tally()
    with Progress(prepared.recipe.backbone, tokens, quiet=config.quiet) as progress:
        for part in engine.build(mine, progress.advance) if mine else ():
            tally.add(part)
            failures.add(
                [
                    Failure(name, prepared.recipe.view, lost.reason, lost.detail, lost.key)
                    for lost in part.lost
                    for name in plan.ids[lost.key]
                ]
            )
    return BuildReport(
        recipe=prepared.recipe.name,
        collection=config.collection,
        records=plan.records,
        distinct=plan.distinct,
        present=plan.present,
        embedded=tally.embedded,
        failures=failures.by_reason(),
        hints=plan_hints(records.rows, plan.failures),
        cut=len(plan.cuts),
        failures_file=failures.path.name if failures.rows or plan.cuts else None,
        segments=tally.segments,
        tokens=tally.tokens,
        share={
            stage: round(spent / (time.monotonic() - began), 3)
            for stage, spent in tally.spent.items()
        },
        seconds=round(time.monotonic() - began, 3),
    )
