"""A client of a server: sequences, ids and keys in, numpy arrays out.

Imports neither torch nor the server.
"""

from __future__ import annotations

import base64
import io
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.errors import BadInput, StoreError

AGAIN = (429, 502, 503)
"""Statuses that another try may change."""
FINAL = ("missing-weights", "bad-weights", "not-installed")
"""Codes of a 503 that no waiting changes."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between tries; doubled each time, with up to a half more at random."""
REQUEST_SEQUENCES, REQUEST_LETTERS = 128, 100_000
"""Longer lists go in several requests: half of what a server takes by default."""
ARROW = "application/vnd.apache.arrow.stream"

Regions = Sequence[tuple[int, int] | None]
"""Coding regions: start and stop in nt, 0-based and half-open; None: the whole sequence."""


class ClientError(StoreError):
    """The server refused, failed, or cannot be reached."""

    def __init__(
        self,
        problem: str,
        fix: str,
        code: str = "unreachable",
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(problem, fix)
        self.code = code
        """As the server says it; `unreachable` where it says nothing."""
        self.status = status
        self.request_id = request_id
        """Names the request in the server's log."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a probe says of some sequences; N of them, in the order given."""

    values: NDArray[Any]
    """Shape (N,). Regression: float64, NaN where there is an error. Classes: str objects, None
    where there is an error. Outputs for each position: arrays as objects."""
    probabilities: list[dict[str, float] | None]
    """By class, for a classification."""
    errors: dict[int, ClientError]
    """By place: why there is no prediction."""
    unit: str
    recipe: str
    digests: dict[str, str | None]
    """Of the probe's weights and the backbone's."""


class Client:
    """One server. Use as a context manager, or `close` it; threads may share it.

    Example: `Client("http://127.0.0.1:8000").embed(["AUGGCC"], "one-hot-mrna")`
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        tries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to nothing yet.

        Parameters
        ----------
        timeout : seconds that one try may take
        tries : how often a request is sent, where the server is busy or away
        transport : how requests travel; None: over the network
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport
        )
        self._url, self._tries, self._random = url, max(1, tries), random.Random()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:
        """Collections, recipes, probes and versions."""
        return self._json("GET", "/info")

    def models(self) -> list[dict[str, Any]]:
        """Every recipe, and every backbone that can embed there."""
        return list(self._json("GET", "/v1/models")["data"])

    def probes(self) -> list[dict[str, Any]]:
        """Saved probes: task, recipe, scores and intervals."""
        return list(self._json("GET", "/v1/probes")["probes"])

    def damaged_probes(self) -> list[dict[str, Any]]:
        """Saved probes that the server cannot use: `name`, and `problem`."""
        return list(self._json("GET", "/v1/probes")["damaged"])

    def embedding(
        self, collection: str, id: str, backbone: str, rows: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        """The stored per-token embedding of a record.

        Parameters
        ----------
        backbone : or its recipe
        rows : first and stop, 0-based and half-open; None: all

        Returns
        -------
        float16 or float32 as stored, shape (L, D)

        Raises
        ------
        ClientError
        """
        query = {"backbone": backbone}
        if rows is not None:
            query["rows"] = f"{rows[0]}:{rows[1]}"
        return self._array(f"{_record(collection, id)}/embedding", query)

    def mean(self, collection: str, id: str, backbone: str) -> NDArray[np.float32]:
        """The average of a record's embedding over its tokens: float32, shape (D,).

        Raises
        ------
        ClientError
        """
        return self._array(f"{_record(collection, id)}/mean", {"backbone": backbone})

    def lookup(
        self,
        backbone: str,
        *,
        collection: str | None = None,
        ids: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        pooled: bool = False,
    ) -> list[NDArray[Any] | None]:
        """Stored embeddings of ids or keys, in their order; None where absent.

        Raises
        ------
        ClientError
        """
        if (ids is None) == (keys is None):
            raise BadInput("lookup takes either ids or keys.", "Give one of them.")
        found: list[NDArray[Any] | None] = []
        for part in _parts(list(ids if ids is not None else keys or ()), 1 << 40):
            named = {"keys": part} if ids is None else {"ids": part, "collection": collection}
            body = {"backbone": backbone, "pooled": pooled, **named}
            table = self._arrow("/v1/embeddings/lookup", body)
            found += _arrays(table.column("embedding"), pooled=pooled)
        return found

    def embed(
        self,
        sequences: Sequence[str],
        backbone: str,
        molecule: str | None = None,
        *,
        coding_regions: Regions | None = None,
        translation: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float32]:
        """Averages over tokens, stored or made on demand: float32, shape (N, D).

        Parameters
        ----------
        coding_regions : start and stop of each sequence in nt, 0-based and half-open; None: whole
        translation : genetic_code, orf, allow_inner_stop or selenocysteine, as the server takes
            them

        Raises
        ------
        ClientError
            One sequence that cannot be read fails them all, by its place in the request.
        """
        vectors: list[NDArray[np.float32]] = []
        coded = _coded(sequences, coding_regions, translation)
        for part in _parts(sequences, REQUEST_LETTERS):
            body = {"model": backbone, "input": part, "encoding_format": "base64"}
            body |= _together(coded, len(vectors), len(part))
            if molecule is not None:
                body["molecule"] = molecule
            answer = self._json("POST", "/v1/embeddings", body)
            for entry in answer["data"]:
                vectors.append(np.frombuffer(base64.b64decode(entry["embedding"]), "<f4"))
        return np.stack(vectors).astype(np.float32) if vectors else np.empty((0, 0), np.float32)

    def token_embeddings(
        self,
        sequences: Sequence[str],
        backbone: str,
        molecule: str | None = None,
        *,
        coding_regions: Regions | None = None,
        translation: Mapping[str, Any] | None = None,
    ) -> list[NDArray[Any]]:
        """Per-token embeddings, stored or made on demand: each of shape (L, D), stored dtype.

        Parameters
        ----------
        coding_regions, translation : as in `embed`

        Raises
        ------
        ClientError
            Names the first sequence that cannot be read, by its place, counted from 0.
        """
        found: list[NDArray[Any]] = []
        coded = _coded(sequences, coding_regions, translation)
        for part in _parts(sequences, REQUEST_LETTERS):
            body = {"model": backbone, "input": part}
            body |= _together(coded, len(found), len(part))
            if molecule is not None:
                body["molecule"] = molecule
            table = self._arrow("/v1/token-embeddings", body)
            for at, code in enumerate(table.column("error").to_pylist()):
                if code is not None:
                    raise ClientError(
                        f"Sequence {len(found) + at} has no embedding: {code}.",
                        "Leave it out or correct it.",
                        code,
                    )
            found += [each for each in _arrays(table.column("embedding")) if each is not None]
        return found

    def neighbors(
        self,
        backbone: str,
        *,
        sequence: str | None = None,
        molecule: str | None = None,
        coding_region: tuple[int, int] | None = None,
        translation: Mapping[str, Any] | None = None,
        key: str | None = None,
        vector: ArrayLike | None = None,
        collection: str | None = None,
        id: str | None = None,
        k: int = 10,
        metric: str = "cosine",
        exclude_self: bool | None = None,
    ) -> dict[str, Any]:
        """The nearest stored embeddings of a sequence, a key, a vector or a record.

        Parameters
        ----------
        coding_region, translation : of the sequence, as in `embed`

        Returns
        -------
        The server's answer: recipe, metric, what index was searched, and `neighbors`, nearest
        first, each with key, score or distance, and records

        Raises
        ------
        ClientError
        """
        given = {
            "sequence": sequence,
            "molecule": molecule,
            "key": key,
            "vector": None if vector is None else np.asarray(vector, np.float64).tolist(),
            "collection": collection,
            "id": id,
            "exclude_self": exclude_self,
        }
        body = {name: value for name, value in given.items() if value is not None}
        body |= {"backbone": backbone, "k": k, "metric": metric, **(translation or {})}
        if coding_region is not None:
            body["coding_region"] = _region(coding_region)
        return self._json("POST", "/v1/neighbors", body)

    def predict(
        self,
        probe: str,
        sequences: Sequence[str] | None = None,
        *,
        molecule: str | None = None,
        coding_regions: Regions | None = None,
        translation: Mapping[str, Any] | None = None,
        collection: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Predicted:
        """Predictions for sequences, or for records of a collection.

        Parameters
        ----------
        coding_regions, translation : of sequences, as in `embed`; records have their own

        Raises
        ------
        ClientError
            The whole request failed; what is wrong with single sequences is in the answer.
        """
        if (sequences is None) == (ids is None):
            raise BadInput("predict takes either sequences or ids.", "Give one of them.")
        answers: list[dict[str, Any]] = []
        coded = _coded(sequences or (), coding_regions, translation)
        head: dict[str, Any] = {"unit": "", "recipe": "", "digests": {}}
        for part in _parts(sequences if sequences is not None else ids or (), REQUEST_LETTERS):
            body: dict[str, Any] = {"ids": part, "collection": collection}
            if sequences is not None:
                own = coded[len(answers) : len(answers) + len(part)]
                body = {
                    "sequences": [
                        {"sequence": text, "molecule": molecule, **each}
                        for text, each in zip(part, own, strict=True)
                    ]
                }
            head = self._json("POST", f"/v1/probes/{_quoted(probe)}/predict", body)
            answers += head["predictions"]
        errors = {
            at: ClientError(each["error"]["problem"], each["error"]["fix"], each["error"]["code"])
            for at, each in enumerate(answers)
            if "error" in each
        }
        return Predicted(
            values=_values([each.get("prediction") for each in answers]),
            probabilities=[each.get("probabilities") for each in answers],
            errors=errors,
            unit=head["unit"],
            recipe=head["recipe"],
            digests=head["digests"],
        )

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, path, body, "application/json").json()
        return answer

    def _array(self, path: str, query: dict[str, str]) -> NDArray[Any]:
        answer = self._send("GET", path, None, "application/x-npy", query)
        array: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return array

    def _arrow(self, path: str, body: Any) -> Any:
        import pyarrow as pa

        answer = self._send("POST", path, body, ARROW)
        return pa.ipc.open_stream(answer.content).read_all()

    def _send(
        self, method: str, path: str, body: Any, accept: str, query: dict[str, str] | None = None
    ) -> httpx.Response:
        """One request, again where that may help; every route may be asked twice."""
        wait = FIRST_WAIT
        for left in reversed(range(self._tries)):
            asked: float | None = None
            try:
                answer = self._http.request(
                    method, path, json=body, params=query, headers={"Accept": accept}
                )
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise BadInput(
                    f"{self._url!r} is no address: {error}", "E.g. http://127.0.0.1:8000."
                ) from error
            except httpx.TransportError as error:
                failed = ClientError(
                    f"{self._url} cannot be reached: {error or type(error).__name__}.",
                    "Check the address, and that the server runs.",
                )
                failed.__cause__ = error
            else:
                if answer.is_success:
                    return answer
                failed = _error_of(answer)
                if answer.status_code not in AGAIN or failed.code in FINAL:
                    raise failed
                asked = _seconds(answer.headers.get("retry-after"))
            if left == 0:
                break
            pause = wait * (1 + self._random.random() / 2) if asked is None else asked
            time.sleep(min(pause, LONGEST_WAIT))
            wait *= 2
        raise failed


def _record(collection: str, id: str) -> str:
    return f"/v1/collections/{_quoted(collection)}/{_quoted(id)}"


def _quoted(name: str) -> str:
    """A name as one part of a path: `..` too, which would lead to the part before."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def _region(region: tuple[int, int]) -> dict[str, int]:
    start, stop = region
    return {"start": int(start), "stop": int(stop)}


def _coded(
    sequences: Sequence[str], regions: Regions | None, translation: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """What a request says of the coding region of each sequence."""
    if regions is not None and len(regions) != len(sequences):
        raise BadInput(
            f"{len(regions)} coding regions are given for {len(sequences)} sequences.",
            "Give one for each, None where a sequence is whole.",
        )
    both = dict(translation or {})
    return [
        both if region is None else both | {"coding_region": _region(region)}
        for region in regions or [None] * len(sequences)
    ]


def _together(coded: list[dict[str, Any]], first: int, count: int) -> dict[str, Any]:
    """The same for some sequences of one request, whose regions are a list."""
    own = coded[first : first + count]
    both = {name: value for name, value in own[0].items() if name != "coding_region"}
    regions = [each.get("coding_region") for each in own]
    return both | {"coding_region": regions} if any(regions) else both


def _parts(entries: Sequence[str], letters: int) -> Iterator[list[str]]:
    """Neighbours that go in one request; one at least."""
    part: list[str] = []
    held = 0
    for entry in entries:
        if part and (len(part) == REQUEST_SEQUENCES or held + len(entry) > letters):
            yield part
            part, held = [], 0
        part.append(entry)
        held += len(entry)
    if part:
        yield part


def _arrays(column: Any, *, pooled: bool = False) -> list[NDArray[Any] | None]:
    """One array a row of an Arrow column of fixed-size lists, or of lists of those."""
    found: list[NDArray[Any] | None] = []
    for row in column:
        if not row.is_valid:
            found.append(None)
        elif pooled:
            found.append(row.values.to_numpy())
        else:
            rows = row.values
            found.append(rows.flatten().to_numpy().reshape(len(rows), -1))
    return found


def _values(predictions: list[Any]) -> NDArray[Any]:
    numbers = [each for each in predictions if each is not None]
    if all(isinstance(each, int | float) for each in numbers):
        return np.array([np.nan if each is None else each for each in predictions], np.float64)
    values = np.empty(len(predictions), object)
    for at, each in enumerate(predictions):
        values[at] = np.array(each) if isinstance(each, list) else each
    return values


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; None where it says nothing, or a date."""
    return float(header) if header is not None and header.isdecimal() else None


def _error_of(answer: httpx.Response) -> ClientError:
    """The server's problem and fix, or what a proxy between said."""
    request_id = answer.headers.get("x-request-id")
    try:
        body = answer.json()
        return ClientError(
            body["problem"], body["fix"], body["code"], answer.status_code, request_id
        )
    except (ValueError, KeyError, TypeError):
        return ClientError(
            f"The answer is {answer.status_code} {answer.reason_phrase}, not from embedstore.",
            "Check the address, and any proxy between.",
            "not-embedstore",
            answer.status_code,
            request_id,
        )
