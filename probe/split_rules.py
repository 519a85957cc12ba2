"""What `--split` says: a rule in words in, the split of a collection's rows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection
from embedstore.dogma import VIEWS, Unreadable
from embedstore.errors import BadInput
from embedstore.label_columns import is_missing_mark
from embedstore.records import Record
from probe.groups import cluster_with_mmseqs, connect
from probe.homology import NUCLEOTIDES, PROTEINS, cluster_homologs
from probe.label_cells import plain_values
from probe.minhash import cluster_by_kmers
from probe.splits import (
    Split,
    column_split,
    fold_split,
    group_split,
    load_split,
    random_split,
    stratified_split,
)

Value = TypeVar("Value")

KMERS = {"protein": (4, 0.2), "dna": (11, 0.2)}
"""By kind of sequence: letters of a k-mer and the Jaccard index from which sequences belong
together. The mutation model of Mash (Ondov 2016), identity = (2j / (1 + j))^(1/k), puts this at
76 % and 90 %, where about half of the pairs fall below the threshold by chance, and more with
insertions; docs/statistics.md has what is found at each identity."""
HOMOLOGS = {"protein": PROTEINS, "dna": NUCLEOTIDES}
"""By kind of sequence: when two of them are linked."""
CLUSTERINGS = ("kmer", "homolog", "mmseqs")
"""Names after `group:` that compare sequences."""

FORMS = (
    "random, random-plain, column:NAME, group:view, group:kmer, group:homolog, group:mmseqs, "
    "group:COLUMN or a split.json"
)


RANDOM = ("random", "random-plain")


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How rows are split; together with the rows and a seed it makes the split."""

    text: str = "random"
    """`random`, of a classification by class; `random-plain`, the paper's, which looks at no class;
    `column:NAME`, whose values say train, validation or test; `group:view`,
    `group:kmer`, `group:homolog`, `group:mmseqs`, `group:` with `mrna`, `dna`, `cds` or `protein`
    (rows with this very view), or with a column; else the path of a saved split."""
    folds: int | None = None
    """With k folds, one of them tests instead of 15 % of the rows; random or by group."""
    fold: int = 0
    """Which one, counted from 0."""

    def __post_init__(self) -> None:
        drawn = self.text in RANDOM or self.text.startswith("group:")
        if self.folds is not None and not drawn:
            raise BadInput(
                f"--split {self.text} says where each row belongs, so it has no folds.",
                "Leave --folds out, or split random or by group.",
            )
        if self.folds is None and self.fold:
            raise BadInput(f"There is no --fold {self.fold}.", "Say how many with --folds.")


def make_split(
    rule: SplitRule,
    collection: Collection,
    rows: NDArray[np.int64],
    seed: int,
    classes: NDArray[np.int64] | None = None,
) -> Split:
    """Split rows of a collection.

    Parameters
    ----------
    rows : positions in the collection, shape (N,); the split is over these, in this order
    classes : of a classification the class number of each of these rows, int64, shape (N,):
        `random` and groups then give each part its share of each class

    Raises
    ------
    BadInput
        The rule is unknown, names no column, cannot be followed here, or leaves a part too small.
    """
    ids = _take(collection.ids, rows)
    kind, _, name = rule.text.partition(":")
    if kind == "group" and name:
        groups, said = _group(name, collection, rows)
        if rule.folds is not None:
            return fold_split(
                ids,
                seed,
                folds=rule.folds,
                fold=rule.fold,
                rule=said,
                groups=groups,
                classes=classes,
            )
        return group_split(ids, groups, seed, rule=said, classes=classes)
    if kind == "column" and name:
        return column_split(ids, _take(_column(name, collection), rows), name)
    if rule.text in RANDOM:
        strata = classes if rule.text == "random" else None
        if rule.folds is not None:
            return fold_split(ids, seed, folds=rule.folds, fold=rule.fold, classes=strata)
        return random_split(ids, seed) if strata is None else stratified_split(ids, strata, seed)
    if not Path(rule.text).is_file():
        raise BadInput(f"--split {rule.text!r} is no rule and no file.", f"Use {FORMS}.")
    return load_split(Path(rule.text), ids)


