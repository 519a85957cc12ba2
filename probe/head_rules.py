"""Which heads serve which tasks and backbones: a run's parts in, refusals out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from embedstore.loaders import JoinedReader
from probe.tasks import Task
from probe.training import LINEAR, HeadKind

if TYPE_CHECKING:
    from embedstore.loaders import EmbeddingReader
    from embedstore.records import Record

BY_TOKEN: HeadKind = "textcnn-position"
"""The head that gives each token its own output."""


def check_head(head: HeadKind, task: Task, search: str) -> None:
    """Raise BadInput where a head cannot serve a kind of task, or be searched in that way."""
    if head == "logistic" and task.kind != "classification":
        raise BadInput(
            f"A logistic head names classes, and {task.label} is a {task.kind} task.",
            "Use --head ridge, or ask for --kind classification.",
        )
    if head == "ridge" and task.kind == "classification":
        raise BadInput(
            f"A ridge head gives numbers, and {task.label} holds classes.",
            "Use --head logistic.",
        )
    if head == BY_TOKEN and task.kind != "per-position":
        raise BadInput(
            f"A {BY_TOKEN} head answers for each position, and {task.label} has one label a row.",
            "Use --head textcnn, or a label column with a list of numbers a row.",
        )
    if head in LINEAR and search == "halving":
        raise BadInput(
            f"A {head} head is not trained in epochs, so there is nothing to halve.",
            "Leave out --search halving.",
        )


def check_positions(
    head: HeadKind,
    positions: NDArray[np.int64],
    readers: Mapping[str, EmbeddingReader],
    rows: Sequence[Record],
) -> None:
    """Raise BadInput where labels of positions do not fit the head or what backbones read.

    Parameters
    ----------
    positions : shape (N,): labels of each row
    rows : N of them
    """
    if head != BY_TOKEN:
        if len(positions) and (positions != positions[0]).any():
            raise BadInput(
                f"The rows have {positions.min()} to {positions.max()} labels, and a {head} head "
                "gives every sequence the same number of outputs.",
                f"Use --head {BY_TOKEN}, or rows of one length.",
            )
        return
    for name, reader in readers.items():
        if not _reads_letters(reader, rows):
            raise BadInput(
                f"{name} has no token for each position of a record: its tokens are several "
                "letters, or it reads another molecule or the coding region alone.",
                "Use --head textcnn, or a backbone of single letters such as one-hot-mrna, "
                "rna-fm or splicebert; backbones joined with --align nucleotide serve too.",
            )


def _reads_letters(reader: EmbeddingReader, rows: Sequence[Record]) -> bool:
    """Whether token i of a backbone, or row i of a join, is letter i of the record."""
    if isinstance(reader, JoinedReader):
        return reader.recipe.align == "nucleotide"
    from embedstore.backbones.load import tokenizer_of
    from embedstore.backbones.specs import find_spec

    row = rows[0]  # tokens of all are made alike
    view = row.view(reader.recipe.view)
    spans = tokenizer_of(find_spec(reader.recipe.backbone)).spans(view.text)
    offset, width = view.spans_in_record(*spans)
    letters = np.arange(len(row.sequence))
    if not np.array_equal(offset, letters) or not (width == 1).all():
        return False
    # a coding region may begin elsewhere, or end earlier, in another row
    wholes = (each.codons() == (0, len(each.sequence)) for each in rows)
    return view.name != "cds" or all(wholes)
