"""An index file that somebody wrote to do harm, under checksums of its own, is made anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google_crc32c import value as crc32c

from embedstore.errors import WriteFailed
from embedstore.store.index import KeyTable, SegmentKeys
from embedstore.store.index_file import MAGIC, PREFIX, UnusableIndex, read_index, write_index

COUNT, SEGMENTS = 64, 4


def tables() -> KeyTable:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (COUNT // SEGMENTS, 16), np.uint8) for _ in range(SEGMENTS)]
    ones = np.ones(COUNT // SEGMENTS, np.int64)
    return KeyTable.of(
        [SegmentKeys(f"{n:032x}", keys, ones, len(keys), 1) for n, keys in enumerate(parts)]
    )


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "s" / "recipes" / "r" / "index" / "keys.bin"
    write_index(path, tables())
    assert read_index(path).names == tables().names
    return path


def rewrite(path: Path, change=lambda header: header, entries=None) -> None:
    """Change the header, or an array, and take all checksums anew."""
    content = path.read_bytes()
    _, size, _ = PREFIX.unpack_from(content)
    header = json.loads(content[PREFIX.size : PREFIX.size + size])
    arrays = bytearray(content[PREFIX.size + size :])
    for name, values in (entries or {}).items():
        array = header["arrays"][name]
        column = np.frombuffer(arrays, array["dtype"], COUNT, array["offset"])
        column[list(values)] = list(values.values())
        array["crc32c"] = crc32c(column.copy())
    text = json.dumps(change(header)).encode()
    text += b" " * (-(PREFIX.size + len(text)) % 64)
    path.write_bytes(PREFIX.pack(MAGIC, len(text), crc32c(text)) + text + arrays)


def array(**fields):
    return lambda h: h | {"arrays": h["arrays"] | {"row": h["arrays"]["row"] | fields}}


HEADERS = {
    "more entries": lambda h: h | {"entries": 2**40, "keys": [2**38] * 4},
    "too many entries": lambda h: h | {"entries": 2**70},
    "fewer entries": lambda h: h | {"entries": 60, "keys": [15] * 4},
    "negative": lambda h: h | {"entries": -1},
    "text": lambda h: h | {"entries": str(COUNT)},
    "true": lambda h: h | {"keys": [True] * 4},
    "not finite": lambda h: h | {"tokens": [float("nan")] * 4},
    "other counts": lambda h: h | {"keys": [15, 17, 16, 16]},
    "counts of others": lambda h: h | {"keys": [32, 32]},
    "a segment twice": lambda h: h | {"segments": [h["segments"][0]] * 4},
    "no segments": lambda h: h | {"segments": []},
    "numbers for names": lambda h: h | {"segments": [1, 2, 3, 4]},
    "objects": array(dtype="|O"),
    "other numbers": array(dtype="<i8"),
    "a place outside": array(offset=2**40),
    "a place within another": array(offset=0),
    "a negative place": array(offset=-64),
    "another array": lambda h: h | {"arrays": h["arrays"] | {"more": h["arrays"]["row"]}},
    "unknown": lambda h: h | {"more": 1},
    "a list": lambda h: [h],
    "deep": lambda h: h | {"segments": json.loads("[" * 900 + "]" * 900)},
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_is_refused(path, what):
    rewrite(path, HEADERS[what])
    with pytest.raises(UnusableIndex):
        read_index(path)


ENTRIES = {
    "no such segment": {"segment": {3: SEGMENTS}},
    "a negative segment": {"segment": {3: -1}},
    "no such row": {"row": {3: COUNT}},
    "a negative row": {"row": {3: -1}},
    "a negative length": {"length": {3: -1}},
    "not sorted": {"high": {3: 0}},
    "not sorted by the last half": {"high": {1: 9, 0: 9}, "low": {0: 9, 1: 8}},
    "one segment too often": {"segment": dict.fromkeys(range(COUNT), 0)},
}


@pytest.mark.parametrize("what", ENTRIES)
def test_an_entry_that_cannot_be_is_refused(path, what):
    rewrite(path, entries=ENTRIES[what])
    with pytest.raises(UnusableIndex, match=r"entry|entries|sorted"):
        read_index(path)


def test_a_header_longer_than_its_file_is_not_read(path):
    path.write_bytes(PREFIX.pack(MAGIC, 2**32 - 1, 0) + b"{}")
    with pytest.raises(UnusableIndex, match="header"):
        read_index(path)


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "link out"])
def test_what_is_no_file_of_the_store_is_not_read(path, tmp_path, what):
    outside = tmp_path / "outside.bin"
    path.rename(outside)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "device" else outside)
    with pytest.raises(UnusableIndex):
        read_index(path)
    if what == "link out":
        write_index(path, tables())  # takes the place of the link, not of its target
        assert not path.is_symlink()
        assert read_index(path).names == tables().names


def test_an_index_that_is_cut_under_its_reader_goes_on(path):
    """In a process of its own: a memory map would end it with a bus error."""
    code = """
import os, sys
import numpy as np
from pathlib import Path
from embedstore.store.index import KeyIndex, join_halves
from embedstore.store.index_file import read_index, write_index

path = Path(sys.argv[1])
for part in (0, 2):
    table = read_index(path)
    index = KeyIndex(table.names, [table])
    keys = index.sorted_keys()
    os.truncate(path, path.stat().st_size // part if part else 0)
    assert len(index) == len(keys) == 64
    assert (index.find(keys)[0] >= 0).all()
    write_index(path, table)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_no_index_is_written_where_a_link_leads_out_to(tmp_path):
    recipe, outside = tmp_path / "s" / "recipes" / "r", tmp_path / "outside"
    recipe.mkdir(parents=True)
    outside.mkdir()
    (recipe / "index").symlink_to(outside)
    with pytest.raises(WriteFailed, match="leads out"):
        write_index(recipe / "index" / "keys.bin", tables())
    assert list(outside.iterdir()) == []


def test_an_index_of_holes_is_not_read_into_memory(path):
    hollow = path.with_name("hollow.bin")
    with hollow.open("wb") as file:
        file.write(path.read_bytes())
        file.truncate(1 << 40)
    with pytest.raises(UnusableIndex, match="were ever written"):
        read_index(hollow)
