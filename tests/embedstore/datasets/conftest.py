"""A server on loopback that serves one file in the ways that good and bad servers do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from embedstore.datasets.entry import Form


@dataclass
class Server:
    """What is served and how; what was asked for."""

    url: str = ""
    content: bytes = b""
    etag: str | None = '"v1"'
    ranges: bool = True
    """Whether a part of the file can be had."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the connection of each next request ends."""
    status: int = 200
    asked: list[dict[str, str]] = field(default_factory=list)
    """Headers of the requests."""
    sent: int = 0
    """Bytes of all bodies."""

    def form(self, content: bytes | None = None, name: str = "table.csv") -> Form:
        """A registered file, of the content that is served or another."""
        content = self.content if content is None else content
        digest = hashlib.sha256(content).hexdigest()
        return Form(name=name, checksum=f"sha256:{digest}", url=f"{self.url}/{name}")


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append({name.lower(): value for name, value in self.headers.items()})
            asked = state.asked[-1]
            if state.status != 200:
                self.send_response(state.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if state.ranges and "range" in asked and asked.get("if-range") in (None, state.etag):
                start = int(asked["range"].removeprefix("bytes=").removesuffix("-"))
            total = len(state.content)
            if start and start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.cuts:
                body = body[: state.cuts.pop(0)]
                self.close_connection = True
            state.sent += len(body)
            self.wfile.write(body)

        def log_message(self, *values: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()
