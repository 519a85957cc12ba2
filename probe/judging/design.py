"""What was run, as far as statistics are concerned: splits and groups in, one `Design` out.

Shape letters: N rows that any split tests, K splits, G groups.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from embedstore.documents import Count, Document, parse
from probe.groups import connect

Resplit = Literal["one", "repeats", "folds"]
"""One split; random or group splits with several seeds; folds, which test each row once."""
MOST_BYTES = 256 << 20
"""Of a design's JSON: some ten million rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Which rows belong together, which are tested by which split, and what is scored.

    Raises
    ------
    ValueError
        Parts contradict each other.
    """

    groups: NDArray[np.int64]
    """Shape (N,): rows with one number rise and fall together; see `join_rows`."""
    tests: tuple[NDArray[np.int64], ...]
    """Of each of K splits its test rows, as positions in `groups`."""
    train_rows: tuple[int, ...]
    """Of each split how many rows trained."""
    table_rows: int
    """Rows that were split: train, validation and test of one split together."""
    resplit: Resplit = "one"
    seeds: tuple[int, ...] = (0,)
    """Of the trainings of each head that has a random start, in each split."""
    outputs: tuple[str, ...] = ("label",)
    """Names; of several the mean of the metric over outputs is the score."""
    positions: int = 1
    """Longest list of labels of a row; above 1 rows are scored position by position."""
    linked_by: tuple[str, ...] = ()
    """What joined rows into groups, in words, e.g. `shared inputs`; empty: each is its own."""

    def __post_init__(self) -> None:
        rows = len(self.groups)
        if self.groups.ndim != 1 or not rows:
            raise ValueError(f"groups must have shape (N,) and a row, got {self.groups.shape}")
        if len(self.tests) != len(self.train_rows) or not self.tests:
            raise ValueError(f"{len(self.tests)} splits, but {len(self.train_rows)} sizes of train")
        if (len(self.tests) == 1) != (self.resplit == "one"):
            raise ValueError(f"{len(self.tests)} splits cannot be {self.resplit!r}")
        for at, test in enumerate(self.tests):
            if test.ndim != 1 or not len(test) or test.min() < 0 or test.max() >= rows:
                raise ValueError(f"test rows of split {at} are not among the {rows} rows")
            if len(np.unique(test)) < len(test):
                raise ValueError(f"split {at} tests a row twice")
        if min(self.train_rows) < 1 or self.table_rows < rows + min(self.train_rows) * (
            self.resplit == "one"
        ):
            raise ValueError(f"{self.table_rows} rows cannot hold the rows of train and test")
        if self.resplit == "folds" and sum(map(len, self.tests)) != rows:
            raise ValueError("folds must test each row once")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct, and at least one, got {self.seeds}")
        if not self.outputs or self.positions < 1:
            raise ValueError("there must be an output and a position")

    @classmethod
    def of_one_split(
        cls,
        groups: NDArray[np.int64],
        train_rows: int,
        table_rows: int | None = None,
        **others: Any,
    ) -> Design:
        """The design of a single split whose test rows have these groups."""
        rows = len(groups)
        return cls(
            groups=groups,
            tests=(np.arange(rows),),
            train_rows=(train_rows,),
            table_rows=train_rows + rows if table_rows is None else table_rows,
            **others,
        )

    @cached_property
    def member(self) -> NDArray[np.int64]:
        """Shape (N,): groups numbered from 0 to G - 1 in the order of their numbers."""
        return np.unique(self.groups, return_inverse=True)[1]

    @property
    def group_count(self) -> int:
        """G."""
        return int(self.member.max()) + 1

    @cached_property
    def effective_groups(self) -> float:
        """Groups of equal size that tell as much: (sum of sizes)^2 / sum of squared sizes.

        Kish's effective size (1965); a row that several splits test counts as often.
        """
        tested = np.bincount(np.concatenate(self.tests), minlength=len(self.groups))
        sizes = np.bincount(self.member, weights=tested.astype(np.float64))
        return float(sizes.sum() ** 2 / (sizes**2).sum())

    @property
    def train_share(self) -> float:
        """Part of the table that trains, the mean over splits."""
        return float(np.mean(self.train_rows)) / self.table_rows

    def words(self) -> str:
        """What is drawn again and again, for people."""
        rows, groups = len(self.groups), self.group_count
        if groups == rows:
            return f"the {rows:,} test rows"
        linked = f" ({' and '.join(self.linked_by)})" if self.linked_by else ""
        words = f"the {groups:,} groups{linked} of the {rows:,} test rows"
        if self.effective_groups < 0.9 * groups:
            words += f", which tell as much as {self.effective_groups:.1f} groups of one size"
        return words

    def document(self) -> dict[str, Any]:
        """Plain values, as `read_design` reads them."""
        return {
            "kind": "design",
            "groups": self.groups.tolist(),
            "tests": [each.tolist() for each in self.tests],
            "train_rows": list(self.train_rows),
            "table_rows": self.table_rows,
            "resplit": self.resplit,
            "seeds": list(self.seeds),
            "outputs": list(self.outputs),
            "positions": self.positions,
            "linked_by": list(self.linked_by),
        }


class DesignDocument(Document):
    """A design as JSON."""

    kind: Literal["design"]
    groups: Annotated[list[Count], Field(min_length=1)]
    tests: Annotated[list[list[Count]], Field(min_length=1)]
    train_rows: list[Count]
    table_rows: Count
    resplit: Resplit
    seeds: list[Annotated[int, Field(ge=0, le=2**63 - 1)]]
    outputs: list[str]
    positions: Annotated[int, Field(ge=1, le=2**53)]
    linked_by: list[str]

    @model_validator(mode="after")
    def _holds_together(self) -> DesignDocument:
        self.design()
        return self

    def design(self) -> Design:
        """The design that it describes."""
        return Design(
            groups=np.array(self.groups, np.int64),
            tests=tuple(np.array(each, np.int64) for each in self.tests),
            train_rows=tuple(self.train_rows),
            table_rows=self.table_rows,
            resplit=self.resplit,
            seeds=tuple(self.seeds),
            outputs=tuple(self.outputs),
            positions=self.positions,
            linked_by=tuple(self.linked_by),
        )


def read_design(content: bytes) -> Design:
    """A design from the JSON of its `document`.

    Raises
    ------
    BadDocument
        A field is missing, unknown, wrong, or contradicts another.
    """
    return parse(DesignDocument, content, most=MOST_BYTES).design()


def join_rows(
    ids: Sequence[str], columns: Sequence[Sequence[Hashable | None]]
) -> NDArray[np.int64]:
    """Groups of rows that share a value in any column, and of those that these connect.

    Columns are the groups of the split and the inputs of each backbone. The group of a row is
    numbered by the smallest id in it, so that neither the order of rows nor that of columns enters.

    Parameters
    ----------
    ids : N distinct strings
    columns : each of N values; None joins nothing

    Returns
    -------
    int64, shape (N,)

    Raises
    ------
    ValueError
        A column has another length.
    """
    if any(len(column) != len(ids) for column in columns):
        raise ValueError(f"columns of {[len(each) for each in columns]} values for {len(ids)} rows")
    order = sorted(range(len(ids)), key=lambda row: ids[row])
    by_id = connect(
        [[ids[row] for row in order], *([column[row] for row in order] for column in columns)]
    )
    groups = np.empty(len(ids), np.int64)
    groups[order] = by_id
    return groups
