"""Views of a record by the central dogma: sequence in, the string a backbone reads out.

Positions are 0-based and half-open. A DNA record is read as the coding strand.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

ALPHABETS = {
    "mrna": "ACGUN",
    "dna": "ACGTN",
    "protein": "ACDEFGHIKLMNPQRSTVWYXBZUO.-",
    "cds": "ACGUN",
}
"""Letters of each view; a record's sequence uses those of the view named like its molecule."""

MOLECULES = ("mrna", "dna", "protein")
VIEWS = ("mrna", "dna", "protein", "cds")

# The standard genetic code (NCBI transl_table 1), codons in order UCAG x UCAG x UCAG.
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
GENETIC_CODE: dict[str, str] = {
    "".join(codon): residue
    for codon, residue in zip(product("UCAG", repeat=3), _AMINO_ACIDS, strict=True)
}
"""RNA codon to residue; `*` is a stop."""


def _with_unknown_bases() -> dict[str, str]:
    """Codons with N: the residue on which every reading agrees, else X."""
    code = dict(GENETIC_CODE)
    for codon in map("".join, product("UCAGN", repeat=3)):
        readings = {
            GENETIC_CODE["".join(reading)]
            for reading in product(*("UCAG" if base == "N" else base for base in codon))
        }
        code[codon] = readings.pop() if len(readings) == 1 else "X"
    return code


# Letters as digits of base 6, A C G U N in this order and 5 for any other, so that a codon is a
# number: one look-up for all codons of a sequence.
_DIGITS = np.full(256, 5, np.uint8)
_DIGITS[np.frombuffer(b"ACGUN", np.uint8)] = range(5)
_PLACES = np.array([36, 6, 1], np.uint8)
_READINGS = np.zeros(6**3, np.uint8)  # 0: no codon
for _codon, _residue in _with_unknown_bases().items():
    _READINGS[_DIGITS[list(_codon.encode())] @ _PLACES] = ord(_residue)


@dataclass(frozen=True)
class View:
    """The string a backbone reads, and where its positions lie in the record."""

    name: str
    """`mrna`, `dna`, `protein` or `cds`."""
    text: str
    step: int
    """Record positions under one view position: 3 for a protein translated from nucleotides."""

    def to_record(self, start: int, stop: int) -> tuple[int, int]:
        """The record's positions under view positions [start, stop), half-open."""
        return start * self.step, stop * self.step


class Unreadable(Exception):
    """A record has no such view; the message says why. Turned into a failure, never shown raw."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def view_of(sequence: str, molecule: str, view: str) -> View:
    """What a backbone of that view reads of a record.

    Parameters
    ----------
    sequence : letters of the record, checked and normalised
    molecule : `mrna`, `dna` or `protein`
    view : `mrna`, `dna`, `protein`, or `cds` (the mRNA as a checked coding sequence)

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
    residues = _read_frame(mrna)
    return View(view, mrna, 1) if view == "cds" else View(view, residues, 3)


def check_coding(mrna: str) -> None:
    """Check that an mRNA is one open reading frame from its first letter to its last.

    The rule of the paper: letters AUGCN, length divisible by 3, start AUG, exactly one stop, at
    the end.

    Raises
    ------
    Unreadable
        Names the first rule that fails and where.
    """
    _read_frame(mrna)


def _read_frame(mrna: str) -> str:
    """Residues of a checked coding sequence, its stop left out."""
    letters = ALPHABETS["cds"]
    if mrna.encode(errors="replace").translate(None, letters.encode()):
        at = next(at for at, letter in enumerate(mrna) if letter not in letters)
        raise Unreadable("unknown-letter", f"{mrna[at]!r} at nt {at} is not one of {letters}")
    if len(mrna) % 3:
        raise Unreadable("length-not-codons", f"{len(mrna)} nt is not divisible by 3")
    if not mrna.startswith("AUG"):
        raise Unreadable("no-start-codon", f"starts with {mrna[:3]}, not AUG")
    residues = translate(mrna)
    stop = residues.find("*")
    if residues[-1] != "*":
        raise Unreadable("no-stop-codon", f"ends with {mrna[-3:]}, which is no stop codon")
    if stop < len(residues) - 1:
        at = 3 * stop
        raise Unreadable("inner-stop-codon", f"stop {mrna[at : at + 3]} at nt {at}, inside")
    return residues[:-1]


def translate(mrna: str) -> str:
    """Residues of whole codons: `X` where N leaves more than one reading, `*` for a stop.

    Raises
    ------
    ValueError
        The letters, ACGUN only, do not make whole codons.
    """
    letters = np.frombuffer(mrna.encode(), np.uint8)  # (L,)
    residues = _READINGS[_DIGITS[letters].reshape(-1, 3) @ _PLACES]  # (L / 3,)
    if not residues.all():
        raise ValueError(f"codon {int(residues.argmin())} has a letter other than ACGUN")
    return str(residues.tobytes(), "ascii")
