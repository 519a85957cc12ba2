"""The key index: every key that went in is found, no other one is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.store.index import KeyIndex, pack_keys

# few different bytes, so that keys share their first eight bytes often
key_bytes = st.builds(
    lambda high, low: bytes([high] * 8 + [low] * 8), st.integers(0, 3), st.integers(0, 5)
)


@given(segments=st.lists(st.lists(key_bytes, max_size=8), max_size=5), asked=st.lists(key_bytes))
def test_lookups_agree_with_a_dictionary(segments, asked):
    truth: dict[bytes, tuple[int, int]] = {}
    for number, keys in enumerate(segments):
        for row, key in enumerate(keys):
            truth.setdefault(key, (number, row))
    as_arrays = [np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16) for keys in segments]
    index = KeyIndex(as_arrays)
    assert len(index) == len(truth)
    segment, row = index.find(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 16))
    assert list(zip(segment, row, strict=True)) == [truth.get(key, (-1, -1)) for key in asked]
    assert [bytes(key) for key in index.sorted_keys()] == sorted(truth)


def test_a_key_that_is_not_32_hex_digits_is_refused():
    with pytest.raises(ValueError, match="32 hex digits"):
        pack_keys(["ab"])
