"""Plans: fixed before any model runs, and unmoved by what is already done."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore import key_of
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build.plan import Item, cut_batches, cut_segments, make_plan
from embedstore.errors import TooLong
from embedstore.records import Record

items = st.lists(st.integers(1, 50), max_size=60).map(
    lambda counts: [Item(key_of(str(at)), "", n, n + 2) for at, n in enumerate(counts)]
)


@given(items=items, size=st.integers(1, 300))
def test_every_item_is_in_one_segment_longest_first(items, size):
    segments = cut_segments(items, 1, size)
    flat = [item for segment in segments for item in segment]
    assert sorted(flat, key=lambda item: item.key) == sorted(items, key=lambda item: item.key)
    counts = [item.count for item in flat]
    assert counts == sorted(counts, reverse=True)
    for segment in segments[:-1]:
        assert sum(item.count for item in segment) >= size
        assert sum(item.count for item in segment[:-1]) < size


@given(items=items, size=st.integers(1, 300), data=st.data())
def test_taking_finished_segments_away_leaves_the_others_as_they_were(items, size, data):
    segments = cut_segments(items, 1, size)
    done = data.draw(st.sets(st.integers(0, max(0, len(segments) - 1))))
    left = [segment for number, segment in enumerate(segments) if number not in done]
    assert cut_segments([item for segment in left for item in segment], 1, size) == left


@given(items=items, size=st.integers(1, 300))
def test_a_batch_is_within_its_tokens_or_a_single_sequence(items, size):
    batches = list(cut_batches(items, size))
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == 1 or sum(item.cost for item in batch) <= size for batch in batches)


def plan_of(sequences, backbone="one-hot-protein", **options):
    records = [Record(f"r{at}", text, "protein") for at, text in enumerate(sequences)]
    prepared = prepare(BackboneConfig(backbone=backbone, **options))
    return make_plan(records, prepared, lambda keys: np.zeros(len(keys), np.bool_), 1 << 20)


def test_identical_views_are_embedded_once():
    plan = plan_of(["MKT", "MKV", "MKT"])
    assert (plan.records, plan.distinct, sum(1 for _ in plan.items)) == (3, 2, 2)
    assert plan.ids[key_of("MKT")] == ["r0", "r2"]


def test_synonymous_mrnas_share_the_embedding_of_their_protein(genes):
    prepared = prepare(BackboneConfig(backbone="one-hot-protein"))
    plan = make_plan(genes.rows, prepared, lambda keys: np.zeros(len(keys), np.bool_), 1 << 20)
    assert plan.distinct == len(genes.rows) - 2


def test_too_long_is_one_error_that_names_the_longest():
    with pytest.raises(TooLong, match=r"2 sequences .* 5 tokens .* 'r2' with 9"):
        plan_of(["MKT", "M" * 6, "M" * 9], max_tokens=5)


def test_skip_leaves_long_ones_out_and_says_so():
    plan = plan_of(["MKT", "M" * 6], max_tokens=5, long="skip")
    assert [(failure.id, failure.reason) for failure in plan.failures] == [("r1", "too-long")]
    assert plan.tokens == 3


def test_truncate_counts_what_is_kept():
    assert plan_of(["MKT", "M" * 6], max_tokens=5, long="truncate").tokens == 8


def test_a_text_shorter_than_a_word_is_a_failure_not_an_empty_embedding():
    records = [Record("short", "AU", "mrna")]
    prepared = prepare(BackboneConfig(backbone="kmer-composition"))
    plan = make_plan(records, prepared, lambda keys: np.zeros(len(keys), np.bool_), 1 << 20)
    assert [failure.reason for failure in plan.failures] == ["no-token"]
