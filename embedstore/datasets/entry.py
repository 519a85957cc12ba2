"""What is known of a public data set: its files, licence, columns, task and cleaning preset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

TaskKind = Literal["regression", "classification", "per-position"]

PAPER_NT = 1000
"""The paper's limit on the length of a sequence, in nucleotides."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Under what conditions a data set may be used."""

    name: str
    url: str
    asks: str
    """What it asks of a user, in a sentence."""
    must_accept: bool = False
    """True where a user has to agree before anything is fetched."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One file that holds a part of a data set: one name, one exact content."""

    name: str
    """Under which it is kept here."""
    checksum: str
    """`sha256:` or `git-blob:` and hexadecimal digits."""
    size: int | None = None
    """Bytes, where known."""
    url: str | None = None
    """Where it is downloaded from; None where it is not to be had in this form."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which a user may have it: ours, and that of the source."""
        theirs = PurePosixPath(self.url).name if self.url else self.name
        return tuple(dict.fromkeys((self.name, theirs)))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of a data set, in one or several forms that hold the same."""

    forms: tuple[Form, ...]
    name: str | None = None
    """Of the part the authors gave these rows to: train, dev or test."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to be predicted."""

    label: str
    """Column."""
    kind: TaskKind
    transform: str | None = None
    """Function of the label that is regressed: `log2` or `log1p`."""
    min_label: float | None = None
    """Rows with a smaller label are left out of the task, not of the table."""
    classes: bool = False
    """True where the classes are written as numbers."""

    @property
    def metric(self) -> str:
        """The score of the paper; per position: over all positions of all rows."""
        return "accuracy" if self.kind == "classification" else "spearman"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How the rows are cleaned."""

    coding: bool = True
    """Keep open reading frames alone: AUG first, whole codons, one stop, at the end."""
    max_nt: int | None = PAPER_NT
    """Keep sequences of at most so many nucleotides."""
    average: bool = False
    """One row a sequence: numbers are averaged over the rows that share it."""
    keep: tuple[str, int] | None = None
    """Keep rows that hold this value in this column."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set."""

    name: str
    title: str
    about: str
    source: str
    """The page to cite and to look at."""
    licence: Licence
    parts: tuple[Part, ...]
    rows: int | None
    """In the files, before cleaning; None where not known."""
    sequence_column: str
    target: Target
    preset: Preset
    folder: str | None = None
    """Folder below EMBEDSTORE_DATA in which the files may lie."""
    id_column: str | None = None
    """None: rows are named by number."""
    other_labels: tuple[str, ...] = ()
    sheet: str | None = None
    """Of a workbook."""
    frame: str | None = None
    """Name of the table in a file of R."""
    molecule: str = "mrna"
    split: str | None = None
    """Column with the authors' parts."""
    backbones: str = "one-hot-mrna,one-hot-protein"
    """To try first."""

    @property
    def downloads(self) -> bool:
        """True where every part can be downloaded."""
        return all(any(form.url for form in part.forms) for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """Everything that is known, as plain values."""
        target = asdict(self.target) | {"metric": self.target.metric}
        return asdict(self) | {"target": target, "downloads": self.downloads}
