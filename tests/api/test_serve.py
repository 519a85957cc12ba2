"""The server as it runs: a process, real HTTP, signals, and one-line errors."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from urllib.parse import quote

import numpy as np
import pytest

COMMAND = [sys.executable, "-c", "from api.cli import app; app()", "serve"]


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
def server(running, shared_store, shared_probes):
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
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/probes/halflife/predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_exit_code_0(running, shared_store, number):
    with running(str(shared_store.folder)) as server:
        assert server.get("/health")[0] == 200
        code, errors = server.stop(number)
    assert code == 0
    assert "Traceback" not in errors


def test_a_request_under_way_is_answered_before_the_end(running, shared_store):
    body = b'{"model": "one-hot-mrna", "input": "AUGGCUAAA"}'
    with running(str(shared_store.folder)) as server:
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body[:10])
            )
            assert server.get("/health")[0] == 200  # what was sent before has been read
            server.process.send_signal(signal.SIGTERM)
            for _ in range(1000):
                try:
                    server.get("/health")
                except OSError:
                    break  # no one else is let in
            connection.sendall(body[10:])
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        code, errors = server.stop()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"source":"computed"' in answer
    assert code == 0 and "Traceback" not in errors


def test_what_was_computed_is_published_before_the_end(running, store):
    environment = {"EMBEDSTORE_WRITE_BACK": "1", "EMBEDSTORE_WRITE_BACK_SECONDS": "3600"}
    body = {"model": "one-hot-mrna", "input": "AUGGCUAAACCC"}
    with running(str(store.folder), **environment) as server:
        status, answer = server.post("/v1/embeddings", body)
        assert status == 200
        assert server.stop(signal.SIGTERM)[0] == 0
    (made,) = json.loads(answer)["data"]
    assert store.recipe("one-hot-mrna").has([made["key"]]).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_several_workers_serve_one_address_and_count_together(running, shared_store, number):
    with running(str(shared_store.folder), "--workers", "2") as server:
        path = "/v1/collections/genes/gene-0/mean?backbone=one-hot-mrna"
        for _ in range(20):
            assert server.get(path)[0] == 200
        text = server.get("/metrics")[1].decode()
        code, errors = server.stop(number)
    counted = re.findall(r"^embedstore_requests_total\{.*mean.*\} (\S+)$", text, re.MULTILINE)
    assert sum(map(float, counted)) == 20
    assert code == 0 and "Traceback" not in errors


def test_the_log_may_be_one_object_a_line(running, shared_store):
    with running(str(shared_store.folder), EMBEDSTORE_LOG_FORMAT="json") as server:
        server.get("/info", **{"X-Request-ID": "mine"})
        _, errors = server.stop(signal.SIGTERM)
    entries = [json.loads(line) for line in errors.splitlines()]
    (one,) = [entry for entry in entries if entry["message"] == "request"]
    assert (one["request_id"], one["route"], one["status"]) == ("mine", "/info", 200)


def test_a_recipe_that_cannot_be_read_is_damage_and_leaks_no_path(running, store):
    with running(str(store.folder)) as server:
        recipe = next(store.folder.glob("recipes/*/recipe.json"))
        recipe.unlink()
        recipe.mkdir()
        name = recipe.parent.name
        status, body = server.get(f"/v1/collections/genes/gene-0/mean?backbone={name}")
        info = server.get("/info")
        server.stop(signal.SIGTERM)
    assert status == 500 and b'"damaged-segment"' in body
    assert info[0] == 200 and [each["name"] for each in json.loads(info[1])["damaged"]] == [name]
    assert str(store.folder).encode() not in body + info[1]


def test_with_keys_every_address_may_be_served(running, shared_store):
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
heavy = {"fastapi", "uvicorn", "torch", "transformers"} & set(sys.modules)
assert not heavy, heavy
names = {command.name or command.callback.__name__ for command in api.cli.app.registered_commands}
assert {"serve", "build", "get"} <= names, names
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_help_ends_with_an_example():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Example: embedstore serve" in done.stdout
