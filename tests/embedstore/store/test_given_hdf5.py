"""HDF5 files of others that are damaged or hostile: one line names file and data set.

No other file is opened, and no memory is taken for values that the file does not have.
"""

from __future__ import annotations

import errno
import os
import signal
import zlib

import h5py
import numpy as np
import pytest

from embedstore import create_store
from embedstore.errors import BadInput, MissingRecord, StoreError, Unreachable
from embedstore.store.interchange import ImportConfig, apart, given_hdf5, import_file
from embedstore.store.interchange.matching import Source, Wanted

from .test_interchange import collection_of

SEQUENCES = {"a": "MKVLA", "b": "MK"}
COLLECTION = collection_of(SEQUENCES)
CONFIG = ImportConfig(backbone="x")
ROWS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def wanted():
    return Wanted(COLLECTION, "protein")


def refused(path, *words):
    """The error of a file: one line that names it; nothing is written."""
    target = path.parent / "made.store"
    with pytest.raises(BadInput) as caught:
        import_file(create_store(target), path, COLLECTION, CONFIG)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and len(text) < 900
    for word in words:
        assert word in text, text
    assert not target.exists()
    return text


def written(path, make):
    with h5py.File(path, "w") as file:
        make(file)
    return path


def never_written(**settings):
    def make(file):
        file.create_dataset("a", (5, 2**40), "f4", **settings)

    return make


def partly_written(file):
    data = file.create_dataset("a", (5, 400), "f4", chunks=(1, 400))
    data[:2] = 1


def external(file):
    size = [("/etc/passwd", 0, 80)]
    file.create_dataset("a", (5, 4), "f4", external=size)


def virtual(file):
    layout = h5py.VirtualLayout((5, 4), "f4")
    layout[:] = h5py.VirtualSource(file.filename + ".other", "a", (5, 4))
    file.create_virtual_dataset("a", layout)


def compound(file):
    file["a"] = np.zeros((5, 4), [("x", "f4"), ("y", "f4")])


def variable(file):
    file.create_dataset("a", (5, 4), h5py.vlen_dtype(np.float32))


def texts(file):
    file.create_dataset("a", (5, 4), h5py.string_dtype())


def references(file):
    file.create_dataset("a", (5, 4), h5py.ref_dtype)


def far_chunk(file):
    file.create_dataset("a", data=ROWS, chunks=(2**14, 2**13), maxshape=(None, None))


def packed_twice(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((5, 4))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((5, 4))
    made = h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_FLOAT, space, properties)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, ROWS)


def other_filter(file):
    file.create_dataset("a", data=ROWS, chunks=(5, 4), scaleoffset=2)


def many_groups(file):
    group = file
    for _ in range(100):
        group = group.create_group("g")
    group["a"] = ROWS


def to_another_file(file):
    file["a"] = h5py.ExternalLink("/etc/passwd", "/x")


def attribute(file):
    data = file.create_dataset("a", data=ROWS)
    data.attrs["original_id"] = np.zeros(1000)


HOSTILE = {
    "never written": (never_written(), "'a'", "1099511627776"),
    "no chunk": (never_written(chunks=(5, 2**20)), "'a'", "1099511627776"),
    "no gzip": (never_written(chunks=(5, 2**20), compression=9), "'a'", "1099511627776"),
    "some chunks": (partly_written, "'a'", "8000 bytes, and the file has 3200"),
    "external": (external, "'a'", "in another file"),
    "virtual": (virtual, "'a'", "is virtual"),
    "link out": (to_another_file, "'a'", "link to another file"),
    "compound": (compound, "'a'", "not floats"),
    "variable": (variable, "'a'", "not floats"),
    "texts": (texts, "'a'", "not floats"),
    "references": (references, "'a'", "not floats"),
    "nothing": (lambda file: file.create_dataset("a", dtype="f4", shape=None), "'a'", "is empty"),
    "far chunk": (far_chunk, "'a'", "has chunks of 536870912 bytes"),
    "packed twice": (packed_twice, "'a'", "several times over"),
    "other filter": (other_filter, "'a'", "filter 6, which is not read"),
    "deep": (many_groups, "groups more than 64 deep"),
    "attribute": (attribute, "'original_id'", "'a'", "is no text"),
    "wide": (lambda file: file.create_dataset("a", (5, 70_000), "f2"), "'a'", "70000 wide"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_leads_out_of_the_file_or_is_not_in_it_is_refused(tmp_path, name):
    make, *words = HOSTILE[name]
    refused(written(tmp_path / "in.h5", make), *words)


def test_a_chunk_that_unpacks_to_more_than_it_declares_is_refused(tmp_path, monkeypatch):
    # the chunk of 80 bytes holds 32 MB; HDF5 would unpack all of it
    def make(file):
        data = file.create_dataset("a", (5, 4096), "f4", chunks=(5, 4096), compression=9)
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(32 << 20), 9))

    monkeypatch.setattr(given_hdf5, "MOST_CHUNK", 1 << 20)
    refused(written(tmp_path / "in.h5", make), "'a'", "unpacks to more than it is")

    def larger(file):
        data = file.create_dataset("a", (5, 4), "f4", chunks=(5, 4), compression=9)
        data.id.write_direct_chunk((0, 0), os.urandom(5000))

    refused(written(tmp_path / "in.h5", larger), "'a'", "a chunk of 5000 bytes in place of 80")


