"""Strict documents: exact types, known names, bounded values, a checksum of their own."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.documents import (
    BadDocument,
    Count,
    Document,
    FormatNumber,
    NewerDocument,
    checksum_of,
    parse,
    parse_object,
    parse_sealed,
    seal,
)


class Loose(Document):
    format: FormatNumber
    checksum: str | None = None
    made: dict[str, Any]


class Thing(Document):
    format: FormatNumber
    checksum: str | None = None
    width: Count
    scale: float = 1.0
    names: tuple[str, ...] = ()


def read(content: bytes) -> Thing:
    return parse_sealed(Thing, content, newest=2, sealed_from=2)


def sealed(**fields: Any) -> bytes:
    return json.dumps(seal({"format": 2, "width": 4, **fields})).encode()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"format": 1, "width": "4"}', "'width' is '4'"),
        (b'{"format": 1, "width": -4}', "'width' is -4"),
        (b'{"format": 1, "width": true}', "'width' is True"),
        (b'{"format": 1, "width": 4.0}', "'width' is 4.0"),
        (b'{"format": 1, "width": 1e30}', "'width' is 1e+30"),
        (b'{"format": 1, "width": 99999999999999999999}', "'width'"),
        (b'{"format": 1}', "'width' is missing"),
        (b'{"format": 1, "width": 4, "evil": 1}', "'evil' is unknown"),
        (b'{"format": 1, "width": 4, "scale": NaN}', "no JSON"),
        (b'{"format": 1, "width": 4, "scale": 1e999}', "'scale'"),
        (b'{"format": 1, "width": 4, "names": ["a", 1]}', "'names.1' is 1"),
        (b"[1]", "no JSON object"),
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 30_000, "no JSON"),
        (b'{"a":' * 30_000, "no JSON"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(content, named):
    with pytest.raises(BadDocument) as caught:
        read(content)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_document_of_more_bytes_than_it_can_have_is_not_parsed():
    with pytest.raises(BadDocument, match="more than the 10"):
        parse(Thing, b'{"format": 1, "width": 4}', most=10)
    with pytest.raises(BadDocument, match="more than the 10"):
        parse_object(b'{"format": 1, "width": 4}', most=10)


def test_a_later_format_says_so_before_anything_else_is_looked_at():
    with pytest.raises(NewerDocument, match="format 3"):
        read(b'{"format": 3, "other": []}')


def test_the_checksum_is_required_from_its_format_on_and_unknown_before():
    assert read(sealed()).width == 4
    assert read(b'{"format": 1, "width": 4}').width == 4
    with pytest.raises(BadDocument, match="checksum"):
        read(b'{"format": 2, "width": 4}')
    old = {"format": 1, "width": 4}
    with pytest.raises(BadDocument, match="unknown to format 1"):
        read(json.dumps({**old, "checksum": checksum_of(old)}).encode())


@given(st.data())
def test_no_flipped_bit_gives_other_values(data):
    content = sealed(names=["a", "b"], scale=0.1)
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(BadDocument):
        assert read(bytes(flipped)) == read(content)  # white space


def test_a_number_that_is_not_finite_cannot_be_sealed():
    with pytest.raises(ValueError, match="JSON"):
        seal({"format": 2, "scale": float("nan")})


@pytest.mark.parametrize("number", ["1e999", "1" * 5_000])
def test_no_number_of_a_free_field_can_break_the_checksum(number):
    text = f'{{"format": 2, "checksum": "00000000", "made": {{"x": {number}}}}}'
    with pytest.raises(BadDocument):
        parse_sealed(Loose, text.encode(), newest=2, sealed_from=2)
