"""Cells of text: what is a number, what is none, what says that a value is missing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.label_columns import is_missing_mark
from probe.number_cells import (
    are_codes,
    is_ambiguous,
    looks_like_number,
    plain_spelling,
    read_number,
)


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("0", ".", 0.0),
        ("-1.5e-3", ".", -0.0015),
        (".5", ".", 0.5),
        ("1,234.5", ".", 1234.5),
        ("1,234,567", ".", 1234567.0),
        ("1,5", ",", 1.5),
        ("1.234,5", ",", 1234.5),
        ("-0,25", ",", -0.25),
        *((text, ".", None) for text in ("", "ND", "0x10", "1_000", "inf", "-Infinity", "1e999")),
        *((text, ".", None) for text in ("5%", "5 %", "2 nM", "<0.1", ">100", "1,5", "007", "١٢")),
        *((text, ".", None) for text in ("1,234", "1,23,456", "1 000", "--1", "1.2.3", "nan")),
        *((text, ",", None) for text in ("1.5", "1.234", "1,2,3", "007")),
    ],
)
def test_cells_are_read_strictly(text, decimal, number):
    assert read_number(text, decimal) == number


def test_a_single_separator_of_thousands_is_ambiguous():
    assert is_ambiguous("1,234", ".") and is_ambiguous("1.234", ",")
    assert not is_ambiguous("1,234.5", ".") and not is_ambiguous("0,123", ".")


@pytest.mark.parametrize(
    "text",
    ["1\u00a0234,5", "1\u202f234", "12 345 678", "1'234.5", "1\u2019234", "\u22121,5", "1.234"],
)
def test_what_other_countries_write_looks_like_a_number(text):
    assert looks_like_number(text)


@pytest.mark.parametrize("text", ["1 2", "1 23", "5' 3'", "a 123", "12 3456", "1 234 a", "\u2212"])
def test_other_text_does_not(text):
    assert not looks_like_number(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_is_read_as_it_was_with_either_mark(value):
    text = repr(value)
    assert read_number(text) == value
    assert math.isclose(read_number(text.replace(".", ","), ",") or 0.0, value)


@pytest.mark.parametrize("text", ["NA", "nan", "N/A", "None", "null", "-", "#N/A", "NaN", " na "])
def test_marks_of_missing_values(text):
    assert is_missing_mark(text)


@pytest.mark.parametrize("text", ["ND", "N", "neg", "0", "NaCl", "--x"])
def test_other_words_are_no_marks(text):
    assert not is_missing_mark(text)


def test_digits_that_a_number_would_not_keep_are_codes():
    assert are_codes(["007", "12"]) and are_codes(["12345678901234567891"])
    assert not are_codes(["7", "12"]) and not are_codes(["007", "1.5"])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\u22121.5", "-1.5"),
        ("\u22120,25", "-0,25"),
        ("1 234", "1234"),
        ("1\u00a0234,5", "1234,5"),
        ("-12\u202f345\u202f678.5", "-12345678.5"),
        ("1'234.5", "1234.5"),
        ("1\u2019234", "1234"),
    ],
)
def test_what_spreadsheets_of_other_countries_write_looks_like_a_number(text, plain):
    assert plain_spelling(text) == plain
    assert looks_like_number(text) and read_number(text) is None and read_number(text, ",") is None


@pytest.mark.parametrize("text", ["1 2", "grade 1 234", "12 34", "0 123", "1 234'567", "5' 3'"])
def test_other_spaces_and_apostrophes_make_no_number(text):
    assert plain_spelling(text) == text and not looks_like_number(text)
