"""What an audit of a collection with groups costs from ten to a hundred thousand rows; JSON lines.

Makes coding sequences of random composition, 60 to 600 codons long. A third of the rows are mutants
of another (70 to 99 % of the residues kept), a tenth are synonymous. Processor time without making
the table, on one thread:

- audit_s: `audit_collection`, split by --split; rows_s: rows a second
- kmer_s, homolog_s: the clusterings alone; peak_mb: largest memory of the process, table included

Each size runs in a process of its own. The last line fits cost = n^e.

Example: python scripts/bench_audit.py --sizes 10000,30000,100000 --split group:kmer
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa

from embedstore.records import Record
from embedstore.store.collection import Collection, make_table
from embedstore.synthetic import SYNONYMS
from probe.audited import audit_collection
from probe.split_rules import SplitRule
from probe.tasks import Task


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,30000,100000", help="rows")
    parser.add_argument("--split", default="group:kmer")
    parser.add_argument("--one", type=int, help="of a child process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.split)))
        return
    lines = []
    for size in map(int, options.sizes.split(",")):
        words = [sys.executable, __file__, "--one", str(size), "--split", options.split]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
        lines.append(json.loads(done.stdout))
        print(json.dumps(lines[-1]), flush=True)
    if len(lines) > 1:
        x = np.log([line["rows"] for line in lines])
        costs = [name for name in lines[0] if name.endswith("_s") and name != "rows_s"]
        fits = {
            name: np.diff(np.log([line[name] for line in lines])) / np.diff(x) for name in costs
        }
        exponents = {name: [round(float(each), 2) for each in own] for name, own in fits.items()}
        print(json.dumps({"exponents": exponents}))


def measure(rows: int, split: str) -> dict[str, Any]:
    """One size."""
    collection = make_collection(rows)
    task = Task(collection="genes", label="label", kind="regression")
    line: dict[str, Any] = {"rows": rows, "split": split}
    began = time.process_time()
    audit_collection(collection, task, SplitRule(text=split))
    line["audit_s"] = round(time.process_time() - began, 2)
    line["rows_s"] = round(rows / line["audit_s"])
    line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    try:
        from probe.split_rules import cluster_texts, comparable_texts
    except ImportError:  # before there were relatives
        return line
    texts = [*comparable_texts(collection, np.arange(rows))["protein"].values()]
    for name in ("kmer", "homolog"):
        began = time.process_time()
        groups = cluster_texts(name, "protein", texts)[0]
        line[f"{name}_s"] = round(time.process_time() - began, 2)
        line[f"{name}_groups"] = int(groups.max()) + 1
        line[f"{name}_largest"] = int(np.bincount(groups).max())
    return line


def make_proteins(rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Residues of proteins, with families."""
    residues = np.array(sorted(set(SYNONYMS) - {"*"}))
    proteins: list[np.ndarray] = []
    for at in range(rows):
        fate = rng.random()
        if at and fate < 1 / 3 + 0.1:
            protein = proteins[rng.integers(at)]
            if fate < 1 / 3:
                change = rng.random(len(protein)) > rng.uniform(0.7, 0.99)
                protein = np.where(change, rng.choice(residues, len(protein)), protein)
        else:
            protein = rng.choice(residues, rng.integers(60, 600))
        proteins.append(protein)
    return proteins


def make_collection(rows: int) -> Collection:
    """Coding sequences with families, and labels."""
    rng = np.random.default_rng(0)
    choices = {residue: (own[0], own[-1]) for residue, own in SYNONYMS.items()}
    records = []
    for at, protein in enumerate(make_proteins(rows, rng)):
        last = rng.integers(0, 2, len(protein))
        codons = [choices[each][pick] for each, pick in zip(protein, last, strict=True)]
        records.append(Record(f"g{at}", f"AUG{''.join(codons)}UAA", "mrna"))
    return Collection("genes", make_table(records, pa.table({"label": rng.normal(size=rows)})))


if __name__ == "__main__":
    main()
