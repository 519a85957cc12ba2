"""The key index: every key that went in is found, no other one is, whatever is on disk."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.store import index_upkeep
from embedstore.store.index import KeyIndex, KeyTable, SegmentKeys, pack_keys
from embedstore.store.index_file import UnusableIndex, read_index, write_index

# few different bytes, so that keys share their first eight bytes often
key_bytes = st.builds(
    lambda high, low: bytes([high] * 8 + [low] * 8), st.integers(0, 3), st.integers(0, 5)
)
segment_lists = st.lists(st.lists(key_bytes, max_size=8, unique=True), max_size=6)


def as_array(keys: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


def keys_of(name: str, keys: list[bytes]) -> SegmentKeys:
    lengths = np.arange(len(keys)) + 100 * int(name)
    return SegmentKeys(name, as_array(keys), lengths, tokens=int(lengths.sum()), bytes=int(name))


def table_of(segments: dict[str, list[bytes]], names: list[str]) -> KeyTable:
    return KeyTable.of([keys_of(name, segments[name]) for name in names])


def assert_agrees(index: KeyIndex, segments: dict[str, list[bytes]], asked: list[bytes]) -> None:
    """Compare with a dictionary made from the segments, the first that holds a key winning."""
    truth: dict[bytes, tuple[int, int, int]] = {}
    for number, (name, keys) in enumerate(sorted(segments.items())):
        for row, key in enumerate(keys):
            truth.setdefault(key, (number, row, 100 * int(name) + row))
    assert len(index) == len(truth)
    found = zip(*index.find(as_array(asked)), strict=True)
    assert list(found) == [truth.get(key, (-1, -1, -1)) for key in asked]
    assert [bytes(key) for key in index.sorted_keys()] == sorted(truth)
    assert index.bytes == sum(map(int, segments))
    assert index.tokens == sum(
        100 * int(name) * len(keys) + sum(range(len(keys))) for name, keys in segments.items()
    )


@given(segments=segment_lists, asked=st.lists(key_bytes), data=st.data())
def test_lookups_agree_with_a_dictionary_over_any_tables_merges_and_losses(segments, asked, data):
    held = {str(number): keys for number, keys in enumerate(segments)}
    first = sorted(data.draw(st.sets(st.sampled_from(sorted(held)))) if held else [])
    second = sorted(set(held) - set(first))
    gone = data.draw(st.sets(st.sampled_from(sorted(held)))) if held else set()
    live = {name: keys for name, keys in held.items() if name not in gone}
    tables = [table_of(held, first), table_of(held, second)]
    names = sorted(live)
    assert_agrees(KeyIndex(names, tables), live, asked)
    merged = tables[0].merged(tables[1], names)
    assert merged.names == names
    assert_agrees(KeyIndex(names, [merged]), live, asked)


@given(segments=segment_lists.filter(any), asked=st.lists(key_bytes))
def test_a_table_comes_back_from_its_file(tmp_path_factory, segments, asked):
    held = {str(number): keys for number, keys in enumerate(segments)}
    path = tmp_path_factory.mktemp("index") / "keys.bin"
    write_index(path, table_of(held, sorted(held)))
    assert_agrees(KeyIndex(sorted(held), [read_index(path)]), held, asked)
    assert [each.name for each in path.parent.iterdir()] == ["keys.bin"]


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_index_file_is_refused(tmp_path_factory, where, bit, cut):
    path = tmp_path_factory.mktemp("index") / "keys.bin"
    write_index(path, table_of({"1": [bytes([n] * 16) for n in range(16)]}, ["1"]))
    content = bytearray(path.read_bytes())
    at = int(where * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content[:at] if cut else content)
    with pytest.raises(UnusableIndex):
        read_index(path)


@pytest.mark.parametrize("key", ["ab", "A" * 32, "g" * 32, "a" * 31 + " ", "é" * 32])
def test_a_key_that_is_not_32_hex_digits_is_refused(key):
    with pytest.raises(ValueError, match="32 hex digits"):
        pack_keys(["0" * 32, key])


class Segments:
    """A recipe folder with segments that hold keys alone, and a count of those read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, list[bytes]] = {}
        self.read: list[str] = []

    def add(self, number: int, count: int = 10) -> str:
        keys = [hashlib.md5(f"{number} {row}".encode()).digest() for row in range(count)]
        name = hashlib.blake2b(b"".join(keys), digest_size=16).hexdigest()
        self.held[name] = keys
        return name

    def keys_of(self, name: str) -> SegmentKeys:
        self.read.append(name)
        keys = as_array(self.held[name])
        return SegmentKeys(name, keys, np.ones(len(keys), np.int64), len(keys), 1)

    def open(self) -> KeyIndex:
        """Open, and check that each key is found in the segment that holds it."""
        self.read = []
        index, left_out = index_upkeep.open_index(self.folder, sorted(self.held), lambda name: name)
        assert not left_out
        for name, keys in self.held.items():
            segment, row, _ = index.find(as_array(keys))
            assert [index.names[number] for number in segment] == [name] * len(keys)
            assert row.tolist() == list(range(len(keys)))
        assert len(index) == sum(map(len, self.held.values()))
        return index


