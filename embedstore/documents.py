"""Strict JSON documents: bytes that may be damaged or hostile in, a checked model out.

Every document that is read back is a pydantic model here called `Document`: its types are exact,
its names are known, its numbers are finite and bounded. Documents that we write are sealed: they
carry the crc32c of their own canonical JSON, so that a changed digit is found as surely as a
missing brace. Nothing here knows files; callers turn `BadDocument` into an error that names theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from google_crc32c import value as crc32c
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

FORMAT, CHECKSUM = "format", "checksum"
MOST_BYTES = 4 << 20
"""Largest document that is parsed where nothing else is said."""
SHOWN = 60
"""Characters of a wrong value that an error shows."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things or bytes, exact in every JSON reader."""
Crc32c = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
"""A crc32c as eight hex digits."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""A BLAKE2b-128 digest as 32 hex digits."""
FormatNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]


class BadDocument(ValueError):
    """It is not what it should be; the text names the field. Never shown without a file's name."""


class NewerDocument(BadDocument):
    """A later version wrote it."""

    def __init__(self, number: int, newest: int) -> None:
        super().__init__(f"it has format {number}, and this version reads {newest}")
        self.number, self.newest = number, newest


class Document(BaseModel):
    """Base of every model: exact types, no unknown fields, finite numbers, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


AnyDocument = TypeVar("AnyDocument", bound=Document)


def parse(model: type[AnyDocument], content: bytes, *, most: int = MOST_BYTES) -> AnyDocument:
    """Check a document against its model.

    Parameters
    ----------
    content : UTF-8 JSON
    most : bytes that such a document can have

    Raises
    ------
    BadDocument
        It is too large, no JSON, nested too deeply, or a field is missing, unknown, of another
        type or out of range: the first such field is named.
    """
    if len(content) > most:
        raise BadDocument(f"it has {len(content)} bytes, more than the {most} it can have")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise BadDocument(_first(error)) from None


def check(model: type[AnyDocument], document: Mapping[str, Any]) -> AnyDocument:
    """Check values of a document that was read by `parse_object` against a model.

    Raises
    ------
    BadDocument
        As by `parse`.
    """
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        raise BadDocument(_first(error)) from None


def parse_sealed(
    model: type[AnyDocument],
    content: bytes,
    *,
    newest: int,
    sealed_from: int,
    most: int = MOST_BYTES,
) -> AnyDocument:
    """Check a document that has a format number and, from one format on, a checksum of itself.

    Parameters
    ----------
    model : has the fields `format` and `checksum`; the latter is None in old formats
    newest : latest format that this version reads
    sealed_from : first format that has a checksum

    Raises
    ------
    NewerDocument
        A later version wrote it.
    BadDocument
        As by `parse`; also where the checksum is missing or not that of the rest.
    """
    document = parse_object(content, most=most)
    number = document.get(FORMAT)
    if type(number) is not int or number < 1:
        raise BadDocument(f"its format number is {_shown(number)}")
    if number > newest:
        raise NewerDocument(number, newest)
    checksum = document.pop(CHECKSUM, None)
    if number >= sealed_from and checksum != _checksum_if_any(document):
        raise BadDocument("it does not match its own checksum")
    if number < sealed_from and checksum is not None:
        raise BadDocument(f"its field {CHECKSUM!r} is unknown to format {number}")
    return parse(model, content, most=most)


def parse_object(content: bytes, *, most: int = MOST_BYTES, finite: bool = True) -> dict[str, Any]:
    """A JSON object whose fields are other people's, such as a model's `config.json`.

    Parameters
    ----------
    finite : refuse NaN and Infinity, which Python writes though they are no JSON

    Raises
    ------
    BadDocument
        It is too large, no JSON object, nested too deeply, or has a number that is not finite.
    """
    if len(content) > most:
        raise BadDocument(f"it has {len(content)} bytes, more than the {most} it can have")
    try:
        document = from_json(content, allow_inf_nan=not finite)
    except ValueError as error:
        raise BadDocument(f"it is no JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadDocument("it is no JSON object")
    return document


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the checksum of itself.

    Raises
    ------
    ValueError
        A number in it is not finite.
    """
    return {**document, CHECKSUM: checksum_of(document)}


def checksum_of(document: dict[str, Any]) -> str:
    """crc32c of the canonical JSON of a document without its checksum: 8 hex digits."""
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return f"{crc32c(canonical(rest)):08x}"


def _checksum_if_any(document: dict[str, Any]) -> str:
    try:
        return checksum_of(document)
    except ValueError:  # a number that is not finite, or of thousands of digits
        return ""


def canonical(document: Any) -> bytes:
    """JSON with sorted keys, without spaces, in ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _first(error: ValidationError) -> str:
    """What is wrong with the first field that is, in one line."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = _path(found["loc"])
    match found["type"]:
        case "json_invalid":
            return f"it is no JSON ({_one_line(found['msg'])})"
        case "model_type":
            return f"{_field(where)} is no JSON object" if where else "it is no JSON object"
        case "missing":
            return f"{_field(where)} is missing"
        case "extra_forbidden":
            return f"{_field(where)} is unknown"
    said = _one_line(found["msg"]).removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    return f"{_field(where)} is {_shown(found['input'])}: {said}" if where else said


def _path(parts: Iterable[int | str]) -> str:
    return ".".join(str(part)[:SHOWN] for part in parts)


def _field(where: str) -> str:
    return f"its field {where!r}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
