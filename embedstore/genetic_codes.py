"""Genetic codes by their NCBI numbers: a number in, look-ups of all its codons out.

The standard code stands here; every other comes from Biopython's copy of NCBI's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput

# The standard genetic code (NCBI transl_table 1), codons in order UCAG x UCAG x UCAG.
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = tuple(map("".join, product("UCAG", repeat=3)))
GENETIC_CODE: dict[str, str] = dict(zip(CODONS, _AMINO_ACIDS, strict=True))
"""RNA codon to residue in the standard code; `*` is a stop."""

# Letters as digits of base 6, A C G U N in this order and 5 for any other, so that a codon is a
# number: one look-up for all codons of a sequence.
_DIGITS = np.full(256, 5, np.uint8)
_DIGITS[np.frombuffer(b"ACGUN", np.uint8)] = range(5)
_PLACES = np.array([36, 6, 1], np.uint8)

UGA = int(_DIGITS[list(b"UGA")] @ _PLACES)
"""Number of the codon that selenocysteine is written with."""


@dataclass(frozen=True, eq=False)
class GeneticCode:
    """What codons mean; the arrays are indexed by `codon_numbers`, and have 216 entries."""

    name: str
    """`genetic code 11`; the default has none of a number."""
    residues: NDArray[np.uint8]
    """Letter of an inner codon: `X` where N leaves several, `*` a stop, 0 what is no codon."""
    starts: NDArray[np.bool_]
    """Whether a codon may be the first; with N, whether all its readings may."""
    stops: NDArray[np.bool_]
    """Whether a codon may be the last; with N, whether all its readings may."""
    start_codons: tuple[str, ...]
    stop_codons: tuple[str, ...]
    both: tuple[str, ...]
    """Codons that are a residue inside and a stop at the end."""


def codon_numbers(mrna: str) -> NDArray[np.uint8]:
    """Number of each codon: uint8, shape (L / 3,).

    Raises
    ------
    ValueError
        L is no whole number of codons.
    """
    return _DIGITS[np.frombuffer(mrna.encode(), np.uint8)].reshape(-1, 3) @ _PLACES


def known_codes() -> dict[int, str]:
    """NCBI's number and the name of each genetic code that there is."""
    from Bio.Data.CodonTable import unambiguous_rna_by_id as tables

    return {number: tables[number].names[0] for number in sorted(tables)}


def check_code(number: int, where: str) -> int:
    """The number, where NCBI has such a code.

    Parameters
    ----------
    where : how an error names its place, e.g. `--genetic-code`

    Raises
    ------
    BadInput
        Lists the codes there are.
    """
    known = known_codes()
    if number not in known:
        listed = ", ".join(f"{each} {name}" for each, name in known.items())
        raise BadInput(f"{where}: NCBI has no genetic code {number}.", f"Known: {listed}.")
    return number


@lru_cache(maxsize=64)
def genetic_code(number: int | None) -> GeneticCode:
    """The look-ups of a code.

    Parameters
    ----------
    number : of NCBI (`transl_table`); None: the standard code with AUG as its only start

    Raises
    ------
    BadInput
        NCBI has no such code.
    """
    if number is None:
        stops = [codon for codon, residue in GENETIC_CODE.items() if residue == "*"]
        return _look_ups("the standard code", GENETIC_CODE, ["AUG"], stops)
    from Bio.Data.CodonTable import unambiguous_rna_by_id as tables

    table = tables[check_code(number, "Genetic code")]
    # a codon that is both stands in both lists: it is a residue wherever it is not the last
    inner = {codon: table.forward_table.get(codon, "*") for codon in CODONS}
    return _look_ups(f"genetic code {number}", inner, table.start_codons, table.stop_codons)


def _look_ups(
    name: str, inner: dict[str, str], start_codons: Collection[str], stop_codons: Collection[str]
) -> GeneticCode:
    residues = np.zeros(6**3, np.uint8)
    starts, stops = np.zeros(6**3, np.bool_), np.zeros(6**3, np.bool_)

    def fill(codon: str, readings: list[str]) -> None:
        number = codon_numbers(codon)[0]
        letters = {inner[each] for each in readings}
        residues[number] = ord(letters.pop() if len(letters) == 1 else "X")
        starts[number] = all(each in start_codons for each in readings)
        stops[number] = all(each in stop_codons for each in readings)

    _for_each_codon(fill)
    return GeneticCode(
        name,
        residues,
        starts,
        stops,
        tuple(start_codons),
        tuple(stop_codons),
        tuple(codon for codon in stop_codons if inner[codon] != "*"),
    )


def _for_each_codon(fill: Callable[[str, list[str]], None]) -> None:
    """Call with each codon of ACGUN and the codons that it may be."""
    for codon in map("".join, product("UCAGN", repeat=3)):
        bases = ("UCAG" if base == "N" else base for base in codon)
        fill(codon, ["".join(reading) for reading in product(*bases)])
