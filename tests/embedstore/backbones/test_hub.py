"""The hub: its cache first; a network that is not there is one line, at once. No test needs one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from embedstore.backbones import hub
from embedstore.backbones.specs import SPECS, find_spec

SPEC = find_spec("esm2-8m")
UNPINNED = find_spec("nt-v1-500m-1000g")
OTHER = "0123456789abcdef0123456789abcdef01234567"
BUILD = "from api.cli import app; app()"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for; `status` answers everything instead."""

    folder: Path
    status: int | None = None
    headers_of: ClassVar[dict[str, str]] = {}
    commit = SPEC.revision
    asked: ClassVar[list[str]] = []

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        type(self).asked.append(self.path)
        path = self.path.partition("?")[0]
        names = sorted(each.name for each in self.folder.iterdir())
        if self.status is not None:
            return self.give(self.status, b"{}", dict(self.headers_of), body)
        if "/tree/" in path:
            rows = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": self.size(name)}
                for name in names
            ]
            return self.give(200, json.dumps(rows).encode(), {}, body)
        if path.startswith("/api/models/"):
            found = {"id": SPEC.hub_id, "sha": self.commit}
            found["siblings"] = [{"rfilename": name} for name in names]
            return self.give(200, json.dumps(found).encode(), {}, body)
        content = (self.folder / path.rpartition("/")[2]).read_bytes()
        marks = {"ETag": f'"{hash(path) & 0xFFFFFFFF:040x}"', "X-Repo-Commit": self.commit}
        return self.give(200, content, marks, body)

    def size(self, name):
        return (self.folder / name).stat().st_size

    def give(self, status, content, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def server(published):
    """A hub on loopback that has the tiny ESM-2; gives its class."""

    class Own(Hub):
        folder = published["esm2"].weights
        asked: ClassVar[list[str]] = []

    made = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    Own.url = f"http://127.0.0.1:{made.server_port}"
    yield Own
    made.shutdown()
    made.server_close()


@pytest.fixture
def nowhere():
    """A URL on loopback that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def run(tmp_path, url, *words, backbone="esm2-8m", cache=None, **variables):
    """The real command, in a process whose hub and cache are ours."""
    path = tmp_path / "p.fasta"
    path.write_text(">a\nMKTAYIAK\n")
    command = [sys.executable, "-c", BUILD, "build", str(path), "--store", str(tmp_path / "s")]
    command += ["--backbone", backbone, "--molecule", "protein", "--device", "cpu", *words]
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": str(cache or tmp_path / "hub")}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env = {**clean, **home, "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", **variables}
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    done.seconds = time.monotonic() - began
    return done


def cached(tmp_path, made, commit, spec=SPEC, *, main=None):
    """The layout of the hub's cache, by hand: snapshots, and refs/main where it was asked for."""
    repository = tmp_path / "hub" / f"models--{spec.hub_id.replace('/', '--')}"
    shutil.copytree(made.weights, repository / "snapshots" / commit)
    if main is not None:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(main)
    return repository / "snapshots" / commit


def one_line(done):
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_no_network_is_one_line_with_the_way_out(tmp_path, nowhere):
    line = one_line(run(tmp_path, nowhere))
    assert "cannot be had from the hub: ConnectError" in line and "--weights DIR" in line
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_OFFLINE": "1"}, {"TRANSFORMERS_OFFLINE": "1"}])
def test_the_cache_needs_no_network(tmp_path, nowhere, published, variables):
    cached(tmp_path, published["esm2"], SPEC.revision)
    done = run(tmp_path, nowhere, **variables)
    assert done.returncode == 0, done.stderr
    assert f"{SPEC.hub_id}@{SPEC.revision}" in done.stderr


def test_offline_without_the_weights_is_one_line(tmp_path, nowhere):
    for words, variables in ((["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})):
        line = one_line(run(tmp_path, nowhere, *words, **variables))
        assert "not in the hub's cache" in line and "--weights DIR" in line


def test_a_download_asks_the_hub_and_the_next_build_does_not(tmp_path, server, nowhere):
    done = run(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    assert f"@{SPEC.revision}" in done.stderr
    assert any(SPEC.revision in path for path in server.asked)  # the pinned commit, not main
    assert not any("/main" in path for path in server.asked)
    assert run(tmp_path, nowhere).returncode == 0


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "accepted licence.*hf auth login"),
        (403, {}, "accepted licence"),
        (404, {"X-Error-Code": "RevisionNotFound"}, f"no commit {SPEC.revision}"),
        (404, {"X-Error-Code": "RepoNotFound"}, "is not there, or is private"),
        (500, {}, "it answers 500"),
        (429, {}, "it answers 429"),
    ],
)
def test_a_hub_that_refuses_is_one_error(server, monkeypatch, tmp_path, status, headers, says):
    from embedstore.errors import MissingWeights

    server.status, server.headers_of = status, headers
    here(monkeypatch, server.url, tmp_path)
    with pytest.raises(MissingWeights, match=says) as caught:
        hub.download(SPEC)
    assert "\n" not in str(caught.value) and "--weights DIR" in caught.value.fix
    # asked once; the client's own questions are about itself
    assert len([path for path in server.asked if path.startswith("/api/models/")]) == 1


def here(monkeypatch, url, tmp_path):
    """This process's client, whose constants were read at import."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
    ],
)
def test_a_cache_that_cannot_be_written_names_its_folder(
    server, monkeypatch, tmp_path, number, says
):
    from embedstore.errors import MissingWeights

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number), "blob")

    here(monkeypatch, server.url, tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(MissingWeights, match=f"hub' {says}.*HF_HOME"):
        hub.download(SPEC)


@pytest.mark.parametrize("error", [RuntimeError("xet"), ValueError("bad"), KeyError("sha")])
def test_any_error_of_the_client_is_ours(server, monkeypatch, tmp_path, error):
    from embedstore.errors import MissingWeights

    def refuse(*args, **kwargs):
        raise error

    here(monkeypatch, server.url, tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(MissingWeights, match=type(error).__name__):
        hub.download(SPEC)


def test_a_download_that_was_broken_off_is_finished_or_named(tmp_path, published, server, nowhere):
    folder = cached(tmp_path, published["esm2"], SPEC.revision)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    line = one_line(run(tmp_path, nowhere, "--offline"))
    assert "model-00001-of-00002.safetensors, named by" in line and "--weights DIR" in line
    (folder / "model.safetensors.index.json").unlink()
    assert "no weights file" in one_line(run(tmp_path, nowhere, "--offline"))
    done = run(tmp_path, server.url)
    assert done.returncode == 0, done.stderr


def test_another_main_stands_in_for_a_pin_only_where_asking_is_forbidden(
    tmp_path, published, nowhere
):
    cached(tmp_path, published["esm2"], OTHER, main=OTHER)
    line = one_line(run(tmp_path, nowhere))
    assert f"say --offline to take commit {OTHER} from the cache" in line
    done = run(tmp_path, nowhere, "--offline")
    assert done.returncode == 0, done.stderr
    assert f"{SPEC.hub_id}@{OTHER}" in done.stderr


def test_what_is_not_pinned_is_the_last_main(tmp_path, published, nowhere):
    assert UNPINNED.revision is None
    cached(tmp_path, published["nt-v1"], OTHER, UNPINNED, main=f"{OTHER}\n")
    path = tmp_path / "p.fasta"
    done = run(tmp_path, nowhere, "--molecule", "dna", backbone=UNPINNED.name)
    assert path.exists() and f"{UNPINNED.hub_id}@{OTHER}" in done.stderr


def test_pins_are_whole_commits_and_are_shown():
    pinned = [spec for spec in SPECS.values() if spec.revision is not None]
    assert len(pinned) == 12
    for spec in pinned:
        assert len(spec.revision) == 40 and set(spec.revision) <= set("0123456789abcdef")
        assert spec.as_row()["revision"] == spec.revision
    # the first digits that public copies of the hub's pages show
    starts = {"esm2-8m": "c731040", "esm2-35m": "6fbf070", "esm2-650m": "08e4846"}
    starts["esm2-150m"] = "a695f6045e2e32885fa60af20c13cb35398ce30c"
    starts["nt-v1-2.5b-1000g"] = "c13cfe481c2f6a2b1cabbb2b80e0ad1fbf32e45a"
    for name, start in starts.items():
        assert SPECS[name].revision.startswith(start)
