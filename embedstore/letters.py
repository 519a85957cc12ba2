"""Letters of a sequence, as somebody wrote them, to those that records keep."""

from __future__ import annotations

import re

from embedstore.dogma import ALPHABETS, MOLECULES

IUPAC = "RYKMSWBDHV"
"""Codes for several nucleotides (NC-IUB 1984), other than N."""

_SPACE = re.compile(r"\s+")
_NO_LETTERS = re.compile("[^A-Za-z]+")
_MOSTLY = 0.8  # of the letters of a sequence, to look like nucleotides
_AMBIGUOUS = re.compile(f"[{IUPAC}{IUPAC.lower()}]")


def _foreign(letters: str) -> re.Pattern[str]:
    return re.compile(f"[^{re.escape(letters + letters.lower())}]")


# before upper(): the upper case of some foreign letters, as of ß, is letters of a protein
_FOREIGN = {
    "mrna": _foreign(ALPHABETS["mrna"] + "T"),
    "dna": _foreign(ALPHABETS["dna"]),
    "protein": _foreign(ALPHABETS["protein"]),
}
_NORMAL = {molecule: ALPHABETS[molecule].encode() for molecule in MOLECULES}


class BadLetters(Exception):
    """A sequence that a molecule cannot have."""

    def __init__(self, reason: str, detail: str, fix: str, *, ambiguous: bool = False) -> None:
        super().__init__(reason, detail, fix)
        self.reason = reason
        """A stable word: `empty-sequence`, `bad-letter` or `inner-stop`."""
        self.detail, self.fix = detail, fix
        self.ambiguous = ambiguous
        """Whether the letter is an IUPAC code of nucleotides."""


def is_normal(raw: str, molecule: str) -> bool:
    """Whether a sequence is already as records keep it; a microsecond for 1,000 letters."""
    return bool(raw) and not raw.encode(errors="replace").translate(None, _NORMAL[molecule])


def read_letters(raw: str, molecule: str, *, ambiguous_as_n: bool = False) -> tuple[str, str]:
    """Upper case without white space, U in mRNA and T in DNA; every letter one the molecule has.

    Parameters
    ----------
    ambiguous_as_n : read the IUPAC codes of nucleotides as N

    Returns
    -------
    The sequence, and the IUPAC codes in it, in upper case, that became N.

    Raises
    ------
    BadLetters
        The sequence is empty or has a letter that the molecule does not.
    """
    sequence = _SPACE.sub("", raw)
    codes = ""
    if molecule == "protein":
        sequence = sequence.removesuffix("*")  # the stop of a translated sequence
    elif ambiguous_as_n:
        codes = "".join(_AMBIGUOUS.findall(sequence)).upper()
        sequence = _AMBIGUOUS.sub("N", sequence)
    if not sequence:
        raise BadLetters("empty-sequence", "the sequence is empty", "Remove the row or fill it in.")
    foreign = _FOREIGN[molecule].search(sequence)
    if foreign:
        where = (
            f"letter {foreign.group()!r} at position {foreign.start()} "
            "(0-based, without white space)"
        )
        if molecule == "protein" and foreign.group() == "*":
            raise BadLetters(
                "inner-stop",
                f"{where} is a stop inside the protein",
                "Cut the protein at the stop, or remove the row.",
            )
        raise BadLetters(
            "bad-letter",
            f"{where} is not one of {molecule} ({ALPHABETS[molecule]})",
            "Correct the letter, remove the row, or give another --molecule.",
            ambiguous=molecule != "protein" and _AMBIGUOUS.match(foreign.group()) is not None,
        )
    sequence = sequence.upper()
    return (sequence.replace("T", "U") if molecule == "mrna" else sequence), codes


def looks_like(sequence: str) -> str | None:
    """`nucleotides` or `protein`; None where there are no letters."""
    letters = _NO_LETTERS.sub("", sequence).upper()
    if not letters:
        return None
    nucleotides = sum(map(letters.count, "ACGTUN"))
    return "nucleotides" if nucleotides >= _MOSTLY * len(letters) else "protein"
