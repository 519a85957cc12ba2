"""Windows tile a long sequence, and what the backbone stores of it is what they gave."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.backbones.windows import Reading, windows
from embedstore.errors import BadInput, TooLong

from .conftest import FAMILIES, by_equations, open_backbone

LONG = {
    "esm2": "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ",
    "nt-v1": "ATGGCATTTCCCGGGAAANACGTACGTTTAGCA" * 3,
    "nt-v2": "ATGGCATTTCCCGGGAAANACGTACGTTTAGCA" * 3,
    "rna-fm": "AUGGCAUUUCCCGGGAAANACGUACGUUUAGCA",
    "splicebert": "ATGGCATTTCCCGGGAAANACGTACGTTTAGCA",
}


@st.composite
def shapes(draw):
    limit = draw(st.integers(1, 40))
    return draw(st.integers(1, 300)), limit, draw(st.integers(0, limit - 1))


@given(shapes())
def test_kept_parts_tile_the_sequence_once(shape):
    count, limit, overlap = shape
    made = windows(count, limit, overlap)
    kept = [token for window in made for token in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(count))


@given(shapes())
def test_every_kept_token_is_far_from_a_cut(shape):
    count, limit, overlap = shape
    for start, stop, keep_start, keep_stop in windows(count, limit, overlap):
        assert 0 <= start <= keep_start < keep_stop <= stop <= count
        assert start == 0 or keep_start - start >= overlap // 2
        assert stop == count or stop - keep_stop >= overlap // 2


@given(shapes())
def test_windows_are_whole_overlap_enough_and_are_as_few_as_can_be(shape):
    count, limit, overlap = shape
    made = windows(count, limit, overlap)
    assert all(window.stop - window.start == min(count, limit) for window in made)
    shared = [before.stop - after.start for before, after in pairwise(made)]
    assert all(each >= overlap for each in shared)
    fewer = len(made) - 1
    assert fewer == 0 or fewer * limit - (fewer - 1) * overlap < count


@given(shapes(), st.sampled_from(["error", "truncate", "skip", "window"]), st.integers(0, 2))
def test_counts_are_told_before_anything_runs(shape, policy, special):
    count, limit, overlap = shape
    reading = Reading(policy, limit, overlap)
    if count > limit and policy in ("error", "skip"):
        with pytest.raises(TooLong, match=f"{count} tokens"):
            reading.windows(count)
        return
    made = reading.windows(count)
    assert reading.stored_count(count) == sum(w.keep_stop - w.keep_start for w in made)
    assert reading.forward_cost(count, special) == sum(w.stop - w.start + special for w in made)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_stitched_row_comes_from_its_window(published, family):
    specials = 1 if family.startswith("nt") else 2
    backbone = open_backbone(
        published[family], long="window", max_tokens=10 + specials, window_overlap=4
    )
    ids = backbone.tokenizer.encode(LONG[family])
    count = len(ids)
    stitched = backbone.embed([LONG[family][:6], LONG[family]])
    rows = stitched.tokens[stitched.lengths[0] :]
    assert stitched.lengths.tolist() == [backbone.tokenizer.count(LONG[family][:6]), count]
    for number, (start, stop, first, last) in enumerate(windows(count, 10, 4)):
        window = [*backbone.tokenizer.prefix, *ids[start:stop], *backbone.tokenizer.suffix]
        states = by_equations(published[family], np.array(window))
        expected = states[1 + first - start : 1 + last - start]
        np.testing.assert_allclose(rows[first:last], expected, rtol=1e-4, atol=2e-5)
        if number == 0:
            np.testing.assert_allclose(stitched.cls[1], states[0], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(stitched.mean[1], rows.mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_truncated_is_the_same_as_cut_by_hand(published, family):
    specials = 1 if family.startswith("nt") else 2
    backbone = open_backbone(published[family], long="truncate", max_tokens=3 + specials)
    offset, width = backbone.tokenizer.spans(LONG[family])
    cut = LONG[family][: offset[2] + width[2]]
    ours, by_hand = backbone.embed([LONG[family]]), backbone.embed([cut])
    assert ours.lengths.tolist() == [3] and ours.tokens.shape == (3, 16)
    np.testing.assert_array_equal(ours.tokens, by_hand.tokens)
    np.testing.assert_array_equal(ours.mean, by_hand.mean)


@pytest.mark.parametrize("family", ["nt-v1", "rna-fm", "splicebert"])
def test_beyond_the_position_table_is_refused_by_count(published, family):
    # Trap 4: transformers ends in an IndexError inside the table, on a GPU in a dead context
    table = {"nt-v1": 1000, "rna-fm": 38, "splicebert": 64}[family]
    specials = 1 if family == "nt-v1" else 2
    letter = "N"  # by itself in every vocabulary
    backbone = open_backbone(published[family])
    assert backbone.embed([letter * (table - specials)]).finite.all()
    with pytest.raises(TooLong, match=f"longer than the {table - specials} this backbone reads"):
        backbone.embed([letter * (table - specials + 1)])
    with pytest.raises(BadInput, match=f"more than the {table} positions"):
        open_backbone(published[family], max_tokens=table + 1)


def test_rotary_models_read_as_far_as_they_are_told_to(published):
    assert open_backbone(published["esm2"], max_tokens=2000).embed(["M" * 1998]).finite.all()


def test_the_recipe_says_how_long_sequences_were_read(published):
    def prepared(**settings):
        weights = published["esm2"].weights
        config = BackboneConfig(backbone="esm2-8m", weights=weights, device="cpu", **settings)
        return prepare(config)

    assert prepared().recipe.long == prepared(long="skip").recipe.long == "whole"
    assert prepared(long="truncate").recipe.long == "truncate:1022"
    assert prepared(long="window").recipe.long == "window:1022:255"  # a quarter
    own = prepared(long="window", max_tokens=102, window_overlap=10)
    assert own.recipe.long == "window:100:10"
    assert own.recipe.name != prepared(long="window", max_tokens=102).recipe.name
    assert own.stored_count(1000) == 1000 and own.stored_count(40) == 40
    assert own.forward_cost(40) == 42 and own.forward_cost(190) == 2 * 102
    assert prepared(long="truncate").stored_count(5000) == 1022
    assert prepared(long="truncate").forward_cost(5000) == 1024


def test_overlaps_that_make_no_sense_are_refused(published):
    with pytest.raises(BadInput, match="no step"):
        open_backbone(published["esm2"], long="window", max_tokens=12, window_overlap=10)
    with pytest.raises(BadInput, match="for --long window"):
        BackboneConfig(backbone="esm2-8m", window_overlap=10)
    with pytest.raises(BadInput, match="0 or more"):
        BackboneConfig(backbone="esm2-8m", long="window", window_overlap=-1)
    with pytest.raises(BadInput, match=r"error, truncate, skip, window"):
        BackboneConfig(backbone="esm2-8m", long="chop")


def test_letters_alone_are_cut_the_same_way():
    config = BackboneConfig(backbone="one-hot-mrna", long="truncate", max_tokens=3)
    embedded = prepare(config).load().embed(["ACGUU", "AC"])
    assert embedded.lengths.tolist() == [3, 2] and embedded.tokens.shape == (5, 4)
    assert embedded.mean[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    window = BackboneConfig(backbone="one-hot-mrna", long="window", max_tokens=3)
    assert prepare(window).load().embed(["ACGUU"]).lengths.tolist() == [5]
    with pytest.raises(TooLong):
        prepare(BackboneConfig(backbone="one-hot-mrna", max_tokens=3)).load().embed(["ACGUU"])
