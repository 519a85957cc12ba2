"""What the clusterings of `--split` find and what they join by mistake; one JSON line, and a table.

Recall: of pairs of a protein and a mutant of it, the share that is put into one group. Mutants keep
a share of the residues (the identity); the others are replaced as BLOSUM62 expects (Henikoff and
Henikoff 1992), and one position in 20 of those that change is an insertion or a deletion of 2.5
residues on average. Nucleotides are replaced evenly. Fragments are a half of the mutant, or 50
residues of it. Proteins and coding sequences are those of the tables below EMBEDSTORE_DATA; without
it random ones of the same composition.

False links: all proteins are clustered together with the same proteins read backwards, which have
the same composition and repeats and no common descent. `reversed_joined` is the share of reversed
proteins whose group holds a protein, chains through others included. `largest` is the largest group
of the proteins themselves.

- kmer: `group:kmer`; homolog: `group:homolog`; codon-mini: the same without the least share, as
  scripts/train_codon_mini.py splits

The table goes to stderr. Example: python scripts/measure_homology.py --pairs 300
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.dogma import Unreadable, view_of
from probe.homology import PROTEINS, cluster_homologs
from probe.split_rules import cluster_texts

Cluster = Callable[[Sequence[str]], NDArray[np.int64]]

TABLES = (
    ("yeast_expression/yeast_cds_fpkm_halflife.csv.gz", "seq"),
    ("ecoli_abundance/protein_abundance.csv.gz", "cds"),
    ("icodon_stability/icodon_test.csv.gz", "coding"),
)
RESIDUES = "ARNDCQEGHILKMFPSTWYV"
COMMON = (8.25, 5.53, 4.06, 5.46, 1.38, 3.93, 6.72, 7.07, 2.27, 5.91, 9.65, 5.80, 2.41, 3.86)
FREQUENCIES = np.array([*COMMON, 4.74, 6.65, 5.36, 1.10, 2.92, 6.86]) / 100
"""Of `RESIDUES` in Swiss-Prot."""
INDELS = 0.05
"""Of the positions that change."""
IDENTITIES = {"protein": (90, 80, 76, 70, 60, 50, 40, 30), "dna": (95, 90, 80, 70, 60)}


def main() -> None:
    """Measure recall by identity, then false links."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=300, help="of each identity")
    parser.add_argument("--most", type=int, help="proteins that are clustered; default all")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    proteins, nucleotides = sequences(rng)
    if options.most:
        proteins, nucleotides = proteins[: options.most], nucleotides[: options.most]
    answer: dict[str, Any] = {
        "source": "EMBEDSTORE_DATA" if "EMBEDSTORE_DATA" in os.environ else "random",
        "pairs": options.pairs,
    }
    kinds: dict[str, tuple[list[str], dict[str, Cluster]]] = {
        "protein": (
            proteins,
            {
                "kmer": lambda texts: cluster_texts("kmer", "protein", texts)[0],
                "homolog": lambda texts: cluster_texts("homolog", "protein", texts)[0],
                "codon-mini": lambda texts: cluster_homologs(texts, replace(PROTEINS, share=0)),
            },
        ),
        "dna": (
            nucleotides,
            {
                "kmer": lambda texts: cluster_texts("kmer", "dna", texts)[0],
                "homolog": lambda texts: cluster_texts("homolog", "dna", texts)[0],
            },
        ),
    }
    for kind, (texts, rules) in kinds.items():
        pairs = make_pairs(kind, texts, options.pairs, rng)
        answer[kind] = {"sequences": len(texts)}
        for name, cluster in rules.items():
            answer[kind][name] = {
                "recall": {which: recall(own, cluster) for which, own in pairs.items()},
                **false_links(texts, cluster),
            }
    show(answer)
    print(json.dumps(answer))


