"""JSON documents of runs and probes: strict, sealed, written whole, refused with a reason.

Each kind of document is one model, a `ProbeDocument`; `read_json` is the only way in and
`write_json` the only way out. The models stand in `probe_document`, `run_documents` and
`finetune.documents`.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, Field, JsonValue

from embedstore.documents import (
    MOST_BYTES,
    BadDocument,
    Crc32c,
    Document,
    FormatNumber,
    NewerDocument,
    parse_sealed,
    seal,
)
from embedstore.errors import BadInput, NewerFormat
from embedstore.regular_files import open_regular, read_regular
from embedstore.store.files import write_atomically
from embedstore.store.objects import unless_damage

RESTORE = "Restore it from a copy, or make it again."


def _folder_name(text: str) -> str:
    if not is_folder_name(text):
        raise ValueError("it names no folder")
    return text


def is_folder_name(text: str) -> bool:
    """Whether a text can be the name of a visible folder in another, and be shown in one line."""
    return 0 < len(text.encode("utf-8", "replace")) <= 255 and not (
        "/" in text or text.startswith(".") or not text.isprintable()
    )


Name = Annotated[str, AfterValidator(_folder_name)]
"""Of a backbone, baseline or run: also the name of a folder or file."""
Text = Annotated[str, Field(max_length=1 << 16)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1, le=2**53)]
Seed = Annotated[int, Field(ge=0, le=2**64)]
Score = float | None
"""None where it is undefined."""
Facts = dict[str, JsonValue]
"""Kept for people; nothing is computed from it."""


class ProbeDocument(Document):
    """Base of the models: what the document is, its format and its checksum.

    Documents of formats before `SEALED_FROM` have no checksum.
    """

    KIND: ClassVar[str]
    NEWEST: ClassVar[int]
    """Latest format that is read, and the one that is written."""
    SEALED_FROM: ClassVar[int]
    MOST: ClassVar[int] = MOST_BYTES
    """Bytes that it can have."""

    kind: str
    format: FormatNumber
    checksum: Crc32c | None = None

    def values(self) -> dict[str, Any]:
        """Plain values of the fields that the file has, but for its checksum."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"checksum"})


AnyDocument = TypeVar("AnyDocument", bound=ProbeDocument)


def write_json(path: Path, model: type[ProbeDocument], values: dict[str, Any]) -> None:
    """Replace a document at once, in its newest format, sealed.

    Parameters
    ----------
    values : its fields; `kind`, `format` and `checksum` are those of the model

    Raises
    ------
    ValueError
        A number is not finite: undefined ones must be None already.
    WriteFailed
    """
    named = {**values, "kind": model.KIND, "format": model.NEWEST}
    # through text: what was not UTF-8 in a path is replaced before it is sealed
    plain = json.loads(json_text(named).encode("utf-8", "replace"))
    write_atomically(path, json_text(seal(plain)).encode() + b"\n")


def json_text(value: dict[str, Any]) -> str:
    """JSON for people and programs, indented."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)


def read_json(path: Path, model: type[AnyDocument], *, within: Path | None = None) -> AnyDocument:
    """A document of ours, checked field by field.

    Parameters
    ----------
    within : folder of the run or probe that the file must lie in; None: anywhere

    Raises
    ------
    BadInput
        There is no such file, or it holds something else: the sentence names file and field.
    NewerFormat
        A later version wrote it.
    """
    try:
        content = read_within(path, model.MOST, within)
    except FileNotFoundError:
        raise BadInput(
            f"{str(path.parent)!r} is no {model.KIND}: it has no {path.name}.", "Check the path."
        ) from None
    try:
        found = parse_sealed(
            model,
            content,
            newest=model.NEWEST,
            sealed_from=model.SEALED_FROM,
            most=model.MOST,
        )
    except NewerDocument as error:
        raise NewerFormat(
            f"{str(path)!r} has format {error.number}; this version reads {error.newest}.",
            "Install a newer embedstore.",
        ) from None
    except BadDocument as error:
        raise BadInput(f"{str(path)!r} is damaged: {error}.", RESTORE) from None
    if found.kind != model.KIND:
        raise BadInput(f"{str(path)!r} describes no {model.KIND}.", "Check the path.")
    return found


def read_within(path: Path, most: int, within: Path | None) -> bytes:
    """The content of a regular file of a run or a probe.

    Parameters
    ----------
    most : bytes that it can have
    within : folder that it must lie in once links are followed; None: anywhere

    Raises
    ------
    FileNotFoundError
    BadInput
        It is no regular file, too large, or a link that leads out of the folder.
    Unreachable
        The disk does not answer, or not to us.
    """
    with reading(path):
        return read_regular(path, within=within, most=most)


def open_within(path: Path, most: int, within: Path) -> BufferedReader:
    """The same file, to be read piece by piece, under `reading`.

    Raises
    ------
    FileNotFoundError, BadInput, Unreachable
        As by `read_within`.
    """
    with reading(path):
        file = open_regular(path, within=within)
        size = os.fstat(file.fileno()).st_size
        if size > most:
            file.close()
            raise OSError(errno.EBADMSG, f"It has {size} bytes, more than {most}", str(path))
        return file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says against reading a file into an error that names it.

    Raises
    ------
    FileNotFoundError, BadInput, Unreachable
        As by `read_within`.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        unless_damage(error, path)
        raise BadInput(f"{str(path)!r} cannot be read: {error.strerror}.", RESTORE) from None


def read_text(path: Path, within: Path) -> str:
    """A text for people in a run's folder.

    Raises
    ------
    BadInput
        As by `read_within`, or it is missing.
    """
    try:
        return read_within(path, MOST_BYTES, within).decode("utf-8", "replace")
    except FileNotFoundError:
        raise BadInput(f"{str(path)!r} is missing.", RESTORE) from None


def or_none(number: float) -> float | None:
    """The number, or None where it is not finite: how JSON shows an undefined score."""
    return number if math.isfinite(number) else None
