"""How far a build is: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

LINE_EVERY = 10.0
"""Seconds between plain lines."""


class Progress:
    """Counts tokens of one build. Use as a context manager."""

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        self.title, self.total, self.done = title, total, 0
        self.started = time.monotonic()
        self._said = self.started
        self._bar = None
        self.quiet = quiet
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %  {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=total, rate="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Tokens a second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def advance(self, tokens: int) -> None:
        """Count tokens that were stored."""
        self.done += tokens
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:,.0f} tokens/s")
        now = time.monotonic()
        if self._bar or self.quiet or now - self._said < LINE_EVERY:
            return
        self._said = now
        left = (self.total - self.done) / self.rate
        print(
            f"{self.title}: {self.done:,} of {self.total:,} tokens "
            f"({100 * self.done / self.total:.0f} %), {self.rate:,.0f} tokens/s, "
            f"{left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )
