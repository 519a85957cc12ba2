"""The command line of `embedstore`: options in, library calls, plain text or JSON out."""

from embedstore.cli import build, datasets, exchange, look, upkeep
from embedstore.cli.app import (
    FAILED,
    GAPS,
    INTERRUPTED,
    AsJson,
    StorePath,
    app,
    errors_in_one_line,
    let_idle_threads_sleep,
)

__all__ = [
    "FAILED",
    "GAPS",
    "INTERRUPTED",
    "AsJson",
    "StorePath",
    "app",
    "build",
    "datasets",
    "errors_in_one_line",
    "exchange",
    "let_idle_threads_sleep",
    "look",
    "upkeep",
]
