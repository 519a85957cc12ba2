"""Serving over TCP: settings in; runs until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn

from api.app import create_app
from api.settings import Settings
from embedstore.errors import BadInput

log = logging.getLogger(__name__)

GRACE_SECONDS = 10
"""How long requests under way may take after the server is told to stop."""


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; either ends the process with exit code 0.

    Raises
    ------
    BadInput
        The address cannot be listened on.
    StoreError
        What `create_app` raises.
    """
    app = create_app(settings)
    listening = listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        log_config=None,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts these back after its own and raises the signal again: a clean end
        signal.signal(number, _leave)
    with listening:
        log.info("serving %s at %s", settings.store, address(listening))
        uvicorn.Server(config).run(sockets=[listening])


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
