"""Arrays over HTTP: what the client accepts in; `.npy`, Arrow or JSON with a strong ETag out."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.responses import Response
from numpy.typing import NDArray

from api.arrow import ARROW, mean_stream, token_stream
from api.errors import NotAcceptable, TooLarge
from embedstore import EmbeddingInfo, RecipeReader
from embedstore.errors import BadInput

NPY, BYTES, JSON = "application/x-npy", "application/octet-stream", "application/json"
OFFERED = (NPY, BYTES, ARROW, JSON)
"""Media types of arrays, the default first; an octet stream is `.npy` too."""

JSON_NUMBER_BYTES = 24
"""The longest a float32 becomes, its comma included."""

_ROWS = re.compile(r"([0-9]{0,12}):([0-9]{0,12})")
_TAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True)
class Wanted:
    """What the client's headers ask for."""

    media_type: str
    known: str
    """If-None-Match."""

    def has(self, tag: str) -> bool:
        """True where the client holds this very representation."""
        return self.known.strip() == "*" or tag in known_tags(self.known)


def known_tags(header: str) -> list[str]:
    """Tags in an If-None-Match, weak ones as if they were strong."""
    found: list[str] = _TAG.findall(header)
    return found


async def wanted_of(request: Request) -> Wanted:
    """What a request's headers ask for.

    Raises
    ------
    NotAcceptable
        None of the media types that there are.
    """
    accept = ",".join(request.headers.getlist("accept"))
    return Wanted(
        choose_media_type(accept, OFFERED), ",".join(request.headers.getlist("if-none-match"))
    )


def choose_media_type(accept: str, offered: Sequence[str]) -> str:
    """The offered type that an Accept header likes best; of equals the first.

    Raises
    ------
    NotAcceptable
        The header excludes them all.
    """
    ranges = dict(map(_media_range, accept.split(","))) if accept.strip() else {"*/*": 1.0}
    best, quality = "", 0.0
    for name in offered:
        major = name.partition("/")[0]
        found = (ranges[each] for each in (name, f"{major}/*", "*/*") if each in ranges)
        liked = next(found, 0.0)  # the most specific range decides
        if liked > quality:
            best, quality = name, liked
    if not best:
        raise NotAcceptable(f"Nothing here is {accept!r}.", f"Accept one of: {', '.join(offered)}.")
    return best


def matrix_response(
    reader: RecipeReader, key: str, rows: str | None, wanted: Wanted, limit: int
) -> Response:
    """A per-token embedding, or the rows asked for; size and ETag are known before any read.

    Parameters
    ----------
    rows : `a:b`, 0-based and half-open; either side may be left out
    limit : bytes that may be sent

    Raises
    ------
    MissingEmbedding, DamagedSegment, BadInput
    TooLarge
        Says how many rows fit.
    """
    info = reader.info(key)
    length, width = info.shape
    first, stop = parse_rows(rows, length)
    row_bytes = info.nbytes // length
    if wanted.media_type == JSON:
        row_bytes = width * JSON_NUMBER_BYTES
    fitting = limit // row_bytes
    if stop - first > fitting:
        raise TooLarge(
            f"{stop - first} rows of {key} take {(stop - first) * row_bytes} bytes; at most "
            f"{limit} are sent.",
            f"Ask for at most {fitting} rows at a time, e.g. ?rows=0:{fitting}.",
        )

    def read() -> bytes:
        matrix = reader.batch([key]).tokens[first:stop]
        if wanted.media_type == ARROW:
            about = _about(reader) | {"rows": f"{first}:{stop}"}
            return token_stream({"key": [key]}, [matrix], width, matrix.dtype.name, about)
        if wanted.media_type != JSON:
            return npy(matrix)
        head = {"recipe": reader.name, "key": key, "dtype": matrix.dtype.name}
        return json_bytes(
            {
                **head,
                "rows": [first, stop],
                "shape": list(matrix.shape),
                "embedding": matrix.tolist(),
            }
        )

    return _conditional(_tag(reader, info, f"{first}:{stop}", wanted), wanted, read)


def mean_response(reader: RecipeReader, key: str, wanted: Wanted) -> Response:
    """The average of an embedding over its tokens, float32.

    Raises
    ------
    MissingEmbedding, DamagedSegment
    """

    def read() -> bytes:
        (mean,) = reader.means([key])
        if wanted.media_type == ARROW:
            return mean_stream({"key": [key]}, [mean], len(mean), _about(reader))
        if wanted.media_type != JSON:
            return npy(mean)
        head = {"recipe": reader.name, "key": key, "dtype": mean.dtype.name}
        return json_bytes({**head, "shape": list(mean.shape), "mean": mean.tolist()})

    return _conditional(_tag(reader, reader.info(key), "mean", wanted), wanted, read)


def parse_rows(rows: str | None, length: int) -> tuple[int, int]:
    """First and stop row of `a:b`, 0-based and half-open, in an embedding of that length.

    Raises
    ------
    BadInput
        Not of that form, empty, or beyond the end.
    """
    if rows is None:
        return 0, length
    parts = _ROWS.fullmatch(rows)
    if parts is None:
        raise BadInput(f"rows={rows!r} is not a:b.", "E.g. ?rows=0:64, 0-based, half-open.")
    first, stop = int(parts[1] or 0), int(parts[2] or length)
    if not first < stop <= length:
        raise BadInput(
            f"rows={rows} is no part of {length} rows.", f"Stay within 0:{length}, a before b."
        )
    return first, stop


def npy(array: NDArray[Any]) -> bytes:
    """An `.npy` file."""
    head = io.BytesIO()
    whole = np.ascontiguousarray(array)
    described = np.lib.format.header_data_from_array_1_0(whole)
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue() + whole.tobytes()


def json_bytes(values: dict[str, Any]) -> bytes:
    """Compact JSON; a number that JSON does not have is a mistake of ours."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode()


def _about(reader: RecipeReader) -> dict[str, str]:
    """What an Arrow stream says of all its embeddings."""
    return {"recipe": reader.name, "view": reader.recipe.view}


def _conditional(tag: str, wanted: Wanted, read: Callable[[], bytes]) -> Response:
    """The content, or 304 and no read where the client has it."""
    headers = {"ETag": tag, "Vary": "Accept", "Cache-Control": "no-cache"}
    if wanted.has(tag):
        return Response(status_code=304, headers=headers)
    return Response(read(), headers=headers, media_type=wanted.media_type)


def _tag(reader: RecipeReader, info: EmbeddingInfo, part: str, wanted: Wanted) -> str:
    """Strong: the checksum of the content, of what it is, which part and in what form."""
    form = wanted.media_type.rpartition("/")[2]
    return f'"{info.checksum}-{reader.name}-{info.key}-{part}-{form}"'


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0
