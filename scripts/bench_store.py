"""How fast the store reads and writes beside the limits of the machine; one JSON line.

Every way stands on the same sequences, in one process, in turns; figures are medians over the
turns. Warm figures are also compared by processor time, which repeats on a shared machine where
wall time does not; `ratio` is of processor time when warm, of wall time when cold or writing.

- ours: `RecipeReader`, every sequence checked; unchecked: the same with verify=False
- mmap: one flat file mapped into memory, rows copied out; mmap_crc: and their checksums taken;
  raw: pread and write of the flat file
- zarr: zarr-python on our own folder; h5: HDF5, one data set a sequence

Rows are normal with a few columns thirty times as large, as language models have them. Cold means
dropped from the page cache by posix_fadvise, which the kernel may do in part only.

Example: python scripts/bench_store.py --sequences 400 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore import Recipe, RecipeReader, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.store.segment import TOKENS_SHARD, SegmentWriter

BATCH_TOKENS = 8_192
SINGLES = 200
SCAN = 64
"""Sequences read at once by a scan."""
Way = Callable[[NDArray[np.int64]], Any]


def main() -> None:
    """Write the data in every form, then time every way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--segment-mb", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = Data(Path(folder), options.sequences, options.width, options.segment_mb << 20)
        line: dict[str, Any] = {
            "sequences": options.sequences,
            "width": options.width,
            "mb": round(data.tokens.nbytes / 1e6, 1),
            "repeats": options.repeats,
            "load": os.getloadavg()[0],
            "write": bench_writes(data, options.repeats),
        }
        line |= bench_reads(data, options.repeats)
    print(json.dumps(line))


class Data:
    """The same sequences as arrays in memory, in our store, as a flat file and as HDF5."""

    def __init__(self, folder: Path, count: int, width: int, segment_bytes: int) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.segment_bytes = folder, segment_bytes
        self.recipe = Recipe(backbone="esm2-150m", view="protein", width=width, weights=None)
        self.lengths = np.clip(rng.gamma(2.0, 170.0, count), 20, 1000).astype(np.int64)
        self.ends = np.cumsum(self.lengths)
        self.tokens = np.empty((int(self.ends[-1]), width), np.float16)
        scale = np.where(np.arange(width) % 97 == 5, 30, 1).astype(np.float32)
        for first in range(0, len(self.tokens), BATCH_TOKENS):
            part = self.tokens[first : first + BATCH_TOKENS]
            part[:] = rng.standard_normal(part.shape, np.float32) * scale
        self.keys = [key_of(str(number)) for number in range(count)]
        self._map: NDArray[np.float16] | None = None
        self.flat, self.h5 = folder / "flat", folder / "sequences.h5"
        self.store = folder / "ours.store"

    def rows(self, number: int) -> NDArray[np.float16]:
        """Tokens of one sequence."""
        return self.tokens[self.ends[number] - self.lengths[number] : self.ends[number]]

    def mapped(self) -> NDArray[np.float16]:
        """The flat file mapped into memory, until `unmap`."""
        if self._map is None:
            self._map = np.memmap(self.flat, np.float16, "r").reshape(-1, self.tokens.shape[1])
        return self._map

    def unmap(self) -> None:
        """Let go of the map: pages that are mapped cannot be dropped from the cache."""
        self._map = None

    def remove(self) -> None:
        """Take every file away."""
        shutil.rmtree(self.store, ignore_errors=True)
        self.flat.unlink(missing_ok=True)
        self.h5.unlink(missing_ok=True)

    def batches(self) -> list[tuple[int, int]]:
        """First and last sequence of batches as a build makes them."""
        held, first, out = 0, 0, []
        for number, length in enumerate(self.lengths.tolist()):
            if held and held + length > BATCH_TOKENS:
                out.append((first, number))
                held, first = 0, number
            held += length
        return [*out, (first, len(self.lengths))]

    def embedded(self, first: int, last: int) -> Embedded:
        """A batch, as a backbone gives it."""
        begin = self.ends[first] - self.lengths[first]
        return Embedded(
            tokens=self.tokens[begin : self.ends[last - 1]],
            lengths=self.lengths[first:last],
            mean=np.zeros((last - first, self.tokens.shape[1]), np.float32),
            cls=None,
            finite=np.ones(last - first, np.bool_),
        )


def bench_writes(data: Data, repeats: int) -> dict[str, Any]:
    """MB/s to disk, synced, of every way; what is written stays for the reads."""
    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: write_ours(data),
        "raw": lambda: write_raw(data),
        "h5": lambda: write_h5(data),
    }
    walls, cpus = turns(ways, repeats, data.remove)
    write_all(data)
    return report(walls, cpus, data.tokens.nbytes / 1e6, "MB/s") | {
        "ratio": {"ours/raw": ratio(walls, "raw", "ours"), "ours/h5": ratio(walls, "h5", "ours")}
    }


