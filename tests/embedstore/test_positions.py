"""Token features land on the positions that their tokens cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.backbones.tokenize import nt_v2_tokenizer
from embedstore.positions import codon_means, spread


@given(text=st.text("ACGTN", min_size=1, max_size=60))
def test_every_position_gets_the_row_of_the_token_over_it(text):
    tokenizer = nt_v2_tokenizer()
    offset, width = tokenizer.spans(text)
    tokens = np.arange(len(offset), dtype=np.float16)[:, None] * [1, -1]
    rows = spread(tokens, offset, width, len(text))
    by_hand = [token for token, wide in enumerate(width) for _ in range(wide)]
    assert rows[:, 0].tolist() == by_hand and rows[:, 1].tolist() == [-row for row in by_hand]


def test_positions_past_a_cut_are_nan():
    offset, width = nt_v2_tokenizer().spans("ACGTAC" * 3)
    rows = spread(np.ones((2, 4), np.float32), offset, width, 18)
    assert np.isfinite(rows[:12]).all() and np.isnan(rows[12:]).all()


def test_rows_that_do_not_fit_the_view_are_refused():
    ones = np.ones((2, 1))
    with pytest.raises(ValueError, match="overlap"):
        spread(ones, np.array([0, 1]), np.array([3, 3]), 4)
    with pytest.raises(ValueError, match="0 to 6 of a view of 5"):
        spread(ones, np.array([0, 3]), np.array([3, 3]), 5)
    with pytest.raises(ValueError, match="1 offsets"):
        spread(ones, np.array([0]), np.array([3]), 9)


def test_codons_average_their_nucleotides_in_float32():
    features = np.array([[1], [2], [4], [60000], [60000], [60000]], np.float16)
    means = codon_means(features)
    assert means.dtype == np.float32
    # by hand: 7 / 3, and 60,000, whose sum overflows float16 (59,968 is its nearest float16)
    assert means[:, 0] == pytest.approx([7 / 3, float(np.float16(60000))])


def test_half_a_codon_is_refused():
    with pytest.raises(ValueError, match="4 nucleotides"):
        codon_means(np.ones((4, 2)))
