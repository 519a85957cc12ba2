"""Text of a table's cells to numbers: one strict parser, marks of missing values, and codes.

Nothing is guessed: a unit, a percent sign, `<0.1`, hexadecimal digits, underscores and infinity
are no numbers, and neither is a whole number that would not come back as it was written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

DecimalMark = Literal[".", ","]

MISSING = frozenset(
    ("na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "none", "null", "-", "\u2013", "\u2014")
)
"""What tables write where a value is missing, in lower case; the last two are longer dashes."""

_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_WHOLE = re.compile(r"[0-9]+")


def _plain(mark: str) -> re.Pattern[str]:
    """Digits with at most one mark; no zero before other digits."""
    point = re.escape(mark)
    return re.compile(
        rf"[+-]?(?:(?:0|[1-9][0-9]*)(?:{point}[0-9]*)?|{point}[0-9]+){_EXPONENT}", re.ASCII
    )


def _grouped(mark: str, separator: str) -> re.Pattern[str]:
    """Thousands between separators."""
    point, between = re.escape(mark), re.escape(separator)
    return re.compile(rf"[+-]?[1-9][0-9]{{0,2}}(?:{between}[0-9]{{3}})+(?:{point}[0-9]*)?")


_PLAIN: dict[DecimalMark, re.Pattern[str]] = {".": _plain("."), ",": _plain(",")}
_GROUPED: dict[DecimalMark, re.Pattern[str]] = {".": _grouped(".", ","), ",": _grouped(",", ".")}
_SPACED = re.compile("(?<=[0-9])[ \\u00a0\\u2009\\u202f'\\u2019](?=[0-9]{3}(?![0-9]))")
"""Spaces and apostrophes that part thousands."""
_MINUS = "\u2212"
_OTHER: dict[DecimalMark, DecimalMark] = {".": ",", ",": "."}


def read_number(text: str, decimal: DecimalMark = ".") -> float | None:
    """The number that a cell holds, None where it holds none.

    Separators of thousands are read where they can be nothing else: 1,234.5 and 1,234,567 with a
    decimal point, 1.234,5 with a decimal comma. 1,234 could be 1.234, so it is no number.

    Parameters
    ----------
    text : without white space around it
    decimal : the mark between a number and its fraction
    """
    if _PLAIN[decimal].fullmatch(text):
        value = float(text.replace(",", "."))
    elif _GROUPED[decimal].fullmatch(text) and not is_ambiguous(text, decimal):
        value = float(text.replace(_OTHER[decimal], "").replace(",", "."))
    else:
        return None
    return value if math.isfinite(value) else None


def is_ambiguous(text: str, decimal: DecimalMark = ".") -> bool:
    """Whether the one separator of a cell may part thousands or be another decimal mark."""
    once = text.count(_OTHER[decimal]) == 1 and decimal not in text
    return once and _GROUPED[decimal].fullmatch(text) is not None


def looks_like_number(text: str) -> bool:
    """Whether a cell is a number to people in some country: 1 234,5, 1'234.5 or one behind U+2212.

    These are not read, but a column of them is no column of classes either.
    """
    plain = _SPACED.sub("", text.replace(_MINUS, "-"))
    return any(
        read_number(plain, decimal) is not None or is_ambiguous(plain, decimal)
        for decimal in _PLAIN
    )


def is_missing_mark(text: str) -> bool:
    """Whether a cell says in writing that its value is missing: NA, nan, N/A, - and such."""
    return text.strip().lower() in MISSING


def is_code(text: str) -> bool:
    """Whether a cell is digits that a number would not keep: 007 would come back as 7.

    So would a whole number of more digits than a float64 holds.
    """
    if not _WHOLE.fullmatch(text):
        return False
    if len(text) > 1 and text[0] == "0":
        return True
    return len(text) > 300 or int(float(text)) != int(text)


def are_codes(texts: Sequence[str]) -> bool:
    """Whether a column holds codes: some cells are codes, and no other is more than digits."""
    if not any(map(is_code, texts)):
        return False
    return not any(looks_like_number(text) and not _WHOLE.fullmatch(text) for text in texts)
