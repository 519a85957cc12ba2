"""The models of what fine-tuning goes on from: a checkpoint, and a configuration that is done."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from embedstore.documents import Count, Crc32c
from probe.documents import Name, NotNegative, ProbeDocument, Score
from probe.run_documents import Curve


class CheckpointDocument(ProbeDocument):
    """`course.json`: the course of a training up to an epoch."""

    KIND: ClassVar[str] = "checkpoint"
    NEWEST: ClassVar[int] = 2
    SEALED_FROM: ClassVar[int] = 2

    best: Count
    """Number of the best epoch; 0: none yet."""
    stopped: bool
    broken: bool = False
    seconds: NotNegative
    peak_bytes: Count
    curve: Curve
    files: dict[Name, Crc32c] | None = None
    """Checksum of each file beside it; None in older ones."""

    @model_validator(mode="after")
    def _agrees(self) -> CheckpointDocument:
        if self.format >= self.SEALED_FROM and self.files is None:
            raise ValueError("it has no checksums of files")
        if self.best > len(self.curve.train_loss):
            raise ValueError("its best epoch is behind the last one")
        return self


class DoneDocument(ProbeDocument):
    """`done.json`: what one configuration came to."""

    KIND: ClassVar[str] = "configuration"
    NEWEST: ClassVar[int] = 2
    SEALED_FROM: ClassVar[int] = 2

    validation_score: Score
    best_epoch: Count
    seconds: NotNegative
    parameters_trained: Count
    peak_bytes: Count
    curve: Curve
    diverged: bool = False
    values_crc32c: Crc32c | None = None
    """Of `best.safetensors`; None in older ones, and where training diverged."""

    @model_validator(mode="after")
    def _agrees(self) -> DoneDocument:
        if self.best_epoch > len(self.curve.train_loss):
            raise ValueError("its best epoch is behind the last one")
        return self
