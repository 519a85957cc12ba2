"""One build on one device: records and a backbone in, published segments and a report out."""

from __future__ import annotations

import json
import logging
import platform
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.backbones.backbone import Backbone
from embedstore.backbones.load import PreparedBackbone
from embedstore.build.lane import Lane
from embedstore.build.plan import Failure, Item, Plan, cut_batches, make_plan
from embedstore.build.progress import Progress
from embedstore.errors import BadInput
from embedstore.records import Records
from embedstore.store import Store
from embedstore.store.collection import make_table
from embedstore.store.files import write_atomically
from embedstore.store.segment import SegmentWriter

log = logging.getLogger(__name__)


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
    quiet: bool = False
    """No progress."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise BadInput(f"--batch-tokens is {self.batch_tokens}.", "Give at least 1.")
        if self.segment_bytes < 1:
            raise BadInput(f"--segment-mb is {self.segment_bytes >> 20}.", "Give at least 1.")


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
    failures_file: str | None = None
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
    """
    reader = None
    if store is not None and prepared.recipe.name in store.recipes():
        reader = store.recipe(prepared.recipe.name)
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
    store: Store, records: Records, prepared: PreparedBackbone, config: BuildConfig
) -> BuildReport:
    """Embed every record that is not stored yet.

    Segments are published one by one: whatever stops the build, what was published stays, and
    running it again does the rest.

    Raises
    ------
    StoreError
        Before anything is written: records or weights that cannot be used.
    """
    began = time.monotonic()
    table = make_table(records.rows, records.labels)
    store.check_collection(config.collection, table, replace=config.replace)
    plan = plan_build(store, records, prepared, config)
    backbone = prepared.load() if plan.segments else None
    store.write_recipe(prepared.recipe)
    store.write_collection(config.collection, table, replace=config.replace)
    failures = _FailuresFile(store, prepared.recipe.name, plan.failures)
    failures.write()
    tally = _Tally()
    if backbone is not None:
        with Progress(prepared.recipe.backbone, plan.tokens, quiet=config.quiet) as progress:
            _embed_segments(store, prepared, backbone, plan, config, tally, progress)
        detail = f"a value is not finite in {prepared.recipe.store_dtype}"
        for item in tally.lost:
            failures.add([(name, "not-finite", detail) for name in plan.ids[item.key]])
    return BuildReport(
        recipe=prepared.recipe.name,
        collection=config.collection,
        records=plan.records,
        distinct=plan.distinct,
        present=plan.present,
        embedded=tally.embedded,
        failures=failures.by_reason(),
        failures_file=failures.path.name if failures.rows else None,
        segments=tally.segments,
        tokens=tally.tokens,
        share={
            stage: round(spent / (time.monotonic() - began), 3)
            for stage, spent in tally.spent.items()
        },
        seconds=round(time.monotonic() - began, 3),
    )


def provenance(prepared: PreparedBackbone) -> dict[str, Any]:
    """Where a segment comes from; for people, never for decisions."""
    packages = ["embedstore", "numpy"]
    if prepared.checkpoint is not None:
        packages += ["torch", "transformers"]
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "weights": None if prepared.checkpoint is None else prepared.checkpoint.origin,
        "device": prepared.device,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


class _Tally:
    """What a build has done so far, and how long each stage took."""

    def __init__(self) -> None:
        self.embedded = self.segments = self.tokens = 0
        self.lost: list[Item] = []
        self.spent = {"tokenize": 0.0, "model": 0.0, "copy": 0.0, "write": 0.0}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage; one thread a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] += time.perf_counter() - began


class _Runner:
    """Runs batches; one that does not fit the device's memory is halved, as are later ones."""

    def __init__(self, backbone: Backbone, batch_tokens: int, tally: _Tally) -> None:
        self.backbone, self.batch_tokens, self.tally = backbone, batch_tokens, tally

    def forward(self, batch: Sequence[Item]) -> Iterator[tuple[list[Item], Any]]:
        """The batch, in parts where it has to be, each with what `Backbone.collect` takes."""
        for part in cut_batches(batch, self.batch_tokens):
            with self.tally.timing("tokenize"):
                tokens = self.backbone.tokenize([item.text for item in part])
            try:
                with self.tally.timing("model"):
                    result = self.backbone.forward(tokens)
            except RuntimeError as error:
                if not _out_of_memory(error) or len(part) == 1:
                    raise
                self.batch_tokens = max(1, sum(item.cost for item in part) // 2)
                log.warning("Out of memory: batches now hold %d tokens.", self.batch_tokens)
                result = None
            if result is None:  # outside the handler, which would keep the memory alive
                yield from self.forward(part)
            else:
                yield part, result


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def _embed_segments(
    store: Store,
    prepared: PreparedBackbone,
    backbone: Backbone,
    plan: Plan,
    config: BuildConfig,
    tally: _Tally,
    progress: Progress,
) -> None:
    """Run the model here and, beside it, wait for its results and write them."""
    recipe = prepared.recipe
    runner = _Runner(backbone, config.batch_tokens, tally)

    def append(writer: SegmentWriter, part: list[Item], result: Any) -> None:
        with tally.timing("copy"):
            embedded = backbone.collect(result)
        with tally.timing("write"):
            writer.append([item.key for item in part], embedded)
        bad = [item for item, good in zip(part, embedded.finite, strict=True) if not good]
        tally.lost += bad
        tally.embedded += len(part) - len(bad)
        tally.tokens += int(embedded.lengths[embedded.finite].sum())
        progress.advance(int(embedded.lengths.sum()))

    def publish(writer: SegmentWriter) -> None:
        with tally.timing("write"):
            tally.segments += writer.publish(provenance(prepared)) is not None
            writer.close()

    with ExitStack() as drafts, Lane("Writing to the store") as writing:
        for items in plan.segments:
            writer = drafts.enter_context(SegmentWriter(store.recipe_folder(recipe.name), recipe))
            for batch in cut_batches(items, runner.batch_tokens):
                for part, result in runner.forward(batch):
                    writing.put(partial(append, writer, part, result))
            writing.put(partial(publish, writer))


class _FailuresFile:
    """What this build could not embed, one JSON line a record."""

    def __init__(self, store: Store, recipe: str, failures: Sequence[Failure]) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        folder = store.recipe_folder(recipe) / "failures"
        self.path: Path = folder / f"{stamp}-{secrets.token_hex(3)}.jsonl"
        self.view = store.find_recipe(recipe).view
        self.rows = list(failures)

    def add(self, failures: Sequence[tuple[str, str, str]]) -> None:
        """Note more (id, reason, detail) and write the file anew."""
        self.rows += [Failure(name, self.view, reason, detail) for name, reason, detail in failures]
        self.write()

    def write(self) -> None:
        """Write the file, if there is anything to tell."""
        if self.rows:
            lines = "".join(json.dumps(asdict(row)) + "\n" for row in self.rows)
            write_atomically(self.path, lines.encode())

    def by_reason(self) -> dict[str, int]:
        """Records by reason."""
        reasons = [row.reason for row in self.rows]
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}
