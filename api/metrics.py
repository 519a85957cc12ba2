"""What the server counts of itself, in the form that Prometheus reads.

Worker processes share their counts through files in the folder that PROMETHEUS_MULTIPROC_DIR
names, which `api.server` makes for `--workers`; any of them then answers for all.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["CONTENT_TYPE", "SHARED_FOLDER", "Metrics"]

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that prometheus_client itself reads, when it is first imported."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (64, 256, 1_024, 4_096, 8_192, 16_384, 65_536)


class Metrics:
    """Counters of one app. Each has its own registry, so that several live in one process."""

    def __init__(self) -> None:
        self._folder = os.environ.get(SHARED_FOLDER)
        own = None if self._folder else CollectorRegistry()
        self._own = own
        if self._folder:
            _forget_dead(Path(self._folder))
        self.requests = Counter(
            "embedstore_requests_total",
            "Requests answered, by route template.",
            ["method", "route", "status"],
            registry=own,
        )
        self.seconds = Histogram(
            "embedstore_request_seconds",
            "From a request's arrival to the end of its answer.",
            ["method", "route"],
            buckets=SECONDS,
            registry=own,
        )
        self.queue_sequences = Gauge(
            "embedstore_queue_sequences",
            "Sequences that wait for a model.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.queue_tokens = Gauge(
            "embedstore_queue_tokens",
            "Tokens that wait for a model.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.refused = Counter(
            "embedstore_queue_refused_total", "Requests told that the queue is full.", registry=own
        )
        self.tokens = Counter(
            "embedstore_tokens_total", "Tokens run through models.", ["recipe"], registry=own
        )
        self.batch_tokens = Histogram(
            "embedstore_batch_tokens", "Tokens of a forward pass.", buckets=TOKENS, registry=own
        )
        self.embeddings = Counter(
            "embedstore_embeddings_total",
            "Embeddings that requests for sequences needed: stored before, or computed.",
            ["source"],
            registry=own,
        )
        self.answers = Counter(
            "embedstore_answers_total",
            "Look-ups answered from memory (hit) or from the store (miss).",
            ["cache"],
            registry=own,
        )
        self.written_back = Counter(
            "embedstore_written_back_total",
            "Computed embeddings: published in the store, or lost to a failed write.",
            ["result"],
            registry=own,
        )

    def expose(self) -> bytes:
        """All counts as text; those of every worker process where there are several."""
        registry = self._own
        if registry is None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _forget_dead(folder: Path) -> None:
    """Take the gauges of processes that are gone out of the sums; their counts stay."""
    for path in folder.glob("gauge_live*_*.db"):
        process = int(path.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
