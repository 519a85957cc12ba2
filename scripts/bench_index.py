"""What the key index costs from ten thousand to ten million keys; one JSON line a size.

Makes catalogues of random keys in a temporary folder: segments with their small arrays and
segment.json, and no embeddings. Each figure comes from a fresh process.

- make: read every segment and write the index (once in the life of a store), and its peak memory
- cold_open: open with the index dropped from the page cache; warm_open: with it in the cache
- find_32, find_10000: keys looked up a second, from hex digits, in batches of that many
- plan: `has` over as many keys as there are, half of them stored, then cut the rest into segments
- peak_mb: memory after opening and looking up; plan_peak_mb: with the lists of the plan

The last line fits cost = n^e over the sizes; n log n itself would read `n_log_n`.

Example: python scripts/bench_index.py --sizes 10000,100000,1000000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from embedstore import Recipe, create_store, open_store
from embedstore.build.plan import Item, cut_segments
from embedstore.store.index_upkeep import index_path
from embedstore.store.segment_document import (
    CHUNKS,
    DOCUMENT,
    GROUP,
    array_bytes,
    write_document,
)
from embedstore.store.zarr_files import raw

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=320, weights=None)
MEAN_LENGTH = 400


def main() -> None:
    """Make every size and measure it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000,1000000,10000000", help="keys")
    parser.add_argument("--segment-keys", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", help="of one child process: make, open or plan")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.store)))
        return
    lines = []
    for size in map(int, options.sizes.split(",")):
        lines.append(measure(size, options.segment_keys, options.repeats))
        print(json.dumps(lines[-1]), flush=True)
    if len(lines) > 1:
        costs = ["make_s", "cold_open_s", "warm_open_s", "plan_s"]
        print(json.dumps({"exponents": {cost: exponent(lines, cost) for cost in costs}}))


def measure(keys: int, segment_keys: int, repeats: int) -> dict[str, Any]:
    """Medians over fresh processes, on one catalogue."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "catalogue.store"
        make_catalogue(store, keys, segment_keys)
        line = child("make", store)
        opened = [child("open", store) for _ in range(repeats)]
        for name in opened[0]:
            line[name] = statistics.median(each[name] for each in opened)
        line |= child("plan", store)
    return {"keys": keys, "segments": -(-keys // segment_keys)} | {
        name: float(f"{value:.4g}") for name, value in line.items()
    }


def make_catalogue(folder: Path, count: int, segment_keys: int) -> None:
    """Segments of random keys, with no embeddings."""
    rng = np.random.default_rng(0)
    store = create_store(folder)
    store.write_recipe(RECIPE)
    for first in range(0, count, segment_keys):
        n = min(segment_keys, count - first)
        keys = rng.integers(0, 256, (n, 16), np.uint8)
        length = rng.integers(1, 2 * MEAN_LENGTH, n)
        arrays = {
            "keys": keys,
            "start": np.cumsum(length) - length,
            "length": length,
            "crc32c": rng.integers(0, 1 << 32, n, np.uint32),
        }
        name = hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()
        segment = store.recipe_folder(RECIPE.name) / "segments" / name
        tokens = int(length.sum())
        sizes = array_bytes(n, tokens, RECIPE.width, RECIPE.store_dtype)
        files = {GROUP: {"bytes": 0, "crc32c": "0" * 8}}
        for each in ("tokens", "mean", *arrays):  # the first two are told, and not there
            files[f"{each}/zarr.json"] = {"bytes": 0, "crc32c": "0" * 8}
            files[CHUNKS[each]] = {"bytes": sizes[CHUNKS[each]], "crc32c": "0" * 8}
        for each, array in arrays.items():
            content, path = raw(array), segment / CHUNKS[each]
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            files[CHUNKS[each]]["crc32c"] = f"{crc32c(content):08x}"
        document = {
            "segment": name,
            "recipe": RECIPE.name,
            "keys": n,
            "tokens": tokens,
            "width": RECIPE.width,
            "dtype": RECIPE.store_dtype,
            "bytes": sum(int(facts["bytes"]) for facts in files.values()),
            "files": files,
            "provenance": {},
        }
        (segment / DOCUMENT).write_bytes(write_document(document))


def child(step: str, store: Path) -> dict[str, float]:
    """Run one step in a process of its own."""
    words = [sys.executable, __file__, "--step", step, "--store", str(store)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def make_index(path: Path) -> dict[str, float]:
    """Open with no index."""
    began = time.perf_counter()
    open_store(path).recipe(RECIPE.name)
    return {"make_s": time.perf_counter() - began, "make_peak_mb": peak_mb()}


def open_index(path: Path) -> dict[str, float]:
    """Open cold and warm, then look keys up."""
    drop_from_cache(index_path(path / "recipes" / RECIPE.name))
    times = []
    for _ in range(2):
        began = time.perf_counter()
        reader = open_store(path).recipe(RECIPE.name)
        times.append(time.perf_counter() - began)
    rng = np.random.default_rng()
    stored = sample_keys(path, 10_000, rng)
    return {
        "cold_open_s": times[0],
        "warm_open_s": times[1],
        "find_32": rate(lambda: reader.lengths(stored[:32]), 32, 200),
        "find_10000": rate(lambda: reader.lengths(stored), len(stored), 5),
        "peak_mb": peak_mb(),
    }


def plan(path: Path) -> dict[str, float]:
    """Plan a build of as many keys as are stored, half of which are new."""
    reader = open_store(path).recipe(RECIPE.name)
    count = len(reader)
    stored = reader.keys()[: count // 2]
    digits = np.random.default_rng().bytes(16 * (count - len(stored))).hex()
    asked = stored + [digits[at : at + 32] for at in range(0, len(digits), 32)]
    del stored, digits
    began = time.perf_counter()
    has = reader.has(asked)
    found = time.perf_counter() - began
    items = [
        Item(key, "", MEAN_LENGTH, MEAN_LENGTH)
        for key, there in zip(asked, has, strict=True)
        if not there
    ]
    segments = cut_segments(items, 640, 128 << 20)
    seconds = time.perf_counter() - began
    assert sum(map(len, segments)) == count - count // 2
    return {"plan_has_s": found, "plan_s": seconds, "plan_peak_mb": peak_mb()}


STEPS = {"make": make_index, "open": open_index, "plan": plan}


def sample_keys(path: Path, count: int, rng: np.random.Generator) -> list[str]:
    """Stored keys, of random segments."""
    folders = open_store(path).segment_folders(RECIPE.name)
    chosen = rng.choice(len(folders), min(len(folders), 100), replace=False)
    held = [
        np.fromfile(folders[number] / "keys" / "c" / "0" / "0", np.uint8).reshape(-1, 16)
        for number in chosen
    ]
    keys = np.concatenate(held)
    return [bytes(key).hex() for key in keys[rng.permutation(len(keys))[:count]]]


def rate(run: Callable[[], object], count: int, repeats: int) -> float:
    """Things done a second, by the median of repeats."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return count / statistics.median(times)


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages."""
    if not path.exists():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # pages not yet on disk are not dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def peak_mb() -> float:
    """Largest resident memory of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def exponent(lines: list[dict[str, Any]], cost: str) -> dict[str, float]:
    """Slope of log cost over log keys, and what n log n would give over these sizes."""
    keys = np.array([line["keys"] for line in lines], float)
    x, y = np.log(keys), np.log([line[cost] for line in lines])
    slope, n_log_n = (float(np.polyfit(x, each, 1)[0]) for each in (y, np.log(keys * x)))
    last = float((y[-1] - y[-2]) / (x[-1] - x[-2]))
    return {"all": round(slope, 2), "last_two": round(last, 2), "n_log_n": round(n_log_n, 2)}


if __name__ == "__main__":
    main()
