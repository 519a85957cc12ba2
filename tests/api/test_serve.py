"""The server as it runs: a process, real HTTP, signals, and one-line errors."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest

COMMAND = [sys.executable, "-c", "from api.cli import app; app()", "serve"]


class Server:
    """A running `embedstore serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int, host: str) -> None:
        self.process, self.port, self.host = process, port, host

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body; the path goes over the wire as it stands."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self, number: int) -> tuple[int, str]:
        """Exit code and everything written to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@contextmanager
def running(*arguments: str, host: str = "127.0.0.1", **environment: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--host", host, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"serving .* at http://.*:(\d+)$", line)
            if found:
                break
        else:
            raise AssertionError(f"the server ended with {process.wait()}")
        yield Server(process, int(found[1]), host)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def failing(*arguments: str, **environment: str) -> str:
    """The one line of a serve that cannot start."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def server(shared_store, shared_probes):
    arguments = (str(shared_store.folder), "--probes", str(shared_probes))
    with running(*arguments) as started:
        yield started


def test_ids_may_hold_anything_a_url_can_encode(server, shared_store, odd_ids):
    reader = shared_store.recipe("one-hot-mrna")
    assert odd_ids
    for id in odd_ids:
        path = f"/v1/collections/genes/{quote(id, safe='')}"
        status, body = server.get(f"{path}/embedding?backbone=one-hot-mrna")
        assert status == 200, (id, body)
        stored = reader.get(id, "genes")
        assert np.array_equal(np.load(io.BytesIO(body)), stored), id
        status, body = server.get(f"{path}/mean?backbone=one-hot-mrna")
        assert status == 200, (id, body)
        assert np.load(io.BytesIO(body)).shape == (4,)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/collections/../../etc/passwd",
        "/v1/collections/..%2f..%2fetc/passwd/embedding?backbone=one-hot-mrna",
        "/v1/collections/genes%00/gene-0/embedding?backbone=one-hot-mrna",
        "/v1/collections/genes/..%2f..%2fstore.json/embedding?backbone=one-hot-mrna",
        "/v1/collections/genes/gene-0/embedding?backbone=..%2f..",
        "/v1/collections/genes/gene-0/embedding?backbone=%2fetc%2fpasswd",
        "/v1/embeddings/..%2frecipes%2fone-hot-mrna/" + "0" * 32,
        "//etc/passwd",
        "/v1/embeddings/%ff%fe/%80",
    ],
)
def test_no_path_leads_out_of_the_store(server, path):
    status, body = server.get(path)
    assert status in (404, 422)
    assert set(json.loads(body)) == {"code", "problem", "fix"}


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_sent(server):
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/probes/halflife/predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_exit_code_0(shared_store, number):
    with running(str(shared_store.folder)) as server:
        assert server.get("/health")[0] == 200
        code, errors = server.stop(number)
    assert code == 0
    assert "Traceback" not in errors


def test_a_recipe_that_cannot_be_read_is_damage_and_leaks_no_path(store):
    with running(str(store.folder)) as server:
        recipe = next(store.folder.glob("recipes/*/recipe.json"))
        recipe.unlink()
        recipe.mkdir()
        status, body = server.get("/info")
        server.stop(signal.SIGTERM)
    assert status == 500
    assert b'"damaged-segment"' in body and str(store.folder).encode() not in body


def test_with_keys_every_address_may_be_served(shared_store):
    with running(str(shared_store.folder), host="0.0.0.0", EMBEDSTORE_API_KEYS="one,two") as server:
        server.host = "127.0.0.1"
        assert server.get("/health")[0] == 200
        assert server.get("/info")[0] == 401
        assert server.get("/info", Authorization="Bearer two")[0] == 200


def test_without_keys_only_loopback_is_served(shared_store):
    line = failing(str(shared_store.folder), "--host", "0.0.0.0", EMBEDSTORE_API_KEYS="")
    assert "EMBEDSTORE_API_KEYS" in line


def test_a_port_in_use_is_one_error(shared_store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failing(str(shared_store.folder), "--port", str(port))
    assert f"port {port}" in line and "--port" in line


def test_a_host_that_is_no_name_is_one_error(shared_store):
    assert "--host" in failing(
        str(shared_store.folder), "--host", "no.such.host.invalid", EMBEDSTORE_API_KEYS="k"
    )


def test_what_is_no_store_is_one_error(tmp_path):
    assert "store.json" in failing(str(tmp_path))


def test_stored_embeddings_and_lists_need_no_torch(shared_store, shared_probes):
    script = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from api.app import create_app
from api.settings import Settings
settings = Settings(store=Path({str(shared_store.folder)!r}), probes=Path({str(shared_probes)!r}))
with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
    record = "/v1/collections/genes/gene-0"
    for path in ("/health", "/info", "/v1/probes", record + "/embedding?backbone=one-hot-mrna",
                 record + "/mean?backbone=one-hot-mrna"):
        assert client.get(path).status_code == 200, path
heavy = {{"torch", "transformers", "sklearn", "scipy", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_the_command_line_starts_without_the_web():
    script = """
import sys
import api.cli
heavy = {"fastapi", "uvicorn", "pydantic", "torch", "transformers"} & set(sys.modules)
assert not heavy, heavy
names = {command.name or command.callback.__name__ for command in api.cli.app.registered_commands}
assert {"serve", "build", "get"} <= names, names
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_help_ends_with_an_example():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Example: embedstore serve" in done.stdout
