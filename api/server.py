"""Serving over TCP: settings in; runs until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from api.app import GRACE_SECONDS, create_app
from api.connections import bounded_protocol
from api.logs import configure_logs
from api.metrics import SHARED_FOLDER
from api.settings import Settings
from embedstore.errors import BadInput

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; either ends the process with exit code 0.

    Requests under way are finished first, for up to `GRACE_SECONDS`.

    Raises
    ------
    BadInput
        The address cannot be listened on.
    StoreError
        What `create_app` raises.
    """
    app = create_app(settings)  # also where others serve: what is wrong is seen here and now
    with listen(settings.host, settings.port) as listening:
        if settings.workers > 1:
            _serve_in_workers(settings, listening)
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn puts these back after its own and raises the signal again: a clean end
            signal.signal(number, _leave)
        log.info("serving %s at %s", settings.store, address(listening))
        uvicorn.Server(_config(settings, app)).run(sockets=[listening])


def _serve_in_workers(settings: Settings, listening: socket.socket) -> None:
    """Several processes take connections from one socket; one that dies is started anew."""
    with tempfile.TemporaryDirectory(prefix="embedstore-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder
        app = partial(_worker_app, settings)
        config = _config(settings, app, workers=settings.workers, factory=True)
        log.info("serving %s at %s", settings.store, address(listening))
        Multiprocess(config, [listening]).run()


def _worker_app(settings: Settings) -> FastAPI:
    """The app of one worker process."""
    configure_logs(settings.log_format)
    return create_app(settings)


def _config(settings: Settings, app: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded_protocol(settings),
        log_config=None,
        access_log=False,  # `Access` writes one line a request
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
        **options,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; port 0 takes a free one.

    Raises
    ------
    BadInput
        The port is taken or not allowed, or the host has no such address.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise BadInput(
            f"Cannot listen on {host} port {port}: {error.strerror}.",
            "Choose another --port or --host, or stop what is listening there.",
        ) from error
    return listening


def address(listening: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