def test_a_large_data_set_of_nearly_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(given_hdf5, "FREE", 1 << 16)

    def make(file):
        file.create_dataset("a", (5, 2**13), "f8", chunks=(5, 2**13), compression=9, fillvalue=1)
        file["a"][:] = 0

    refused(written(tmp_path / "in.h5", make), "'a'", "327680 bytes, and the file has")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"chunks": (2, 3)},
        {"chunks": (2, 3), "compression": 9, "shuffle": True, "fletcher32": True},
        {"chunks": (5, 4), "compression": "lzf"},
        {"chunks": (8, 8), "maxshape": (None, None), "compression": 1},
    ],
    ids=range(5),
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize("library", ["earliest", "latest"])
def test_what_h5py_writes_is_read(tmp_path, settings, dtype, library):
    with h5py.File(tmp_path / "in.h5", "w", libver=library) as file:
        file.create_dataset("a", data=ROWS.astype(dtype), **settings)
    with Source(tmp_path / "in.h5", wanted(), "float32") as source:
        source.check()
        (key,) = source.names
        np.testing.assert_array_equal(source.read(key), ROWS.astype(dtype).astype(np.float32))


def test_groups_in_a_circle_are_read_once_and_names_of_one_data_set_each(tmp_path):
    def make(file):
        group = file.create_group("g")
        group["up"], group["self"] = file["/"], group
        for one in range(30):  # 2**30 ways down
            group = group.create_group(f"{one}")
            group.parent[f"again-{one}"] = group
        file["b"] = ROWS[:2]
        file["a"] = ROWS
        file["twin"] = file["a"]
        file["soft"] = h5py.SoftLink("/g")

    path = written(tmp_path / "in.h5", make)
    with h5py.File(path) as file:
        names = [name for name, _ in given_hdf5.data_sets(file, path)]
    assert names == ["a", "b", "twin"]


def test_more_objects_than_a_file_can_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(given_hdf5, "MOST_OBJECTS", 3)
    path = written(tmp_path / "in.h5", lambda file: [file.create_group(f"{n}") for n in range(4)])
    refused(path, "more than 3 objects")


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_only_a_regular_file_is_opened(tmp_path, what):
    path = tmp_path / "in.h5"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}[what](
        path
    )
    refused(path, "cannot be read as HDF5")


def test_flipped_and_cut_files_are_refused_by_name_or_read(tmp_path):
    # a sample; by hand every seventh byte of one layout was tried, and most of two others
    def make(file):
        for name, rows in (("a", ROWS), ("b", ROWS[:2])):
            data = file.create_dataset(name, data=rows, chunks=(2, 4), compression=4)
            data.attrs["original_id"] = name

    content = written(tmp_path / "whole.h5", make).read_bytes()
    path = tmp_path / "in.h5"
    rng = np.random.default_rng(1)
    bad = 0
    for at in rng.integers(len(content), size=50):
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        if at % 5 == 0:
            changed = changed[:at]
        path.write_bytes(changed)
        try:
            with Source(path, wanted(), "float16") as source:
                source.check()
                for key in source.names:
                    assert source.read(key).shape[1] == source.width
        except StoreError as error:
            bad += 1
            assert isinstance(error, BadInput)
            assert str(path) in str(error) and "\n" not in str(error)
    assert bad > 6


def for_ever(before):
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda before: os.kill(os.getpid(), signal.SIGSEGV), "breaks off in it"),
        (lambda before: os._exit(3), "breaks off in it"),
        (for_ever, "goes on for ever in it"),
    ],
)
def test_a_library_that_dies_or_never_ends_is_one_error(tmp_path, monkeypatch, work, words):
    monkeypatch.setattr(apart, "SECONDS", 1)
    with pytest.raises(BadInput, match=words) as caught:
        apart.apart(tmp_path / "in.h5", work)
    assert str(tmp_path / "in.h5") in str(caught.value)


def test_errors_of_ours_and_results_come_back_from_the_other_process(tmp_path):
    assert apart.apart(tmp_path, lambda before: before(10) or {"a": 1}) == {"a": 1}

    def work(before):
        raise MissingRecord("problem", "fix")

    with pytest.raises(MissingRecord, match="problem fix"):
        apart.apart(tmp_path, work)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        apart.apart(tmp_path, lambda before: 1 // 0)


def test_a_global_heap_that_leads_in_a_circle_ends(tmp_path, monkeypatch):
    # texts of any length lie in such a heap; libhdf5 2.0 walks an object of a wrong size for ever
    monkeypatch.setattr(apart, "SECONDS", 1)

    def make(file):
        file.create_dataset("a", data=ROWS).attrs["original_id"] = "a"

    path = written(tmp_path / "in.h5", make)
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16  # index, count, reserved, size of the first object
    for size in (0, 1 << 40):
        content[at + 8 : at + 16] = size.to_bytes(8, "little")
        path.write_bytes(content)
        try:
            with Source(path, wanted(), "float16") as source:
                source.check()
        except BadInput as error:
            assert str(path) in str(error)


def test_a_system_without_room_says_nothing_of_the_file(tmp_path, monkeypatch):
    def no_process():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def no_memory(before):
        with given_hdf5.reading(path, "data set 'a'"):
            raise MemoryError

    path = tmp_path / "in.h5"
    with pytest.raises(Unreachable, match=r"in\.h5: data set 'a' .* too little memory"):
        apart.apart(path, no_memory)
    monkeypatch.setattr(os, "fork", no_process)
    with pytest.raises(Unreachable, match=r"in\.h5 .* gives no process"):
        apart.apart(path, lambda before: 1)
