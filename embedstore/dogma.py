"""Views of a record by the central dogma: sequence in, the string a backbone reads out.

Positions are 0-based and half-open. A DNA record is read as the coding strand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.genetic_codes import GENETIC_CODE as GENETIC_CODE
from embedstore.genetic_codes import UGA, GeneticCode, codon_numbers, genetic_code

ALPHABETS = {
    "mrna": "ACGUN",
    "dna": "ACGTN",
    "protein": "ACDEFGHIKLMNPQRSTVWYXBZUO.-",
    "cds": "ACGUN",
}
"""Letters of each view; a record's sequence uses those of the view named like its molecule."""

MOLECULES = ("mrna", "dna", "protein")
VIEWS = ("mrna", "dna", "protein", "cds")

ABSENT = {
    "no-coding-region": "the columns of its coding region are blank",
    "bad-positions": "the columns of its coding region hold no whole numbers",
    "no-orf": "no frame of it leads from a start codon to a stop codon",
}
"""Why a record may have no coding region, by the reason that a failure gives."""


FRAME = ("length-not-codons", "no-start-codon", "no-stop-codon", "inner-stop-codon")
"""Reasons why nucleotides are no reading frame."""


class Unreadable(Exception):
    """A record has no such view; the message says why. Turned into a failure, never shown raw."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Coding:
    """Where a nucleotide record codes for its protein, and how the codons are read.

    Without one, the whole record is read by the standard code, from AUG to its only stop.
    """

    start: int | None = None
    """First nt of the start codon in the record, 0-based; None with `stop`: the whole record."""
    stop: int | None = None
    """The nt behind the stop codon."""
    code: int | None = None
    """Genetic code by NCBI's number, with all its start codons; None: standard, AUG alone."""
    inner_stops: bool = False
    """Whether stop codons may stand inside; they read X."""
    selenocysteine: bool = False
    """Whether an inner UGA that is a stop reads U."""
    absent: str | None = None
    """A key of `ABSENT`, where the record has no coding region."""

    def __post_init__(self) -> None:
        if self.absent is not None and self.absent not in ABSENT:
            raise ValueError(f"absent must be one of {[*ABSENT]}, got {self.absent!r}")
        if (self.start is None) != (self.stop is None):
            raise ValueError("a coding region has a start and a stop, or neither")

    def region(self, length: int) -> tuple[int, int]:
        """Start and stop in a record of that many nt.

        Raises
        ------
        Unreadable
            The record has no coding region, or the positions are not within it.
        """
        if self.absent is not None:
            raise Unreadable(self.absent, ABSENT[self.absent])
        if self.start is None or self.stop is None:
            return 0, length
        if not 0 <= self.start < self.stop <= length:
            raise Unreadable(
                "bad-positions",
                f"its coding region, nt {self.start} to {self.stop} (0-based, half-open), is no "
                f"part of its {length} nt",
            )
        return self.start, self.stop


WHOLE = Coding()
"""The whole record by the standard code."""


