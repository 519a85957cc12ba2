"""What all commands of `probe` share: the app, its options, lists of numbers, progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer

from embedstore.cli import let_idle_threads_sleep
from probe.number_cells import DecimalMark

Value = TypeVar("Value", int, float)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train probes on stored embeddings, and predict with them.",
)

StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder of the store, or s3://, gs://, az:// URL.")
]
CollectionName = Annotated[str, typer.Option(help="Name of the collection.")]

Decimal = Annotated[
    DecimalMark, typer.Option(help="Before the fraction of numbers in a text column: 1.5 or 1,5.")
]
LikesDecimal = Annotated[
    DecimalMark | None,
    typer.Option(help="Before the fraction of numbers in a text column; default: the point."),
]
SplitText = Annotated[
    str,
    typer.Option(
        help="random (of classes: each in equal shares), random-plain, column:NAME, group:view, "
        "group:kmer (near copies: all proteins of 90 % identity, 42 % of those at 76 %, 6 % at "
        "70 %), group:homolog (relatives: 99 % at 70 %, 45 % at 50 %), group:mmseqs, "
        "group:COLUMN, or the split.json of a run."
    ),
]
Folds = Annotated[int | None, typer.Option(min=3, help="Split into so many folds instead.")]
Fold = Annotated[int, typer.Option(min=0, help="The fold that tests, counted from 0.")]


@app.callback()
def main() -> None:
    """Train probes on stored embeddings, and predict with them."""
    let_idle_threads_sleep()


def numbers_of(option: str, text: str, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    """Numbers with commas between them; names the option where there are none."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers, like 16,32", param_hint=option
        ) from None


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show what the package logs on stderr."""
    logger = logging.getLogger("probe")
    handler = logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
