"""JSON documents of runs and probes: strict, written whole, refused with a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from embedstore.errors import BadInput, NewerFormat
from embedstore.store.files import write_atomically


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace the file at once. Undefined numbers must be None already: NaN is no JSON."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(path, text.encode() + b"\n")


def read_json(path: Path, what: str, format: int) -> dict[str, Any]:
    """The object in a file of ours.

    Parameters
    ----------
    what : what the file belongs to, e.g. `probe`; its `kind` must say so
    format : newest version that can be read

    Raises
    ------
    BadInput
        There is no such file, or it holds something else.
    NewerFormat
        A later version wrote it.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(
            f"{str(path.parent)!r} is no {what}: it has no {path.name}.", "Check the path."
        ) from None
    except ValueError as error:
        raise BadInput(
            f"{str(path)!r} is damaged: {error}.", "Restore it from a copy, or make it again."
        ) from error
    if not isinstance(value, dict) or value.get("kind") != what:
        raise BadInput(f"{str(path)!r} describes no {what}.", "Check the path.")
    if not isinstance(value.get("format"), int):
        raise BadInput(f"{str(path)!r} names no format.", "Restore it from a copy.")
    if value["format"] > format:
        raise NewerFormat(
            f"{str(path)!r} has format {value['format']}; this version reads {format}.",
            "Install a newer embedstore.",
        )
    return value


def or_none(number: float) -> float | None:
    """The number, or None where it is not finite: how JSON shows an undefined score."""
    return number if math.isfinite(number) else None