def _group(
    name: str, collection: Collection, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], str]:
    """Group of each row, and the rule in words."""
    if name == "view":
        return connect([_take(collection.keys(view), rows) for view in VIEWS]), "identical view"
    if name in CLUSTERINGS:
        return _cluster(name, collection, rows)
    keys = collection.keys(name) if name in VIEWS else _column(name, collection)
    values = _take(keys, rows)
    return connect([values]), f"identical {name}{_alone(name, values)}"


def _alone(name: str, values: Sequence[str | None]) -> str:
    """What becomes of rows without a value, and of those whose value says that it is missing."""
    said = []
    missing = sum(value is None for value in values)
    if missing == 1:
        said.append(f"1 row without {name} is a group of its own")
    elif missing:
        said.append(f"{missing:,} rows without {name} are each a group of their own")
    marks = Counter(value for value in values if value is not None and is_missing_mark(value))
    said += [f"all {count:,} rows of {mark!r} are one" for mark, count in sorted(marks.items())]
    return f" ({'; '.join(said)})" if said else ""


def _cluster(
    name: str, collection: Collection, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], str]:
    """Clusters of proteins; rows without a protein view are clustered apart, as nucleotides."""
    groups = np.empty(len(rows), np.int64)
    said = []
    for kind, texts in comparable_texts(collection, rows).items():
        found, words = cluster_texts(name, kind, [*texts.values()])
        groups[[*texts]] = found + (len(rows) if kind == "dna" else 0)
        said.append(words)
    return groups, " and ".join(said)


def comparable_texts(collection: Collection, rows: NDArray[np.int64]) -> dict[str, dict[int, str]]:
    """What clusterings compare, by kind: `protein`, and `dna` of rows without a protein view.

    Parameters
    ----------
    rows : positions in the collection, shape (N,)

    Returns
    -------
    By kind that is there, the text of each row that has it, by the row's place among the N.
    """
    records = collection.records()
    texts: dict[str, dict[int, str]] = {"protein": {}, "dna": {}}
    for at, row in enumerate(rows.tolist()):
        kind, text = _comparable(records[row])
        texts[kind][at] = text
    return {kind: found for kind, found in texts.items() if found}


def cluster_texts(name: str, kind: str, texts: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """Clusters of texts of one kind, and the rule in words.

    Parameters
    ----------
    name : one of `CLUSTERINGS`
    kind : `protein` or `dna`

    Returns
    -------
    int64, shape (number of texts,), and e.g. `protein 4-mers, Jaccard 0.2`

    Raises
    ------
    BadInput
        The program mmseqs is asked for and is not there, or failed.
    """
    if name == "kmer":
        k, jaccard = KMERS[kind]
        return cluster_by_kmers(texts, k, jaccard), f"{kind} {k}-mers, Jaccard {jaccard:g}"
    if name == "homolog":
        linking = HOMOLOGS[kind]
        return cluster_homologs(texts, linking), f"{kind} homologs, {linking}"
    return cluster_with_mmseqs(texts), f"mmseqs {kind}"


def _comparable(record: Record) -> tuple[str, str]:
    try:
        return "protein", record.view("protein").text
    except Unreadable:
        return "dna", record.view("dna").text


def _column(name: str, collection: Collection) -> list[str | None]:
    """The cells of a column as text, None where a cell holds nothing."""
    if name not in collection.labels:
        raise BadInput(
            f"There is no column {name!r} to split by.",
            f"Columns: {', '.join(collection.labels) or 'none'}.",
        )
    values = plain_values(collection.table.column(name))
    return [None if value is None else str(value) for value in values]


def _take(values: Sequence[Value], rows: NDArray[np.int64]) -> list[Value]:
    return [values[row] for row in rows.tolist()]
