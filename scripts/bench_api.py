"""What the service costs beside a bare FastAPI route that returns the same bytes; one JSON line.

Makes a store of random embeddings and a probe with random weights in a temporary folder, starts
`embedstore serve` and the bare app as processes of their own, both under uvicorn without access
log, and asks one after the other over loopback, in rounds, with a client of this script: a few
connections, one request at a time on each, every answer checked for its status and size.

- rps: answers a second (median of rounds); p50_ms, p99_ms: time of one request (all rounds)
- cpu_us: processor time of the server for one answer, which no slow client and no busy neighbour
  hides
- of_bare: rps of ours by that of the bare route; of_bare_cpu: the same by processor time

Cases: pooled and per-token look-ups that are asked again and again (cached), the same with
EMBEDSTORE_CACHE_BYTES=0 (uncached: read from the store each time), and predictions for a stored
record and for a batch of them.

Example: python scripts/bench_api.py --rounds 3
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BARE = """
import sys, uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from api.server import listen

app = FastAPI(docs_url=None, redoc_url=None)
parts = {name: open(path, "rb").read() for name, path in (each.split("=") for each in sys.argv[1:])}
for name, content in parts.items():
    media = "application/json" if content[:1] == b"{" else "application/x-npy"
    def answer(content=content, media=media):
        async def route() -> Response:
            return Response(content, media_type=media)
        return route
    app.add_api_route("/" + name, answer(), methods=["GET", "POST"])
with listen("127.0.0.1", 0) as listening:
    print("port", listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, ws="none")
    uvicorn.Server(config).run(sockets=[listening])
"""


@dataclass
class Case:
    """One request, as it goes over the wire."""

    name: str
    method: str
    path: str
    body: bytes = b""

    def wire(self, path: str) -> bytes:
        """The request, to that path."""
        head = f"{self.method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
        if self.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


class Server:
    """A process that listens, and its processor time."""

    def __init__(self, command: list[str], pattern: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(pattern, line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise SystemExit("a server did not start")
        # what it writes must go somewhere, or it would wait
        self.sink = subprocess.Popen(["cat"], stdin=self.process.stdout, stdout=subprocess.DEVNULL)

    def cpu_seconds(self) -> float:
        """Spent so far, in user and system mode."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, case: Case, path: str) -> bytes:
        """The body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Content-Type": "application/json"} if case.body else {}
        connection.request(case.method, path, case.body or None, given)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {content[:300]!r}")
        connection.close()
        return content

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)
        self.sink.wait(30)


def load(port: int, request: bytes, size: int, seconds: float, connections: int) -> list[float]:
    """Ask for some time; seconds of each request. Every answer has status 200 and that body."""
    selector = selectors.DefaultSelector()
    states: dict[socket.socket, list[Any]] = {}
    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(one, selectors.EVENT_READ)
        states[one] = [time.perf_counter(), 0, 0]  # began, bytes so far, bytes in all
        one.sendall(request)
    times = []
    buffer = bytearray(1 << 20)
    until = time.perf_counter() + seconds
    while states:
        for key, _ in selector.select():
            one: Any = key.fileobj
            state = states[one]
            got = one.recv_into(buffer)
            if state[1] == 0:
                head = bytes(buffer[: min(got, 2048)])
                end = head.find(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200") or end < 0:
                    raise SystemExit(f"unexpected answer {head[:200]!r}")
                state[2] = end + 4 + size
            state[1] += got
            if state[1] < state[2]:
                continue
            if state[1] > state[2]:
                raise SystemExit("an answer is longer than it was")
            now = time.perf_counter()
            times.append(now - state[0])
            if now > until:
                selector.unregister(one)
                one.close()
                del states[one]
            else:
                states[one] = [now, 0, 0]
                one.sendall(request)
    return times


def make_store(folder: Path, width: int, records: int, length: int) -> str:
    """A store of random embeddings of random proteins, and a probe; the recipe's name."""
    import pyarrow as pa
    import torch

    from embedstore import Recipe, create_store, key_of
    from embedstore.backbones.backbone import Embedded
    from embedstore.records import Record
    from embedstore.store.collection import make_table
    from embedstore.store.segment import SegmentWriter
    from probe.heads import TextCNN
    from probe.objective import Objective, Scale
    from probe.saved import save_probe
    from probe.tasks import Task
    from probe.training import TrainingConfig

    rng = np.random.default_rng(0)
    recipe = Recipe(backbone="esm2-8m", view="protein", width=width, weights="sha256:0")
    texts = [
        "M" + "".join(rng.choice(list("ACDEFGHIKLNPQRSTVWY"), length - 1)) for _ in range(records)
    ]
    store = create_store(folder / "bench.store")
    store.write_recipe(recipe)
    rows = [Record(f"p{at}", text, "protein") for at, text in enumerate(texts)]
    store.write_collection("bench", make_table(rows, pa.table({})))
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        for text in texts:
            tokens = rng.standard_normal((length, width)).astype(np.float16)
            mean = tokens.mean(axis=0, dtype=np.float32)[None]
            one = Embedded(tokens, np.array([length]), mean, None, np.ones(1, np.bool_))
            writer.append([key_of(text)], one)
        writer.publish({})
    task = Task(collection="bench", label="y", kind="regression")
    torch.manual_seed(0)
    save_probe(
        folder / "probes" / "bench",
        TextCNN(width, 1),
        recipe=recipe,
        objective=Objective(task=task, classes=(), scale=Scale(0.0, 1.0)),
        split_digest="0" * 32,
        metrics={},
        training=TrainingConfig(),
    )
    return recipe.name


