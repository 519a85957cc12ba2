"""Label and group columns of any Arrow type to plain cells: what each holds, and what is missing.

Stores of other programs and of older versions hold blank cells and every type that a table can
have, so the rules are kept here whatever the door did: a blank cell is no value, text loses the
white space around it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedstore.errors import BadInput
from embedstore.label_columns import is_missing_mark
from embedstore.records import RESERVED
from probe.number_cells import (
    DecimalMark,
    are_codes,
    is_ambiguous,
    is_code,
    looks_like_number,
    plain_spelling,
    read_number,
)

if TYPE_CHECKING:
    import pyarrow as pa

Form = Literal["numbers", "text", "truth", "lists"]

_INSIST = "ask for --kind classification to take all cells as classes"


@dataclass(frozen=True)
class Cells:
    """One label column."""

    name: str
    form: Form
    ids: list[str]
    """Of every row."""
    values: list[Any]
    """Of every row: int or float, stripped text, bool, or a list of numbers; None where there is
    none. Numbers may be infinite, and items of lists None or nan."""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Id and text of the cells of a text column that do not say that a value is missing."""
        for id, value in zip(self.ids, self.values, strict=True):
            if value is not None and not is_missing_mark(value):
                yield id, value

    def missing_marks(self) -> Counter[str]:
        """How often a text column says NA, nan and such, by the words it uses."""
        return Counter(each for each in self.values if each is not None and is_missing_mark(each))


def is_absent(value: Any) -> bool:
    """Whether a cell holds nothing: None, nan, blank text, or a list without any number."""
    if isinstance(value, list):
        return all(is_absent(each) for each in value)
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """The cells of any column as plain values; text stripped, None where a cell holds nothing."""
    values = (_plain(value) for value in column.to_pylist())
    return [None if is_absent(value) else value for value in values]


def read_cells(table: pa.Table, label: str) -> Cells:
    """A label column, whatever Arrow type holds it.

    Raises
    ------
    BadInput
        There is no such column, it holds no labels, or no row has a value.
    """
    known = [name for name in table.column_names if not RESERVED.fullmatch(name)]
    if label not in known:
        raise BadInput(
            f"There is no label column {label!r}.",
            f"Known: {', '.join(known)}." if known else "Build the collection with labels.",
        )
    column = table.column(label)
    form = _form_of(column.type)
    if form is None:
        raise BadInput(
            f"The column {label} holds {column.type}.",
            "Labels are numbers, text, true and false, or lists of numbers.",
        )
    values = plain_values(column)
    if all(value is None for value in values):
        raise BadInput(f"No row has a value of {label}.", "Choose another label column.")
    return Cells(label, form, table.column("id").to_pylist(), values)


def text_is_numbers(cells: Cells, decimal: DecimalMark) -> bool:
    """Whether a text column holds numbers; NA and such among them are missing values.

    False for codes that numbers would not keep, such as 007, and for a column where half of the
    cells or fewer look like numbers.

    Raises
    ------
    BadInput
        Most cells look like numbers and some are none: names how many, the first that is not, and
        the ways out.
    """
    told = list(cells.texts())
    texts = [text for _, text in told]
    if not texts or are_codes(texts):
        return False
    wrong = [(id, text) for id, text in told if read_number(text, decimal) is None]
    if not wrong:
        return True
    if 2 * sum(looks_like_number(text) for text in texts) <= len(texts):
        return False
    raise _not_all_numbers(cells.name, texts, wrong, decimal)


def numbers_of_text(cells: Cells, decimal: DecimalMark) -> list[float | None]:
    """The number of each cell of a text column; None where it is missing.

    Raises
    ------
    BadInput
        A cell is no number, or the column holds codes.
    """
    told = list(cells.texts())
    texts = [text for _, text in told]
    if are_codes(texts):
        id, code = next((id, text) for id, text in told if is_code(text))
        raise BadInput(
            f"{cells.name}: {id} holds {code!r}, which a number would not keep.",
            f"Write the numbers without leading zeros, or {_INSIST}.",
        )
    wrong = [(id, text) for id, text in told if read_number(text, decimal) is None]
    if wrong and not any(map(looks_like_number, texts)):
        raise BadInput(
            f"The column {cells.name} holds classes, not numbers.",
            "Ask for --kind classification, or choose another column.",
        )
    if wrong:
        raise _not_all_numbers(cells.name, texts, wrong, decimal)
    return [
        None if value is None or is_missing_mark(value) else read_number(value, decimal)
        for value in cells.values
    ]


def code_note(cells: Cells) -> str | None:
    """A sentence where a text column is taken as classes since its cells are codes."""
    told = list(cells.texts())
    if not are_codes([text for _, text in told]):
        return None
    id, code = next((id, text) for id, text in told if is_code(text))
    return (
        f"{cells.name} is text and stays text: as a number {code!r} of {id} would not come back "
        "as it is written."
    )


def _not_all_numbers(
    label: str, texts: Sequence[str], wrong: Sequence[tuple[str, str]], decimal: DecimalMark
) -> BadInput:
    """Most cells are numbers, or would be with another decimal mark."""
    count, good = len(texts), len(texts) - len(wrong)
    other: DecimalMark = "," if decimal == "." else "."
    mark = {".": "point", ",": "comma"}
    by_other = sum(read_number(plain_spelling(text), other) is not None for text in texts)
    id, text = wrong[0]
    fixes = []
    if by_other > good:
        fixes.append(f"say --decimal {other} if that is the decimal {mark[other]}")
    if is_ambiguous(text, decimal):
        what = f"{id} holds {text!r}, which may be {_both(text)}"
        fixes.append("write numbers without separators of thousands")
    else:
        what = f"{id} holds {text!r}"
    if (plain := plain_spelling(text)) != text:
        fixes.append(f"write such cells as {plain!r}")
    elif by_other <= good or is_ambiguous(text, decimal):
        fixes.append("correct such cells or leave them empty")
    also = f", and {len(wrong) - 1:,} more are none" if len(wrong) > 1 else ""
    fix = f"{', or '.join(fixes)}; or {_INSIST}"
    return BadInput(
        f"{label}: {good:,} of {count:,} cells are numbers, {what}{also}.",
        f"{fix[0].upper()}{fix[1:]}.",
    )


def _both(text: str) -> str:
    digits = text.replace(",", "").replace(".", "")
    return f"{digits} or {text.replace(',', '.')}"


def _form_of(dtype: pa.DataType) -> Form | None:
    import pyarrow.types as types

    if types.is_dictionary(dtype):
        return _form_of(dtype.value_type)
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        return "text"
    if types.is_null(dtype):  # a column in which no row has a value
        return "text"
    if types.is_boolean(dtype):
        return "truth"
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "numbers"
    lists = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    if any(is_one(dtype) for is_one in lists) and _form_of(dtype.value_type) == "numbers":
        return "lists"
    return None


def _plain(value: Any) -> Any:
    """A cell as Python's own kind of value."""
    from decimal import Decimal

    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Decimal) or type(value).__module__ == "numpy":  # half floats
        return float(value)
    return value
