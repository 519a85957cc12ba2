"""Kill builds, fill their disk, break their writes; after each, check all that a reader can see.

A round runs a build of synthetic genes in a process of its own and disturbs it: SIGKILL at a random
moment, a full disk (a write that fails with ENOSPC), or a broken one (EIO on a write or an fsync).
After every round each visible embedding must equal the undisturbed one, and what was visible before
must still be. A finished store must have the very segments of an undisturbed build; then the next
store begins. Prints one JSON line; exit code 1 at the first lie.

Example: python scripts/torture_build.py --kills 100 --faults 20
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torture.truth import embeddings, must, segments

from embedstore import create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import StoreError
from embedstore.records import read_records
from embedstore.synthetic import make_genes

BACKBONE = "codon-composition"
SEGMENT_BYTES = 20_000


def main() -> None:
    """Disturb builds until the counts asked for are reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--faults", type=int, default=20, help="failing writes and fsyncs")
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--victim", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        table, folder, fault, countdown = options.victim
        break_after(int(fault), int(countdown))
        run_build(Path(table), Path(folder))
        return
    print(json.dumps(torture(options.kills, options.faults, options.genes, options.seed)))


def torture(kills: int, faults: int, genes: int, seed: int | None = None) -> dict[str, Any]:
    """Disturb builds; every check is an assertion that survives `python -O`.

    Returns
    -------
    counts of what was done and seen
    """
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent)
        table = root / "genes.csv"
        table.write_text(make_genes(genes, seed=5).as_csv())
        began = time.monotonic()
        run_build(table, root / "undisturbed")
        undisturbed = open_store(root / "undisturbed")
        truth, alone = embeddings(undisturbed, BACKBONE), time.monotonic() - began
        number = 0
        visible: set[str] = set()
        while seen["kills"] < kills or seen["faults"] < faults:
            folder = root / f"store-{number}"
            fault = seen["kills"] >= kills or (seen["faults"] < faults and rng.random() < 0.2)
            ended = (
                _run_with_fault(table, folder, rng, seen)
                if fault
                else _run_and_kill(table, folder, rng.uniform(0, 1.5 * alone + 1), seen)
            )
            visible = check(folder, truth, visible)
            seen["checks"] += 1
            if ended == 0:
                must(visible == set(truth), "a build that ended well left something out")
                must(
                    segments(open_store(folder), BACKBONE) == segments(undisturbed, BACKBONE),
                    "other segments",
                )
                seen["stores finished"] += 1
                number, visible = number + 1, set()
        run_build(table, root / f"store-{number}")
        must(check(root / f"store-{number}", truth, visible) == set(truth), "not finished")
    return {"embeddings in each store": len(truth), "seconds alone": round(alone, 1), **seen}


def run_build(table: Path, folder: Path) -> None:
    """The build that everything here is about: many small segments."""
    records = read_records(table, molecule="mrna")
    prepared = prepare(BackboneConfig(backbone=BACKBONE))
    config = BuildConfig(
        collection="genes", segment_bytes=SEGMENT_BYTES, batch_tokens=300, quiet=True
    )
    build(create_store(folder), records, prepared, config)


def check(folder: Path, truth: dict[str, NDArray[Any]], before: set[str]) -> set[str]:
    """Keys that a reader sees, after comparing every one of them with the truth."""
    try:
        found = embeddings(open_store(folder), BACKBONE)
    except StoreError as error:
        must(error.code in ("not-a-store", "missing-recipe"), f"unreadable: {error}")
        found = {}
    must(before <= set(found), "an embedding that was visible is gone")
    for key, rows in found.items():
        must(np.array_equal(rows, truth[key]), f"{key} is not what it was")
    return set(found)


def break_after(fault: int, countdown: int) -> None:
    """Make this process's n-th fsync, and all later ones, fail with an errno; 0: none does.

    Every file of the store is synced before it counts, so this is where a full or broken disk
    shows at the latest.
    """
    if not fault:
        return
    left = [countdown]
    real = os.fsync

    def failing(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(fault, os.strerror(fault))
        real(handle)

    os.fsync = failing


def _run_and_kill(table: Path, folder: Path, delay: float, seen: Counter[str]) -> int | None:
    process = subprocess.Popen(_command(table, folder, 0, 0))
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        seen["kills"] += 1
        return None
    must(process.returncode == 0, f"the build ended with {process.returncode}")
    return process.returncode


def _run_with_fault(
    table: Path, folder: Path, rng: random.Random, seen: Counter[str]
) -> int | None:
    fault = rng.choice([errno.ENOSPC, errno.EIO])
    words = _command(table, folder, fault, rng.randrange(1, 200))
    drafts = set(folder.glob("recipes/*/drafts/*"))  # of killed builds: `embedstore gc` has them
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return 0
    must(os.strerror(fault) in done.stderr, f"another error: {done.stderr[-500:]}")
    left = set(folder.glob("recipes/*/drafts/*")) - drafts
    must(not left, "a build that failed, but was not killed, left a draft")
    seen["faults"] += 1
    return None


def _command(table: Path, folder: Path, fault: int, countdown: int) -> list[str]:
    words = [sys.executable, __file__, "--victim", table, folder, fault, countdown]
    return [str(word) for word in words]


if __name__ == "__main__":
    main()