def write_all(data: Data) -> None:
    """Every form, for the reads."""
    data.remove()
    for write in (write_ours, write_raw, write_h5):
        write(data)


def write_ours(data: Data) -> None:
    """Segments as a build writes them."""
    store = create_store(data.store)
    store.write_recipe(data.recipe)
    folder = store.recipe_folder(data.recipe.name)
    writer, held = SegmentWriter(folder, data.recipe), 0
    for first, last in data.batches():
        embedded = data.embedded(first, last)
        writer.append(data.keys[first:last], embedded)
        held += embedded.tokens.nbytes
        if held >= data.segment_bytes or last == len(data.keys):
            writer.publish({})
            writer.close()
            writer, held = SegmentWriter(folder, data.recipe), 0
    writer.close()


def write_raw(data: Data) -> None:
    """The same batches to one file."""
    with data.flat.open("xb", buffering=0) as file:
        for first, last in data.batches():
            left = data.embedded(first, last).tokens.data.cast("B")
            while left:
                left = left[file.write(left) :]
        os.fsync(file.fileno())


def write_h5(data: Data) -> None:
    """One data set a sequence."""
    with h5py.File(data.h5, "w") as file:
        for number, key in enumerate(data.keys):
            file.create_dataset(key, data=data.rows(number))
        file.flush()
    sync(data.h5)


