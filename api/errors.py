"""Error to HTTP: one table of type to status, and one form of body."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from embedstore import errors
from embedstore.errors import StoreError

log = logging.getLogger(__name__)


class Unauthorised(StoreError):
    """No API key, or a wrong one."""

    code = "unauthorised"


class ForeignHost(StoreError):
    """A server without keys was asked under a name other than this machine's own."""

    code = "foreign-host"


class NotAcceptable(StoreError):
    """No representation that the client accepts."""

    code = "not-acceptable"


class TooLarge(StoreError):
    """More than the server takes or gives at once."""

    code = "too-large"


class MissingProbe(StoreError, KeyError):
    """No probe of that name."""

    code = "missing-probe"


class DamagedProbe(StoreError):
    """A probe's folder cannot be used."""

    code = "damaged-probe"


class SlowBody(StoreError):
    """The body of a request did not arrive in time."""

    code = "slow-body"


class BadHead(StoreError):
    """What came is no HTTP request."""

    code = "bad-head"


class SlowHead(StoreError):
    """The headers of a request did not arrive in time."""

    code = "slow-head"


class LargeHead(StoreError):
    """The headers of a request are too long, or too many."""

    code = "large-head"


class Busy(StoreError):
    """Too much at once; the same request will do later."""

    code = "busy"

    def __init__(self, problem: str, fix: str, retry_after: int = 1) -> None:
        super().__init__(problem, fix)
        self.retry_after = retry_after
        """Seconds after which to ask again."""


class QueueFull(Busy):
    """More sequences wait for a model than the server takes."""

    code = "queue-full"


class RateLimited(Busy):
    """A key has used up its requests."""

    code = "rate-limited"


class NotReady(Busy):
    """Something is being prepared, or the server is ending."""

    code = "not-ready"

    def __init__(self, problem: str, fix: str, retry_after: int = 5) -> None:
        super().__init__(problem, fix, retry_after)


class NotInstalled(StoreError):
    """A package that models need is not there."""

    code = "not-installed"


class TimedOut(StoreError):
    """The answer took longer than the server waits."""

    code = "timed-out"


class ClientGone(StoreError):
    """The client has closed the connection; only the log sees this."""

    code = "client-gone"


class EmbeddingFailed(StoreError):
    """A model failed on a sequence."""

    code = "embedding-failed"


STATUS: dict[type[StoreError], int] = {
    BadHead: 400,
    Unauthorised: 401,
    ForeignHost: 403,
    errors.MissingCollection: 404,
    errors.MissingRecipe: 404,
    errors.MissingRecord: 404,
    errors.MissingEmbedding: 404,
    errors.UnknownBackbone: 404,
    MissingProbe: 404,
    NotAcceptable: 406,
    SlowBody: 408,
    SlowHead: 408,
    TooLarge: 413,
    errors.BadInput: 422,
    errors.TooLong: 422,
    Busy: 429,
    LargeHead: 431,
    ClientGone: 499,
    errors.MissingWeights: 503,
    errors.BadWeights: 503,
    NotInstalled: 503,
    NotReady: 503,
    TimedOut: 504,
}
"""Every other error of ours is 500: damage, or a store of a later version."""

_HTTP = {
    404: ("unknown-route", "There is no such route.", "GET /openapi.json lists them all."),
    405: ("method-not-allowed", "The route has no such method.", "Its Allow header lists them."),
    422: (errors.BadInput.code, "The body cannot be parsed.", "Send UTF-8 JSON."),
}


def status_of(error: StoreError) -> int:
    """HTTP status of an error, by its closest listed type."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem_response(
    status: int, code: str, problem: str, fix: str, headers: dict[str, str] | None = None
) -> Response:
    """The body `{code, problem, fix}`."""
    # ASCII: a lone surrogate from the request could not be encoded
    content = json.dumps({"code": code, "problem": problem, "fix": fix}).encode()
    return Response(content, status, headers, "application/json")


def error_response(error: StoreError) -> Response:
    """The response to an error of ours."""
    status = status_of(error)
    if status >= 500:
        log.error("%s: %s", error.code, error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(error.retry_after)
    return problem_response(status, error.code, error.problem, error.fix, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Give every failure of the app a body `{code, problem, fix}`."""

    @app.exception_handler(StoreError)
    async def ours(request: Request, error: StoreError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return problem_response(
            422,
            errors.BadInput.code,
            f"{where}: {first['msg']}.",
            "GET /openapi.json describes the request.",
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        if status == 400:  # how FastAPI answers a body that it cannot even parse
            status = 422
        name = HTTPStatus(status).phrase.lower().replace(" ", "-")
        other = (name, f"{error.detail}.", "Correct the request.")
        code, problem, fix = _HTTP.get(status, other)
        return problem_response(status, code, problem, fix, dict(error.headers or {}))


def internal_response() -> Response:
    """The response to what nobody expected: it tells nothing of the cause."""
    return problem_response(
        500,
        "internal",
        "The server failed on this request; its log says why.",
        "Report it with the request id in the X-Request-ID header.",
    )
