"""Features that are read again for every pass: each row once, bounded memory, the same numbers."""

import threading
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import BadInput, DamagedSegment
from embedstore.loaders import StreamedFeatures, load_features, open_joined

ROW_BYTES = 3 * 2  # of rna-fm in conftest.py
ONE = 50 * ROW_BYTES  # its longest embedding


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def reader(mixed):
    return mixed.recipe("rna-fm")


@pytest.fixture(scope="module")
def keys(mixed):
    """Fifty rows, some of which share an embedding."""
    own = [key for key in mixed.collection("genes").keys("mrna") if key is not None]
    return [own[at] for at in np.random.default_rng(0).integers(0, len(own), 50)]


def epoch(features, rows, size, order):
    return [
        (places.tolist(), tokens.numpy().copy(), lengths.tolist())
        for places, tokens, lengths in features.batches(rows, size, order)
    ]


def same(one, other):
    return len(one) == len(other) and all(
        first[0] == second[0] and np.array_equal(first[1], second[1]) and first[2] == second[2]
        for first, second in zip(one, other, strict=True)
    )


@settings(max_examples=25, deadline=None)
@given(window=st.integers(ONE, 20 * ONE), size=st.integers(1, 20), count=st.integers(1, 50))
def test_an_epoch_gives_every_row_once_with_its_own_tokens(reader, keys, window, size, count):
    features = StreamedFeatures(reader, keys, window_bytes=window)
    resident = load_features(reader, keys)
    rows = np.arange(50)[::-1][:count]
    batches = epoch(features, rows, size, generator())
    places = [place for batch, *_ in batches for place in batch]
    assert sorted(places) == list(range(count))
    assert [len(batch) for batch, *_ in batches[:-1]] == [size] * (len(batches) - 1)
    for batch, tokens, lengths in batches:
        expected, counts = resident.take(resident.rows[rows[batch]])
        assert np.array_equal(tokens, expected.numpy())
        assert lengths == counts.tolist()


def test_the_same_seed_gives_the_same_order_and_the_next_epoch_another(reader, keys):
    rows = np.arange(50)
    runs = []
    for seed in (3, 3, 4):
        features = StreamedFeatures(reader, keys, window_bytes=4 * ONE)
        order = generator(seed)
        runs.append([epoch(features, rows, 8, order) for _ in range(2)])
    first, again, other = runs
    assert same(first[0], again[0]) and same(first[1], again[1])
    assert not same(first[0], first[1])
    assert not same(first[0], other[0])


def test_one_window_that_holds_everything_gives_the_batches_of_features_in_memory(reader, keys):
    rows = np.arange(10, 50)
    streamed = StreamedFeatures(reader, keys, window_bytes=1 << 20)
    resident = load_features(reader, keys)
    one, other = generator(1), generator(1)
    for _ in range(3):
        assert same(epoch(streamed, rows, 16, one), epoch(resident, rows, 16, other))


@settings(max_examples=25, deadline=None)
@given(window=st.integers(ONE, 20 * ONE), most=st.integers(1, 400))
def test_passes_are_those_of_features_in_memory_whatever_the_window(reader, keys, window, most):
    streamed = StreamedFeatures(reader, keys, window_bytes=window)
    resident = load_features(reader, keys)
    inputs = np.random.default_rng(1).permutation(len(streamed.lengths))[:20]
    for one, other in zip(
        streamed.passes(inputs, most), resident.passes(inputs, most), strict=True
    ):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])


@pytest.mark.parametrize("window", [2 * ONE, 1 << 20])
def test_only_the_first_tokens_of_rows_are_given_where_no_more_are_wanted(reader, keys, window):
    resident, rows = load_features(reader, keys), np.arange(50)
    keep = np.random.default_rng(2).integers(1, 60, 50)
    for features in (resident, StreamedFeatures(reader, keys, window_bytes=window)):
        for places, tokens, lengths in features.batches(rows, 8, generator(), keep):
            whole = [resident.take(resident.rows[[place]])[0] for place in places]
            cut = [each[: keep[place]] for each, place in zip(whole, places, strict=True)]
            assert torch.equal(tokens, torch.cat(cut))
            assert lengths.tolist() == [len(each) for each in cut]
        inputs = np.arange(len(features.lengths))
        first = keep[: len(inputs)]
        for part, tokens, lengths in features.passes(inputs, 70, first):
            cut = [resident.take(inputs[[at]])[0][: first[at]] for at in inputs[part]]
            assert torch.equal(tokens, torch.cat(cut))
            assert lengths.sum() <= 70 or len(lengths) == 1


