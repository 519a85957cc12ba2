"""Text of a table's cells to numbers: one strict parser, and codes.

Nothing is guessed: a unit, a percent sign, `<0.1`, hexadecimal digits, underscores and infinity
are no numbers, and neither is a whole number that would not come back as it was written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

DecimalMark = Literal[".", ","]

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
_THOUSANDS = re.compile("[ \u00a0\u2009\u202f'\u2019]")
_PARTED = re.compile(
    rf"[+-]?[1-9][0-9]{{0,2}}(?:({_THOUSANDS.pattern})[0-9]{{3}})(?:\1[0-9]{{3}})*(?:[.,][0-9]*)?"
)
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


def plain_spelling(text: str) -> str:
    """The cell as `read_number` takes it, where only its signs stand in the way.

    Spreadsheets of some countries write a minus sign that is no hyphen, and part thousands by a
    space or an apostrophe.
    """
    text = text.replace("\u2212", "-")
    return _THOUSANDS.sub("", text) if _PARTED.fullmatch(text) else text


def looks_like_number(text: str) -> bool:
    """Whether a cell is a number to people in some country."""
    text = plain_spelling(text)
    return any(
        read_number(text, decimal) is not None or is_ambiguous(text, decimal) for decimal in _PLAIN
    )


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
