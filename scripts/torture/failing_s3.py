"""An S3 server on loopback behind a proxy that fails a part of the requests."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

START_SECONDS = 60


class FailingS3:
    """moto's server in one process and the proxy in another, for as long as the block lasts.

    Half of the failures are answered with 503 and never reach the server; of the rest one half
    breaks the connection before, and the other half after the server has done what was asked.
    """

    def __init__(self, bucket: str, failing: float, rng: random.Random) -> None:
        self.bucket, self.failing, self._rng = bucket, failing, rng
        self.port = 0
        """Of the server itself: damage is done behind the back of the proxy."""
        self.environment: dict[str, str] = {}
        """Variables with which clients find the server itself, so that a store is made at once."""
        self.proxy = ""
        """Endpoint of the proxy."""
        self._proxy = 0
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FailingS3:
        self.port = _free_port()
        listening = socket.create_server(("127.0.0.1", 0))
        words = [sys.executable, "-W", "ignore", "-c", "from moto.server import main; main()"]
        self._server = subprocess.Popen(
            [*words, "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._proxy = os.fork()
        if self._proxy == 0:
            try:
                _serve(listening, self.port, self.failing, self._rng)
            finally:
                os._exit(0)
        self.proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.environment = {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        listening.close()
        self._make_bucket()
        return self

    def __exit__(self, *_: object) -> None:
        if self._proxy:
            os.kill(self._proxy, signal.SIGKILL)
            os.waitpid(self._proxy, 0)
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def _make_bucket(self) -> None:
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request("PUT", f"/{self.bucket}")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.05)
        raise SystemExit("the S3 server does not start")


def _serve(listening: socket.socket, port: int, failing: float, rng: random.Random) -> None:
    """The proxy, until it is killed."""
    lock = threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_anything(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                fails, way = rng.random() < failing, rng.random()
            if fails and way < 0.5:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fails and way < 0.75:
                self.close_connection = True
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection):
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
            if fails:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            if answer.getheader("Content-Length") is None:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_anything

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.serve_forever()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
