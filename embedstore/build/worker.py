"""One backbone on one device at work: planned segments in, published ones and a tally out.

The model runs in the calling thread; waiting for its results and writing them go on beside it.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from embedstore.backbones.backbone import Backbone
from embedstore.backbones.devices import free_memory, is_out_of_memory
from embedstore.backbones.load import PreparedBackbone
from embedstore.build.lane import Lane
from embedstore.build.plan import Item, cut_batches
from embedstore.errors import StoreError
from embedstore.store.objects import Place
from embedstore.store.segment import SegmentWriter

log = logging.getLogger(__name__)


class NoRoom(StoreError):
    """The weights of a backbone do not fit the memory of a device."""

    code = "no-room"


def ignore(tokens: int) -> None:
    """Count nothing."""


@dataclass(frozen=True)
class Lost:
    """A view that was tried and gave no embedding to store."""

    key: str
    reason: str
    """A stable word, `not-finite` or `too-long-for-device`."""
    detail: str


@dataclass
class Tally:
    """What was done, and how long each stage took."""

    embedded: int = 0
    segments: int = 0
    tokens: int = 0
    lost: list[Lost] = field(default_factory=list)
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("tokenize", "model", "copy", "write"), 0.0)
    )
    """Seconds by stage; stages run beside each other."""

    def add(self, other: Tally) -> None:
        """Count what another worker did."""
        self.embedded += other.embedded
        self.segments += other.segments
        self.tokens += other.tokens
        self.lost += other.lost
        for stage, seconds in other.spent.items():
            self.spent[stage] += seconds

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage; only one thread may time a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] += time.perf_counter() - began


class Worker:
    """A loaded backbone that builds segments of one recipe."""

    def __init__(self, recipe_folder: Place, prepared: PreparedBackbone, batch_tokens: int) -> None:
        """Load the backbone.

        Raises
        ------
        BadWeights
        NoRoom
            The weights do not fit on the device.
        """
        self.folder, self.prepared = recipe_folder, prepared
        try:
            self.backbone: Backbone = prepared.load()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise NoRoom(
                f"{prepared.device} has no memory for the weights of {prepared.recipe.backbone} "
                f"({first_line(error)}).",
                "Use a larger device, a smaller backbone or --compute-dtype bfloat16, or end what "
                "else runs there.",
            ) from error
        self.batch_tokens = batch_tokens
        """Tokens in one forward pass; lowered for good when the device runs out of memory."""

    def build(
        self, segments: Iterable[list[Item]], advance: Callable[[int], None] = ignore
    ) -> Tally:
        """Embed and publish segments, one after another.

        Parameters
        ----------
        advance : told the token rows of each batch once they are written
        """
        tally = Tally()
        with ExitStack() as drafts, Lane("Writing to the store") as writing:
            for items in segments:
                writer = drafts.enter_context(SegmentWriter(self.folder, self.prepared.recipe))
                for batch in cut_batches(items, self.batch_tokens):
                    for part, result in self.forward(batch, tally):
                        writing.put(partial(self._append, writer, part, result, tally, advance))
                writing.put(partial(self._publish, writer, tally))
        return tally

    def forward(self, batch: Sequence[Item], tally: Tally) -> Iterator[tuple[list[Item], Any]]:
        """Run a batch, in parts where it has to be, each with what `Backbone.collect` takes.

        A batch that does not fit the device's memory is halved, and later ones with it. A sequence
        that does not fit alone is lost, and noted in the tally; the others go on.
        """
        for part in cut_batches(batch, self.batch_tokens):
            result, full = self._try(part, tally)
            if full is not None and len(part) == 1:
                free_memory()  # of pieces too small for it, and of batches that are copied by now
                result, full = self._try(part, tally)
            if full is None:
                yield part, result
            elif len(part) == 1:
                self._lose(part[0], full, tally)
            else:
                free_memory()
                self.batch_tokens = max(1, sum(item.cost for item in part) // 2)
                log.warning("Out of memory: batches now hold %d tokens.", self.batch_tokens)
                yield from self.forward(part, tally)

    def _try(self, part: list[Item], tally: Tally) -> tuple[Any, str | None]:
        """What `forward` gives for a part; or None and the words of the device, which is full."""
        try:
            with tally.timing("tokenize"):
                tokens = self.backbone.tokenize([item.text for item in part])
            with tally.timing("model"):
                return self.backbone.forward(tokens), None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None, first_line(error)  # not the error, which would keep the memory alive

    def _lose(self, item: Item, full: str, tally: Tally) -> None:
        device = self.prepared.device
        windows = self.prepared.reading.policy == "window"
        fix = "a smaller --max-tokens" if windows else "--long window"
        detail = f"{item.cost} tokens do not fit the memory of {device} ({full}); use {fix}"
        log.warning("A sequence of %d tokens does not fit the memory of %s.", item.cost, device)
        tally.lost.append(Lost(item.key, "too-long-for-device", detail))

    def _append(
        self,
        writer: SegmentWriter,
        part: list[Item],
        result: Any,
        tally: Tally,
        advance: Callable[[int], None],
    ) -> None:
        with tally.timing("copy"):
            embedded = self.backbone.collect(result)
        with tally.timing("write"):
            writer.append([item.key for item in part], embedded)
        detail = f"a value is not finite in {self.prepared.recipe.store_dtype}"
        bad = [item for item, good in zip(part, embedded.finite, strict=True) if not good]
        tally.lost += [Lost(item.key, "not-finite", detail) for item in bad]
        tally.embedded += len(part) - len(bad)
        tally.tokens += int(embedded.lengths[embedded.finite].sum())
        advance(int(embedded.lengths.sum()))

    def _publish(self, writer: SegmentWriter, tally: Tally) -> None:
        with tally.timing("write"):
            tally.segments += writer.publish(provenance(self.prepared)) is not None
            writer.close()


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


def first_line(error: BaseException) -> str:
    """The first sentence of an error's words, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".:") if lines else type(error).__name__