def test_each_embedding_is_read_once_an_epoch(mixed, keys):
    reader = mixed.recipe("rna-fm")
    read, read_into = [], reader.read_into
    reader.read_into = lambda asked, *rest: read.append(list(asked)) or read_into(asked, *rest)
    features = StreamedFeatures(reader, keys, window_bytes=4 * ONE)
    epoch(features, np.arange(50), 8, generator())
    assert len(read) > 3  # as many windows
    assert sorted(key for window in read for key in window) == sorted(set(keys))


def test_a_window_holds_stretches_from_several_places(mixed, keys):
    """Neighbours on disk are of like length, so one stretch alone would bias every batch."""
    reader = mixed.recipe("rna-fm")
    segments, read_into = [], reader.read_into
    reader.read_into = lambda asked, *rest: (
        segments.append(reader.locate(asked)[0].tolist()) or read_into(asked, *rest)
    )
    features = StreamedFeatures(reader, keys, window_bytes=8 * ONE)
    epoch(features, np.arange(50), 8, generator())
    assert all(len(set(window)) > 1 for window in segments[:-1])
    assert all(window == sorted(window) for window in segments)  # read in the order of the disk


def test_two_windows_and_a_batch_are_all_that_is_held(mixed):
    reader = mixed.recipe("rna-fm")
    keys = [key for key in mixed.collection("genes").keys("mrna") if key is not None]
    window, size = 4 * ONE, 4

    def peak(run):
        for _ in run():  # what is looked up once and kept
            pass
        tracemalloc.start()
        held = 0
        for _ in run():
            arrays = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
            )
            held = max(held, sum(trace.size for trace in arrays.traces if trace.size >= ONE // 2))
        tracemalloc.stop()
        return held

    streamed = StreamedFeatures(reader, keys, window_bytes=window)
    assert streamed.lengths.sum() * ROW_BYTES > 5 * window
    bound = 2 * window + 2 * size * ONE  # rows left over, and the batch before its conversion
    assert 2 * window * 0.8 < peak(lambda: streamed.batches(np.arange(30), size, generator()))
    assert peak(lambda: streamed.batches(np.arange(30), size, generator())) <= bound
    assert peak(lambda: streamed.passes(np.arange(len(set(keys))), 100)) <= bound


def test_a_window_must_hold_the_longest_embedding(reader, keys):
    StreamedFeatures(reader, keys, window_bytes=ONE)
    with pytest.raises(BadInput, match="cannot hold the longest embedding"):
        StreamedFeatures(reader, keys, window_bytes=ONE - 1)


def test_an_epoch_that_is_given_up_leaves_no_thread(reader, keys):
    features = StreamedFeatures(reader, keys, window_bytes=2 * ONE)
    batches = features.batches(np.arange(50), 4, generator())
    next(batches)
    assert any(thread.name.startswith("features") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("features") for thread in threading.enumerate())
    assert len(epoch(features, np.arange(50), 50, generator())) == 1


def test_an_error_of_the_reading_thread_reaches_the_loop(mixed, keys):
    reader = mixed.recipe("rna-fm")
    calls, read_into = [], reader.read_into

    def damaged(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise DamagedSegment("Segment x is damaged.", "Repair it.")
        read_into(*arguments)

    reader.read_into = damaged
    features = StreamedFeatures(reader, keys, window_bytes=2 * ONE)
    with pytest.raises(DamagedSegment, match="Segment x"):
        epoch(features, np.arange(50), 4, generator())


def test_pooled_features_are_the_stored_means(reader, keys):
    streamed = StreamedFeatures(reader, keys, window_bytes=2 * ONE)
    rows = np.array([3, 3, 40])
    expected = reader.means([keys[row] for row in rows])
    np.testing.assert_array_equal(streamed.pooled(rows), expected)
    # in memory they come from the tokens, which were rounded when they were stored
    np.testing.assert_allclose(load_features(reader, keys).pooled(rows), expected, atol=1e-3)


def test_joined_recipes_stream_too(mixed):
    joined = open_joined(mixed, ["esm2-8m", "rna-fm"], mixed.collection("genes"))
    keys = [key for key in joined.row_keys if key is not None]
    streamed = StreamedFeatures(joined, keys, window_bytes=2000)
    resident = load_features(joined, keys)
    inputs = np.arange(len(keys))
    for one, other in zip(streamed.passes(inputs, 30), resident.passes(inputs, 30), strict=True):
        assert torch.equal(one[1], other[1])
    assert sorted(
        place for batch in streamed.batches(inputs, 4, generator()) for place in batch[0].tolist()
    ) == list(inputs)


def test_no_rows_are_no_batches(reader, keys):
    features = StreamedFeatures(reader, keys, window_bytes=ONE)
    none = np.empty(0, np.int64)
    assert list(features.batches(none, 4, generator())) == []
    assert list(features.passes(none, 4)) == []