@dataclass(frozen=True)
class View:
    """The string a backbone reads, and where its positions lie in the record."""

    name: str
    """`mrna`, `dna`, `protein` or `cds`."""
    text: str
    step: int
    """Record positions under one view position: 3 for a protein translated from nucleotides."""
    start: int = 0
    """Record position of the first view position: that of the start codon in a transcript."""

    def to_record(self, start: int, stop: int) -> tuple[int, int]:
        """The record's positions under view positions [start, stop), half-open."""
        return self.start + start * self.step, self.start + stop * self.step

    def spans_in_record(
        self, offset: NDArray[np.integer], width: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """First position and width in the record of what has them in the view; shape (t,) each."""
        return self.start + offset * self.step, width * self.step


def view_of(sequence: str, molecule: str, view: str, coding: Coding | None = None) -> View:
    """What a backbone of that view reads of a sequence; of a record, `Record.view` says it.

    Parameters
    ----------
    sequence : letters of the record, checked and normalised
    molecule : `mrna`, `dna` or `protein`
    view : `mrna` or `dna` (the whole record), `cds` (its coding region as mRNA) or `protein`
    coding : None: the whole record by the standard code

    Raises
    ------
    Unreadable
        The record has no such view: a protein has no mRNA, a sequence is no coding sequence.
    """
    if molecule == "protein":
        if view != "protein":
            raise Unreadable("no-nucleotides", f"a protein has no {view} view")
        return View(view, sequence, 1)
    mrna = sequence.replace("T", "U")
    if view == "mrna":
        return View(view, mrna, 1)
    if view == "dna":
        return View(view, mrna.replace("U", "T"), 1)
    coding = coding or WHOLE
    start, stop = coding.region(len(mrna))
    residues = _read_frame(mrna[start:stop], start, coding)
    if view == "cds":
        return View(view, mrna[start:stop], 1, start)
    return View(view, residues, 3, start)


def check_coding(mrna: str, coding: Coding | None = None) -> None:
    """Check that the coding region of an mRNA is one open reading frame from end to end.

    The rule of the paper: letters AUGCN, length divisible by 3, start AUG, exactly one stop, at
    the end. A genetic code brings its own starts and stops; inner stops may be allowed.

    Raises
    ------
    Unreadable
        Names the first rule that fails and where.
    """
    coding = coding or WHOLE
    start, stop = coding.region(len(mrna))
    _read_frame(mrna[start:stop], start, coding)


def _read_frame(frame: str, start: int, coding: Coding) -> str:
    """Residues of a checked coding sequence, its stop left out; it begins at that nt."""
    letters = ALPHABETS["cds"]
    if frame.encode(errors="replace").translate(None, letters.encode()):
        at = next(at for at, letter in enumerate(frame) if letter not in letters)
        raise Unreadable(
            "unknown-letter", f"{frame[at]!r} at nt {start + at} is not one of {letters}"
        )
    if len(frame) % 3:
        raise Unreadable("length-not-codons", f"{len(frame)} nt is not divisible by 3")
    code = genetic_code(coding.code)
    numbers = codon_numbers(frame)  # (C,)
    if not len(numbers) or not code.starts[numbers[0]]:
        raise Unreadable("no-start-codon", f"starts with {frame[:3]}, {_no_start(code)}")
    if not code.stops[numbers[-1]]:
        raise Unreadable("no-stop-codon", f"ends with {frame[-3:]}, which is no stop codon")
    residues = code.residues[numbers[:-1]]
    residues[:1] = ord("M")  # the first tRNA brings methionine whatever the start codon is
    stop = residues == ord("*")
    if stop.any():
        if coding.selenocysteine:
            residues[stop & (numbers[:-1] == UGA)] = ord("U")
        if coding.inner_stops:
            residues[residues == ord("*")] = ord("X")
        stop = residues == ord("*")
        if stop.any():
            at = 3 * int(stop.argmax())
            raise Unreadable(
                "inner-stop-codon", f"stop {frame[at : at + 3]} at nt {start + at}, inside"
            )
    return str(residues.tobytes(), "ascii")


def _no_start(code: GeneticCode) -> str:
    if len(code.start_codons) == 1:
        return f"not {code.start_codons[0]}"
    return f"not a start codon of {code.name} ({', '.join(code.start_codons)})"


def translate(mrna: str, code: int | None = None) -> str:
    """Residues of whole codons: `X` where N leaves more than one reading, `*` for a stop.

    A codon that a genetic code has both as a residue and as a stop reads as the residue.

    Parameters
    ----------
    code : by NCBI's number; None: the standard code

    Raises
    ------
    ValueError
        The letters, ACGUN only, do not make whole codons.
    """
    residues = genetic_code(code).residues[codon_numbers(mrna)]  # (L / 3,)
    if not residues.all():
        raise ValueError(f"codon {int(residues.argmin())} has a letter other than ACGUN")
    return str(residues.tobytes(), "ascii")