@pytest.fixture
def segments(tmp_path, monkeypatch) -> Segments:
    made = Segments(tmp_path)
    monkeypatch.setattr(index_upkeep, "read_keys", made.keys_of)
    monkeypatch.setattr(index_upkeep, "FEW_KEYS", 50)
    return made


def test_few_keys_are_indexed_in_memory_and_nothing_is_written(segments):
    segments.add(0)
    segments.open()
    assert not list(segments.folder.iterdir())


def test_a_written_index_is_opened_without_reading_a_segment(segments):
    for number in range(10):
        segments.add(number)
    segments.open()
    assert len(segments.read) == 10
    segments.open()
    assert segments.read == []


def test_an_index_that_grows_reads_only_new_segments_and_is_written_when_enough_changed(segments):
    path = index_upkeep.index_path(segments.folder)
    for number in range(10):
        segments.add(number)
    segments.open()
    written = path.read_bytes()
    few = [segments.add(number) for number in range(10, 14)]
    segments.open()
    assert segments.read == sorted(few)
    assert path.read_bytes() == written  # 40 keys are kept in memory
    more = segments.add(14, count=11)
    segments.open()
    assert segments.read == sorted([*few, more])
    segments.open()
    assert segments.read == []


def test_keys_of_segments_that_are_gone_vanish_before_and_after_the_index_is_written(segments):
    names = [segments.add(number) for number in range(10)]
    segments.open()
    for count in (2, 7):  # kept in memory; written
        gone = [key for name in names[:count] for key in segments.held.pop(name, [])]
        names = names[count:]
        index = segments.open()
        assert (index.find(as_array(gone))[0] == -1).all()
        assert segments.read == []
    assert read_index(index_upkeep.index_path(segments.folder)).names == names


def test_a_damaged_index_is_made_anew_and_logged(segments, caplog):
    for number in range(10):
        segments.add(number)
    segments.open()
    path = index_upkeep.index_path(segments.folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if whole[-1] else whole[:-100])
    segments.open()
    assert len(segments.read) == 10
    assert "made anew" in caplog.text
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_indexed_in_memory(segments):
    (segments.folder / "index").write_text("a file where a folder is wanted")
    for number in range(10):
        segments.add(number)
    segments.open()
    assert len(segments.read) == 10


def test_indexes_made_at_the_same_time_do_no_harm(segments):
    for number in range(40):
        segments.add(number)
    failed = []

    def work() -> None:
        try:
            segments.open()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    segments.open()
    assert segments.read == []
    assert [each.name for each in (segments.folder / "index").iterdir()] == ["keys.bin"]