def bench_reads(data: Data, repeats: int) -> dict[str, Any]:
    """Single sequences, batches and scans, warm and cold."""
    rng = np.random.default_rng(1)
    reader = open_store(data.store).recipe(data.recipe.name)
    ways = reading_ways(data, reader)
    for way in ways.values():  # every way gives the same numbers
        some = rng.permutation(len(data.keys))[:8]
        assert np.array_equal(way(some), np.concatenate([data.rows(number) for number in some]))
    line: dict[str, Any] = {"single_warm": bench_singles(ways, len(data.keys), repeats, rng)}
    for size in (32, 128):
        groups = [rng.integers(0, len(data.keys), size) for _ in range(max(2, 640 // size))]
        line[f"random_{size}_warm"] = timed(ways, groups, repeats)
    scans = scanning_ways(data, reader)
    whole, mb = [np.arange(len(data.keys))], data.tokens.nbytes / 1e6
    line["scan_warm"] = timed(scans, whole, repeats, amount=mb, unit="MB/s")
    # cold ones last: what is read back at random lies in smaller pages, and is slower to copy
    cold = [rng.choice(len(data.keys), 32, replace=False) for _ in range(4)]
    line["random_32_cold"] = timed(ways, cold, repeats, before=lambda: drop(data))
    line["scan_cold"] = timed(
        scans, whole, repeats, before=lambda: drop(data), amount=mb, unit="MB/s"
    )
    return line


def reading_ways(data: Data, reader: RecipeReader) -> dict[str, Way]:
    """Sequence numbers in, packed tokens out."""
    width = data.tokens.shape[1]
    unchecked = open_store(data.store).recipe(data.recipe.name, verify=False)
    file = h5py.File(data.h5)
    arrays: list[Any] = []
    place: dict[str, tuple[int, int, int]] = {}
    for segment in reader.segments:
        rows = zip(segment.keys, segment.start.tolist(), segment.length.tolist(), strict=True)
        place |= {bytes(key).hex(): (len(arrays), start, length) for key, start, length in rows}
        arrays.append(zarr.open_array(str(segment.folder / "tokens"), mode="r"))

    def by_mmap(numbers: NDArray[np.int64], check: bool = False) -> NDArray[np.float16]:
        lengths = data.lengths[numbers]
        out = np.empty((int(lengths.sum()), width), np.float16)
        to = 0
        for end, length in zip(data.ends[numbers].tolist(), lengths.tolist(), strict=True):
            part = out[to : to + length]
            part[:] = data.mapped()[end - length : end]
            if check:
                crc32c(part)
            to += length
        return out

    def by_zarr(numbers: NDArray[np.int64]) -> NDArray[np.float16]:
        parts = []
        for number in numbers:
            array, start, length = place[data.keys[number]]
            parts.append(arrays[array][start : start + length])
        return np.concatenate(parts)

    return {
        "ours": lambda numbers: reader.batch([data.keys[number] for number in numbers]).tokens,
        "unchecked": lambda numbers: unchecked.batch([data.keys[n] for n in numbers]).tokens,
        "mmap": by_mmap,
        "mmap_crc": lambda numbers: by_mmap(numbers, check=True),
        "h5": lambda numbers: np.concatenate([file[data.keys[number]][:] for number in numbers]),
        "zarr": by_zarr,
    }


def scanning_ways(data: Data, reader: RecipeReader) -> dict[str, Way]:
    """Everything from front to back, into one buffer used again and again."""
    width = data.tokens.shape[1]
    groups = [slice(first, first + SCAN) for first in range(0, len(data.keys), SCAN)]
    most = max(int(data.lengths[group].sum()) for group in groups)
    buffer = np.empty((most, width), np.float16)
    handle = os.open(data.flat, os.O_RDONLY)
    other = open_store(data.store).recipe(data.recipe.name, verify=False)
    file = h5py.File(data.h5)

    def at(group: slice) -> NDArray[np.int64]:
        return np.cumsum(data.lengths[group]) - data.lengths[group]

    def ours(numbers: NDArray[np.int64]) -> None:
        for group in groups:
            reader.read_into(data.keys[group], buffer, at(group))

    def unchecked(numbers: NDArray[np.int64]) -> None:
        for group in groups:
            other.read_into(data.keys[group], buffer, at(group))

    def raw(numbers: NDArray[np.int64]) -> None:
        offset = 0
        for group in groups:
            size = int(data.lengths[group].sum()) * width * 2
            left = buffer.data.cast("B")[:size]
            while left:
                got = os.preadv(handle, [left], offset)
                left, offset = left[got:], offset + got

    def by_mmap(numbers: NDArray[np.int64]) -> None:
        first = 0
        for group in groups:
            size = int(data.lengths[group].sum())
            buffer[:size] = data.mapped()[first : first + size]
            first += size

    def by_h5(numbers: NDArray[np.int64]) -> None:
        for number in numbers:
            length = data.lengths[number]
            file[data.keys[number]].read_direct(buffer, dest_sel=np.s_[:length])

    return {"ours": ours, "unchecked": unchecked, "raw": raw, "mmap": by_mmap, "h5": by_h5}


def bench_singles(
    ways: dict[str, Way], count: int, repeats: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Milliseconds of one random sequence, the ways in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in rng.integers(0, count, (SINGLES * repeats) // 5):
        one = np.array([number])
        for name, way in ways.items():
            began = time.perf_counter()
            way(one)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {
        name: {
            "p50_ms": round4(np.percentile(times, 50)),
            "p99_ms": round4(np.percentile(times, 99)),
        }
        for name, times in taken.items()
    }


def timed(
    ways: dict[str, Way],
    groups: Sequence[NDArray[np.int64]],
    repeats: int,
    *,
    before: Callable[[], None] | None = None,
    amount: float | None = None,
    unit: str = "sequences/s",
) -> dict[str, Any]:
    """Rates of reading all groups, and ours against every other."""

    def run(way: Way) -> Callable[[], None]:
        def all_groups() -> None:
            for group in groups:
                way(group)

        return all_groups

    walls, cpus = turns({name: run(way) for name, way in ways.items()}, repeats, before)
    times = cpus if before is None else walls
    pairs = [(ours, name) for ours in ("ours", "unchecked") for name in ways if name != ours]
    return report(walls, cpus, amount or float(sum(map(len, groups))), unit) | {
        "ratio": {f"{ours}/{other}": ratio(times, other, ours) for ours, other in pairs}
    }


def turns(
    ways: dict[str, Callable[[], None]],
    repeats: int,
    before: Callable[[], None] | None = None,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and processor seconds of every way, one after the other, `repeats` times."""
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if before is not None:
                before()
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            cpus[name].append(time.process_time() - cpu)
            walls[name].append(time.perf_counter() - wall)
    return walls, cpus


def report(
    walls: dict[str, list[float]], cpus: dict[str, list[float]], amount: float, unit: str
) -> dict[str, Any]:
    """Median rates by wall and by processor time."""
    return {
        unit: {name: round4(amount / statistics.median(each)) for name, each in walls.items()},
        f"{unit} by cpu": {
            name: round4(amount / statistics.median(each)) for name, each in cpus.items()
        },
    }


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the turns of one time over another's."""
    pairs = zip(times[above], times[below], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def drop(data: Data) -> None:
    """Ask the kernel to forget every file's pages."""
    data.unmap()
    for path in [data.flat, data.h5, *data.store.rglob(f"*/{TOKENS_SHARD}")]:
        sync(path)  # pages not yet on disk are not dropped
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def round4(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
