"""Synthetic coding sequences with a planted, known signal: a test of the tool, not biology.

    label = 0.7 * codon usage + 0.55 * motif + 0.46 * noise     (each part with unit variance)

*Codon usage* is the share of residues written with the codon that sorts last among its synonyms;
each gene draws its own preference. It stands in the nucleotides alone: the protein does not show
it. *Motif* is whether the protein holds `WHCP`, written with any synonyms. About 49 % of the
label's variance is codon usage, 30 % the motif and 21 % noise.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.dogma import GENETIC_CODE

MOTIF = "WHCP"
WEIGHTS = {"codon_usage": 0.70, "motif": 0.55, "noise": 0.46}
RESIDUES = (60, 120)
"""Fewest and most residues of a gene, the first M included."""

SYNONYMS: dict[str, list[str]] = {}
for _codon in sorted(GENETIC_CODE):
    SYNONYMS.setdefault(GENETIC_CODE[_codon], []).append(_codon)


@dataclass(frozen=True, eq=False)
class SyntheticGenes:
    """N genes and what was planted in them."""

    ids: list[str]
    sequences: list[str]
    """Coding sequences in RNA letters, AUG to stop."""
    label: NDArray[np.float64]
    """Shape (N,)."""
    parts: dict[str, NDArray[np.float64]]
    """`codon_usage`, `motif` and `noise`: shape (N,), mean 0 and variance 1, before weighting; 0
    where all genes are alike."""

    def as_csv(self) -> str:
        """A table with columns id, sequence, label and the planted parts."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "sequence", "label", *self.parts])
        columns = [self.label, *self.parts.values()]
        for row, (name, sequence) in enumerate(zip(self.ids, self.sequences, strict=True)):
            writer.writerow([name, sequence, *(f"{column[row]:.6f}" for column in columns)])
        return text.getvalue()


def make_genes(count: int, seed: int = 0) -> SyntheticGenes:
    """Draw synthetic genes; the same count and seed give the same genes wherever numpy is alike."""
    rng = np.random.default_rng(seed)
    residues = np.array(sorted(set(SYNONYMS) - {"*"}))
    sequences = []
    usage = np.empty(count)
    motif = np.empty(count)
    for gene in range(count):
        protein = rng.choice(residues, size=rng.integers(*RESIDUES, endpoint=True))
        protein[0] = "M"
        if rng.random() < 0.5:
            at = rng.integers(1, len(protein) - len(MOTIF))
            protein[at : at + len(MOTIF)] = list(MOTIF)
        preference = rng.random()
        codons = [
            options[-1] if rng.random() < preference else options[rng.integers(len(options))]
            for options in (SYNONYMS[residue] for residue in protein)
        ]
        sequences.append("".join([*codons, rng.choice(SYNONYMS["*"])]))
        usage[gene] = np.mean(
            [
                codon == SYNONYMS[residue][-1]
                for codon, residue in zip(codons, protein, strict=True)
                if len(SYNONYMS[residue]) > 1
            ]
        )
        motif[gene] = MOTIF in "".join(protein)
    noise = rng.standard_normal(count)
    parts = {"codon_usage": usage, "motif": motif, "noise": noise}
    # a part without variance, as among few genes, stays 0
    parts = {name: (part - part.mean()) / (part.std() or 1) for name, part in parts.items()}
    label = np.sum([WEIGHTS[name] * part for name, part in parts.items()], axis=0)
    ids = [f"synthetic-{number}" for number in range(1, count + 1)]
    return SyntheticGenes(ids, sequences, label, parts)
