"""What all commands share: the app, its options, errors in one line, tables and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from embedstore.errors import StoreError

GAPS, FAILED, INTERRUPTED = 3, 1, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Precompute and read embeddings of biological language models.",
)
data = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(data, name="data")

StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder of the store, or s3://, gs://, az:// URL.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Backbone = Annotated[str, typer.Option(help="Short name, hub id or recipe folder.")]
CollectionName = Annotated[str | None, typer.Option(help="Name of the collection.")]


@app.callback()
def main() -> None:
    """Precompute and read embeddings of biological language models."""
    let_idle_threads_sleep()


def let_idle_threads_sleep() -> None:
    """Keep waiting threads of torch off the processor; it must be said before torch is imported.

    By default they spin: on cores shared with anything else, two threads then ran twenty times
    slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Our errors as one line on stderr and exit code 1; bugs keep their traceback."""
    try:
        yield
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print named values, one a line or as JSON."""
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items()) or "none"
        print(f"{name:24} {text_of(value)}")


def show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        return
    texts = [list(rows[0])] + [[text_of(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print(
            "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        )


def text_of(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