def measure(
    servers: dict[str, Server], case: Case, paths: dict[str, str], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Rounds of every server in turn."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    times: dict[str, list[float]] = {name: [] for name in servers}
    cpu: dict[str, float] = dict.fromkeys(servers, 0.0)
    for turn in range(options.rounds + 1):
        for name, server in servers.items():
            path = paths[name]
            size = len(server.ask(case, path))
            before = server.cpu_seconds()
            seconds = options.seconds if turn else 0.3  # the first only warms up
            found = load(server.port, case.wire(path), size, seconds, options.connections)
            if turn:
                cpu[name] += server.cpu_seconds() - before
                rates[name].append(len(found) / seconds)
                times[name] += found
    return {
        name: {
            "rps": round(statistics.median(rates[name]), 1),
            "p50_ms": round(float(np.percentile(times[name], 50)) * 1e3, 3),
            "p99_ms": round(float(np.percentile(times[name], 99)) * 1e3, 3),
            "cpu_us": round(cpu[name] / len(times[name]) * 1e6, 1),
        }
        for name in servers
    }


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--length", type=int, default=300, help="tokens of a record")
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--only", help="one case by name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as started:
        folder = Path(name)
        make_store(folder, options.width, options.records, options.length)
        ids = [f"p{at}" for at in range(32)]
        predict = "/v1/probes/bench/predict"
        record = "/v1/collections/bench/p7"
        cases = [
            Case("pooled", "GET", f"{record}/mean?backbone=esm2-8m"),
            Case("per_token", "GET", f"{record}/embedding?backbone=esm2-8m"),
            Case("predict_1", "POST", predict, _predict(ids[:1])),
            Case("predict_32", "POST", predict, _predict(ids)),
        ]
        command = [sys.executable, "-c", "from api.cli import app; app()", "serve"]
        command += [str(folder / "bench.store"), "--probes", str(folder / "probes"), "--port", "0"]
        pattern = r"serving .* at http://.*:(\d+)\b"
        ours = Server(command, pattern)
        started.callback(ours.stop)  # whatever happens, no process stays behind
        uncached = Server(command, pattern, EMBEDSTORE_CACHE_BYTES="0")
        started.callback(uncached.stop)
        parts = []
        for case in cases:
            content = ours.ask(case, case.path)
            (folder / case.name).write_bytes(content)
            parts.append(f"{case.name}={folder / case.name}")
        bare = Server([sys.executable, "-c", BARE, *parts], r"port (\d+)")
        started.callback(bare.stop)
        line: dict[str, Any] = {
            "bench": "api",
            "cores": os.cpu_count(),
            "connections": options.connections,
            "bytes": {case.name: (folder / case.name).stat().st_size for case in cases},
        }
        for case in cases:
            if options.only not in (None, case.name):
                continue
            servers = {"ours": ours, "bare": bare}
            paths = {"ours": case.path, "bare": f"/{case.name}", "uncached": case.path}
            if case.method == "GET":
                servers["uncached"] = uncached
            found = measure(servers, case, paths, options)
            entry: dict[str, Any] = dict(found)
            for each in found.keys() - {"bare"}:
                suffix = "" if each == "ours" else f"_{each}"
                of = found[each]["rps"] / found["bare"]["rps"]
                entry[f"of_bare{suffix}"] = round(of, 3)
                cpu = found["bare"]["cpu_us"] / found[each]["cpu_us"]
                entry[f"of_bare_cpu{suffix}"] = round(cpu, 3)
            line[case.name] = entry
            print(f"{case.name}: {json.dumps(entry)}", file=sys.stderr)
    print(json.dumps(line))


def _predict(ids: list[str]) -> bytes:
    return json.dumps({"collection": "bench", "ids": ids}).encode()


if __name__ == "__main__":
    main()
