"""The longest open reading frame of a transcript: letters and a genetic code in, its span out."""

from __future__ import annotations

import numpy as np

from embedstore.dogma import WHOLE, Coding
from embedstore.errors import BadInput
from embedstore.genetic_codes import UGA, codon_numbers, genetic_code


def longest_orf(mrna: str, coding: Coding = WHOLE) -> tuple[int, int] | None:
    """Where the longest stretch from a start codon to the next stop codon in its frame lies.

    The three forward frames are searched. A frame's stretch begins at the first start codon
    behind a stop, so a later start codon inside of it (a nested one) never wins. Of equally long
    ones the first is taken. Where a record has selenocysteine, UGA ends none.

    Parameters
    ----------
    mrna : letters ACGUN
    coding : its genetic code decides which codons start and stop; its positions are not read

    Returns
    -------
    First nt of the start codon and the nt behind the stop codon, 0-based; None: there is none.

    Raises
    ------
    BadInput
        In this genetic code the stop codons are residues too, so nothing tells where to end.
    """
    code = genetic_code(coding.code)
    if code.both:
        raise BadInput(
            f"In {code.name} {', '.join(code.both)} is a residue inside a gene and a stop at its "
            "end, so the longest open reading frame cannot be told.",
            "Give the positions: --cds-columns, or coding_region in a request.",
        )
    stops = code.stops.copy()
    if coding.selenocysteine:
        stops[UGA] = False
    best: tuple[int, int] | None = None
    for frame in range(3):
        numbers = codon_numbers(mrna[frame : len(mrna) - (len(mrna) - frame) % 3])
        ends = np.flatnonzero(stops[numbers])
        starts = np.flatnonzero(code.starts[numbers])
        if not len(ends) or not len(starts):
            continue
        behind = np.concatenate(([0], ends[:-1] + 1))  # first codon after the stop before
        place = np.searchsorted(starts, behind)
        there = place < len(starts)
        first = starts[np.minimum(place, len(starts) - 1)]
        lengths = np.where(there & (first < ends), ends - first + 1, 0)
        at = int(lengths.argmax())
        if lengths[at] == 0:
            continue
        found = frame + 3 * int(first[at]), frame + 3 * int(ends[at]) + 3
        # the longer one, and of two that are as long the one that begins first
        if best is None or (found[0] - found[1], found[0]) < (best[0] - best[1], best[0]):
            best = found
    return best