def sequences(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Different proteins, and coding sequences as DNA, in random order."""
    data = os.environ.get("EMBEDSTORE_DATA")
    if data is None:
        lengths = rng.gamma(2, 200, 2000).astype(int) + 30
        proteins = ["".join(rng.choice([*RESIDUES], n, p=FREQUENCIES)) for n in lengths]
        return proteins, ["".join(rng.choice([*"ACGT"], 3 * n)) for n in lengths]
    found: dict[str, str] = {}
    for file, column in TABLES:
        with gzip.open(Path(data) / file, "rt", newline="") as lines:
            for row in csv.DictReader(lines):
                text = row[column].upper().replace("T", "U")
                try:
                    protein = view_of(text, "mrna", "protein").text
                except Unreadable:
                    continue
                found.setdefault(protein, text.replace("U", "T"))
    proteins = sorted(found)
    proteins = [proteins[at] for at in rng.permutation(len(proteins))]
    return proteins, [found[protein] for protein in proteins[:3000]]


def substitutions() -> NDArray[np.float64]:
    """What replaces each residue where it is replaced: shape (20, 20), rows add up to 1."""
    from Bio.Align import substitution_matrices

    scores = substitution_matrices.load("BLOSUM62")
    bits = np.array([[scores[a][b] for b in RESIDUES] for a in RESIDUES]) / 2
    joint = np.outer(FREQUENCIES, FREQUENCIES) * 2.0**bits
    np.fill_diagonal(joint, 0)
    odds: NDArray[np.float64] = joint / joint.sum(axis=1, keepdims=True)
    return odds


def mutant(text: str, kind: str, identity: float, rng: np.random.Generator) -> str:
    """The text with a share of its letters kept, the others replaced, lost or shifted."""
    letters, odds = (RESIDUES, SUBSTITUTIONS) if kind == "protein" else ("ACGT", EVEN)
    made = []
    at = 0
    while at < len(text):
        if rng.random() < INDELS * (1 - identity):
            length = int(rng.geometric(0.4))
            if rng.random() < 0.5:
                at += length
                continue
            made += [letters[each] for each in rng.integers(len(letters), size=length)]
        own = letters.find(text[at])
        if own >= 0 and rng.random() >= identity:
            made.append(letters[rng.choice(len(letters), p=odds[own])])
        else:
            made.append(text[at])
        at += 1
    return "".join(made)


def make_pairs(
    kind: str, texts: Sequence[str], count: int, rng: np.random.Generator
) -> dict[str, list[tuple[str, str]]]:
    """Pairs of a sequence and its mutant, by identity, and of fragments."""
    unit = 1 if kind == "protein" else 3
    some = [text for text in texts if 100 * unit <= len(text) <= 1000 * unit][:count]
    pairs = {
        str(each): [(text, mutant(text, kind, each / 100, rng)) for text in some]
        for each in IDENTITIES[kind]
    }
    for name in ("90", "70", "50") if kind == "protein" else ("90", "80"):
        pairs[f"half at {name}"] = [(text, own[len(own) // 2 :]) for text, own in pairs[name]]
    pairs[f"{50 * unit} letters at 90"] = [
        (text, own[len(own) // 4 :][: 50 * unit]) for text, own in pairs["90"]
    ]
    return pairs


def recall(pairs: Sequence[tuple[str, str]], cluster: Cluster) -> float:
    """The share of pairs that are one group, each clustered by itself."""
    return round(float(np.mean([cluster(pair).max() == 0 for pair in pairs])), 3)


def false_links(texts: Sequence[str], cluster: Cluster) -> dict[str, Any]:
    """Groups of the sequences, and how many of their reversed ones join one."""
    began = time.process_time()
    group = cluster(texts)
    seconds = time.process_time() - began
    sizes = np.bincount(group)
    both = cluster([*texts, *(text[::-1] for text in texts)])
    joined = np.isin(both[len(texts) :], both[: len(texts)])
    return {
        "groups": len(sizes),
        "largest": int(sizes.max()),
        "in_groups": round(float(sizes[sizes > 1].sum() / len(texts)), 4),
        "reversed_joined": round(float(joined.mean()), 4),
        "seconds": round(seconds, 1),
    }


def show(answer: dict[str, Any]) -> None:
    """The table, in Markdown."""
    for kind in ("protein", "dna"):
        found = {name: each for name, each in answer[kind].items() if isinstance(each, dict)}
        names = [*found]
        lines = [f"| {answer[kind]['sequences']:,} of {kind} | " + " | ".join(names) + " |"]
        lines.append("|---" * (len(names) + 1) + "|")
        for which in found[names[0]]["recall"]:
            cells = [f"{100 * found[name]['recall'][which]:.0f} %" for name in names]
            lines.append(f"| identity {which} | " + " | ".join(cells) + " |")
        for key in ("groups", "largest", "in_groups", "reversed_joined", "seconds"):
            lines.append(f"| {key} | " + " | ".join(str(found[n][key]) for n in names) + " |")
        print("\n".join(lines), file=sys.stderr, end="\n\n")


EVEN = (np.ones((4, 4)) - np.eye(4)) / 3
SUBSTITUTIONS = substitutions()

if __name__ == "__main__":
    main()
