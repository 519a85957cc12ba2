"""Rows that belong together: keys, columns or sequences in, a group number for each row out.

Groups are numbered from 0 by their first row. Which rows are together never depends on their order.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput

MMSEQS_OPTIONS = ("--min-seq-id", "0.5", "-c", "0.8", "--threads", "1")
"""Half of the residues identical over 80 % of both sequences."""


def connect(columns: Sequence[Sequence[Hashable | None]]) -> NDArray[np.int64]:
    """Join rows that share a value in any column, and the rows these share one with, and so on.

    Parameters
    ----------
    columns : each of N values; None joins nothing

    Returns
    -------
    int64, shape (N,)
    """
    count = len(columns[0])
    rows: list[int] = []
    values: list[int] = []
    for column in columns:
        first: dict[Hashable, int] = {}
        for row, value in enumerate(column):
            if value is not None:
                rows.append(row)
                values.append(first.setdefault(value, row))
    return join(count, np.array(rows, np.int64), np.array(values, np.int64))


def join(count: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of rows 0 to count - 1 that pairs connect: int64, shape (count,).

    Parameters
    ----------
    left, right : int64, shape (P,): the rows of each pair
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    return number_by_first(connected_components(pairs, directed=False)[1])


def number_by_first(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """The same groups, numbered in the order in which their first rows stand."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse]


def cluster_with_mmseqs(texts: Sequence[str]) -> NDArray[np.int64]:
    """Clusters of `mmseqs easy-cluster` (Steinegger and Soeding 2018), with `MMSEQS_OPTIONS`.

    Parameters
    ----------
    texts : proteins or nucleotides, N of them; equal texts are one sequence to the program

    Returns
    -------
    int64, shape (N,)

    Raises
    ------
    BadInput
        The program is not on the PATH, or it failed: its last words are shown.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise BadInput(
            "There is no program mmseqs on the PATH.",
            "Install MMseqs2 (https://mmseqs.com), or use --split group:kmer.",
        )
    distinct = {text: number for number, text in enumerate(sorted(set(texts)))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fasta = "".join(f">{number}\n{text}\n" for text, number in distinct.items())
        (folder / "in.fasta").write_text(fasta)
        done = subprocess.run(
            [program, "easy-cluster", "in.fasta", "out", "tmp", *MMSEQS_OPTIONS],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        table = folder / "out_cluster.tsv"
        if done.returncode or not table.exists():
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise BadInput(
                f"mmseqs failed with exit code {done.returncode}: {' '.join(words) or 'silently'}.",
                "Run it by hand on the sequences, or use --split group:kmer.",
            )
        pairs = [line.split("\t") for line in table.read_text().splitlines()]
    representative = {int(member): int(head) for head, member in pairs}
    if representative.keys() != set(distinct.values()):
        raise BadInput(
            f"mmseqs clustered {len(representative)} of {len(distinct)} sequences.",
            "Use another version of it, or --split group:kmer.",
        )
    return number_by_first(np.array([representative[distinct[text]] for text in texts], np.int64))
