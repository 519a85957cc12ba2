"""Segments on disk: what is published is plain Zarr, whole, and checked on every read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import Recipe, Store, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.errors import BadInput, DamagedSegment, MissingEmbedding, NewerFormat
from embedstore.store import reader as reader_module
from embedstore.store import shards
from embedstore.store.published import DOCUMENT_BYTES
from embedstore.store.segment import TOKENS_SHARD, SegmentWriter, segment_name
from embedstore.store.zarr_files import inner_rows

ARRAYS = {"tokens", "start", "length", "keys", "crc32c", "mean", "cls"}


def recipe_of(width: int, dtype: str = "float16") -> Recipe:
    return Recipe(backbone="esm2-8m", view="protein", width=width, weights=None, store_dtype=dtype)


def random_batch(lengths: list[int], width: int, seed: int = 0) -> Embedded:
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((sum(lengths), width)).astype(np.float16)
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    return Embedded(
        tokens=tokens,
        lengths=np.array(lengths, np.int64),
        mean=np.stack([part.mean(axis=0, dtype=np.float32) for part in parts]),
        cls=rng.standard_normal((len(lengths), width)).astype(np.float32),
        finite=np.ones(len(lengths), np.bool_),
    )


def make_segment(
    folder: Path, lengths: list[int], width: int = 8
) -> tuple[Store, list[str], Embedded]:
    store = create_store(folder)
    recipe = recipe_of(width)
    store.write_recipe(recipe)
    keys = [key_of(f"{number}") for number in range(len(lengths))]
    batch = random_batch(lengths, width)
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append(keys, batch)
        writer.publish({})
    return store, keys, batch


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=12),
    width=st.sampled_from([1, 3, 64, 320, 5120]),
)
def test_plain_zarr_reads_every_array_equal_to_ours(tmp_path_factory, lengths, width):
    store, keys, batch = make_segment(tmp_path_factory.mktemp("s") / "s", lengths, width)
    reader = store.recipe("esm2-8m")
    (segment,) = reader.segments
    group = zarr.open_group(str(segment.folder), mode="r")
    assert set(dict(group.arrays())) == ARRAYS
    np.testing.assert_array_equal(group["tokens"][:], batch.tokens)
    np.testing.assert_array_equal(reader.batch(keys).tokens, batch.tokens)
    for name in ARRAYS - {"tokens"}:
        np.testing.assert_array_equal(group[name][:], getattr(segment, name))
    np.testing.assert_array_equal(reader.means(keys), batch.mean)
    np.testing.assert_array_equal(reader.lengths(keys), lengths)


def test_zarr_writes_the_very_same_shard(tmp_path):
    """zarr-python, given our array document, writes the bytes that we wrote."""
    store, _, batch = make_segment(tmp_path / "s", [700, 30, 1], 320)
    (segment,) = store.recipe("esm2-8m").segments
    ours = segment.folder / "tokens"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "zarr.json").write_bytes((ours / "zarr.json").read_bytes())
    theirs = zarr.open_array(
        str(tmp_path / "theirs"), mode="r+", config={"write_empty_chunks": True}
    )
    theirs[:] = batch.tokens
    written = (tmp_path / "theirs" / "c" / "0" / "0").read_bytes()
    assert written == (segment.folder / TOKENS_SHARD).read_bytes()


def test_a_missing_shard_reads_as_nan_in_plain_zarr_and_as_damage_in_ours(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [5, 7])
    (segment,) = store.recipe("esm2-8m").segments
    (segment.folder / TOKENS_SHARD).unlink()
    assert np.isnan(zarr.open_group(str(segment.folder), mode="r")["tokens"][:]).all()
    with pytest.raises(DamagedSegment, match=segment.name):
        store.recipe("esm2-8m").batch(keys)


@settings(max_examples=25, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_an_error_and_never_other_numbers(tmp_path_factory, where, bit):
    store, keys, batch = make_segment(tmp_path_factory.mktemp("s") / "s", [40, 3, 90], 16)
    (segment,) = store.recipe("esm2-8m").segments
    files = sorted(segment.document.files)
    sizes = np.cumsum([segment.document.files[name].bytes for name in files])
    at = int(where * sizes[-1])
    number = int(np.searchsorted(sizes, at, side="right"))
    path = segment.folder / files[number]
    content = bytearray(path.read_bytes())
    content[at - sizes[number]] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = store.recipe("esm2-8m")
        tokens, means = found.batch(keys).tokens, found.means(keys)
    except DamagedSegment as error:
        assert segment.name in str(error)
        return
    # what we never read (cls, the documents of plain Zarr, the shard's index) may be hit
    np.testing.assert_array_equal(tokens, batch.tokens)
    np.testing.assert_array_equal(means, batch.mean)


def test_a_truncated_shard_is_damage(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [500], 320)
    (segment,) = store.recipe("esm2-8m").segments
    os.truncate(segment.folder / TOKENS_SHARD, 1000)
    with pytest.raises(DamagedSegment, match="ends too early"):
        store.recipe("esm2-8m").batch(keys)


def test_without_the_publishing_file_a_segment_is_not_there(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [5, 7])
    (segment,) = store.recipe("esm2-8m").segments
    (segment.folder / "segment.json").unlink()
    with pytest.raises(MissingEmbedding):
        store.recipe("esm2-8m").batch(keys)


def test_a_published_segment_is_kept_against_a_second_one_of_its_name(tmp_path):
    store, keys, batch = make_segment(tmp_path / "s", [5, 7])
    recipe = store.find_recipe("esm2-8m")
    other = random_batch([5, 7], 8, seed=1)
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append(keys, other)
        assert writer.publish({}) == segment_name(keys)
    np.testing.assert_array_equal(store.recipe("esm2-8m").batch(keys).tokens, batch.tokens)
    assert not list((store.recipe_folder(recipe.name) / "drafts").iterdir())


def test_an_unpublished_copy_under_the_name_gives_way(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [5, 7])
    (segment,) = store.recipe("esm2-8m").segments
    (segment.folder / "segment.json").unlink()
    recipe = store.find_recipe("esm2-8m")
    other = random_batch([5, 7], 8, seed=1)
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append(keys, other)
        writer.publish({})
    np.testing.assert_array_equal(store.recipe("esm2-8m").batch(keys).tokens, other.tokens)


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    store = create_store(tmp_path / "s")
    recipe = recipe_of(8)
    store.write_recipe(recipe)
    folder = store.recipe_folder(recipe.name)
    with pytest.raises(RuntimeError), SegmentWriter(folder, recipe) as writer:
        writer.append([key_of("a")], random_batch([3], 8))
        raise RuntimeError("stop")
    assert not store.segment_folders(recipe.name)
    assert not list((folder / "drafts").iterdir())


def test_sequences_that_are_not_finite_are_left_out_of_a_segment(tmp_path):
    store = create_store(tmp_path / "s")
    recipe = recipe_of(8)
    store.write_recipe(recipe)
    batch = random_batch([3, 4, 5], 8)
    batch.finite[1] = False
    keys = [key_of(name) for name in "abc"]
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append(keys, batch)
        writer.publish({})
    reader = store.recipe("esm2-8m")
    assert reader.has(keys).tolist() == [True, False, True]
    parts = np.split(batch.tokens, [3, 7])
    np.testing.assert_array_equal(reader.get(keys[2]), parts[2])


def test_a_segment_of_a_newer_format_is_refused_by_name(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [5])
    (segment,) = store.recipe("esm2-8m").segments
    document = json.loads((segment.folder / "segment.json").read_text())
    (segment.folder / "segment.json").write_text(json.dumps({**document, "format": 4}))
    reader = store.recipe("esm2-8m")
    (error,) = reader.left_out
    for each in (lambda: reader.batch(keys), reader.check_whole):
        with pytest.raises(NewerFormat, match=segment.name):
            each()
    assert isinstance(error, NewerFormat) and not reader.has(keys).any()


@given(width=st.integers(1, 20_000), itemsize=st.sampled_from([2, 4]))
def test_an_inner_chunk_is_the_largest_power_of_two_of_rows_within_256_kib(width, itemsize):
    rows = inner_rows(width, itemsize)
    assert rows & (rows - 1) == 0
    assert rows == 1 or rows * width * itemsize <= 256 * 1024
    assert 2 * rows * width * itemsize > 256 * 1024


def test_readers_share_threads_and_see_what_was_published_when_they_opened(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    _, keys, batch = make_segment(tmp_path / "s", [11] * 200, 64)
    reader = open_store(tmp_path / "s").recipe("esm2-8m")
    parts = np.split(batch.tokens, 200)
    with ThreadPoolExecutor(8) as pool:
        for part, got in zip(parts, pool.map(reader.get, keys), strict=True):
            np.testing.assert_array_equal(part, got)


def test_a_reader_opens_without_reading_embeddings_and_reads_each_segment_when_asked(tmp_path):
    store, keys, batch = make_segment(tmp_path / "s", [5, 7])
    (folder,) = store.segment_folders(store.recipes()[0])
    shard = folder / TOKENS_SHARD
    content = shard.read_bytes()
    shard.unlink()
    reader = store.recipe("esm2-8m")
    assert reader.lengths(keys).tolist() == [5, 7]
    assert reader.describe()["tokens"] == 12
    assert [segment.held_bytes for segment in reader.segments] == [0]
    shard.write_bytes(content)
    np.testing.assert_array_equal(reader.batch(keys).tokens, batch.tokens)
    assert reader.segments[0].held_bytes > 0


def make_segments(folder: Path, lengths: list[list[int]]) -> tuple[Store, dict[str, np.ndarray]]:
    """Several segments, and the embedding of every key."""
    store, recipe = create_store(folder), recipe_of(8)
    store.write_recipe(recipe)
    held = {}
    for number, each in enumerate(lengths):
        batch = random_batch(each, 8, seed=number)
        keys = [key_of(f"{number} {row}") for row in range(len(each))]
        with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
            writer.append(keys, batch)
            writer.publish({})
        held |= dict(zip(keys, np.split(batch.tokens, np.cumsum(each)[:-1]), strict=True))
    return store, held


@pytest.mark.parametrize("cached", [True, False, None], ids=["cached", "cold", "no-nowait"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_order_repeats_and_places_give_the_same_rows(tmp_path_factory, cached, data):
    lengths = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=4)
    store, held = make_segments(tmp_path_factory.mktemp("s") / "s", data.draw(lengths))
    asked = data.draw(st.lists(st.sampled_from(sorted(held)), max_size=20))
    reader = store.recipe("esm2-8m")

    def preadv(handle, buffers, offset, flags=0):
        if flags and cached is None:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        if flags and not cached:
            raise BlockingIOError
        part = memoryview(buffers[0])
        return read(handle, [part[: 1 + len(part) // 2]], offset)  # less than was asked

    read = os.preadv
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        patch.setattr(shards, "AHEAD_BYTES", 500)
        patch.setattr(shards, "READ_BYTES", 300)
        parts = reader.batch(asked).split()
        for key, part in zip(asked, parts, strict=True):
            np.testing.assert_array_equal(part, held[key])
        order = data.draw(st.permutations(range(len(asked))))
        gap = data.draw(st.integers(0, 3))
        at, end = np.zeros(len(asked), np.int64), gap
        for item in order:
            at[item], end = end, end + len(held[asked[item]]) + gap
        out = np.full((end, 8), 7, np.float16)
        reader.read_into(asked, out, at)
    for key, start in zip(asked, at, strict=True):
        np.testing.assert_array_equal(out[start : start + len(held[key])], held[key])
        out[start : start + len(held[key])] = 7
    assert (out == 7).all()  # nothing was written between them


def test_small_arrays_are_let_go_beyond_a_bound_and_read_again(tmp_path, monkeypatch):
    store, held = make_segments(tmp_path / "s", [[3, 4]] * 6)
    monkeypatch.setattr(reader_module, "HELD_BYTES", 2 * DOCUMENT_BYTES)
    reader = store.recipe("esm2-8m")
    for _ in range(2):
        for key, rows in held.items():
            np.testing.assert_array_equal(reader.get(key), rows)
        assert sum(segment.held_bytes > 0 for segment in reader.segments) <= 3


@pytest.mark.parametrize(
    "out, at",
    [
        (np.empty((4, 8), np.float32), [0]),
        (np.empty((4, 9), np.float16), [0]),
        (np.empty((8, 8), np.float16)[::2], [0]),
        (np.empty((4, 8), np.float16), [1]),
        (np.empty((4, 8), np.float16), [-1]),
    ],
    ids=["dtype", "width", "strided", "too-short", "negative"],
)
def test_an_array_that_does_not_fit_is_refused(tmp_path, out, at):
    store, keys, _ = make_segment(tmp_path / "s", [4])
    with pytest.raises(ValueError, match=r"got|outside"):
        store.recipe("esm2-8m").read_into(keys, out, np.array(at))


def test_an_index_of_other_lengths_is_never_believed(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [4, 5])
    reader = store.recipe("esm2-8m")
    lengths = reader._index.tables[0].entries.length
    lengths[0] += 1
    with pytest.raises(DamagedSegment, match="does not agree"):
        reader.batch(keys)


def test_something_that_is_no_key_is_bad_input(tmp_path):
    store, keys, _ = make_segment(tmp_path / "s", [4])
    for ask in (store.recipe("esm2-8m").has, store.recipe("esm2-8m").batch):
        with pytest.raises(BadInput, match="'P69905' is not a key"):
            ask([*keys, "P69905"])


def test_no_keys_give_empty_answers(tmp_path):
    reader = make_segment(tmp_path / "s", [4])[0].recipe("esm2-8m")
    assert reader.has([]).shape == (0,)
    assert reader.means([]).shape == (0, 8)
    assert reader.batch([]).tokens.shape == (0, 8)
