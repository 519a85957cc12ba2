"""Latency of /health, and memory, while one stranger misuses the connection in several ways.

Starts `embedstore serve` on loopback and asks for /health in turn with each attack: a header that
never ends, a body that goes on after it was refused, and many requests whose header never comes.
Prints one JSON line: milliseconds (median, largest), MB that the server grew by, MB it took in.

    python scripts/bench_header_flood.py --seconds 5
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEY = "flood-key"
BLOCK = b"a" * 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--connections", type=int, default=800, help="of the third attack")
    options = parser.parse_args()
    result = {"quiet": measure(lambda port, ends, sent: None, options.seconds)}
    for attack in (endless_header, body_after_refusal):
        result[attack.__name__] = measure(attack, options.seconds)

    def half_sent(port: int, ends: float, sent: list[int]) -> None:
        half_sent_headers(port, ends, sent, options.connections)

    result["half_sent_headers"] = measure(half_sent, options.seconds)
    print(json.dumps(result))


def endless_header(port: int, ends: float, sent: list[int]) -> None:
    """One connection without a key that never ends its header."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\nX-Long: ")
        push(stranger, ends, sent)


def body_after_refusal(port: int, ends: float, sent: list[int]) -> None:
    """One request whose body is too large, sent on after the refusal."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        stranger.sendall(head.encode() + b"Content-Length: 999999999999\r\n\r\n")
        push(stranger, ends, sent)


def half_sent_headers(port: int, ends: float, sent: list[int], connections: int) -> None:
    """Many connections that begin a header and send one byte a second."""
    held: list[socket.socket] = []
    try:
        for _ in range(connections):
            with suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                held[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
        while time.monotonic() < ends:
            for each in held:
                with suppress(OSError):
                    sent[0] += each.send(b"a")
            time.sleep(min(1.0, max(0.0, ends - time.monotonic())))
    finally:
        for each in held:
            each.close()


def push(stranger: socket.socket, ends: float, sent: list[int]) -> None:
    """Send as fast as the server takes it."""
    while time.monotonic() < ends:
        sent[0] += stranger.send(BLOCK)


def measure(attack: Callable[[int, float, list[int]], None], seconds: float) -> dict[str, float]:
    """Ask for /health all the while."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (process, port):
        ask(port)
        before, sent = resident(process.pid), [0]
        ends = time.monotonic() + seconds
        stranger = threading.Thread(target=attack, args=(port, ends, sent), daemon=True)
        stranger.start()
        took, failed = [], 0
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                ask(port)
            except OSError:
                failed += 1
            took.append(1000 * (time.monotonic() - began))
            time.sleep(0.005)
        grown = resident(process.pid) - before
        stranger.join(10)
    return {
        "median_ms": round(statistics.median(took), 2),
        "largest_ms": round(max(took), 1),
        "asked": len(took),
        "failed": failed,
        "grown_mb": round(grown, 1),
        "taken_in_mb": round(sent[0] / 1e6, 1),
    }


def ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/health")
        if connection.getresponse().status != 200:
            raise OSError("not answered")
    finally:
        connection.close()


def resident(pid: int) -> float:
    """MB of memory in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1e3


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    (folder / "x.fasta").write_text(">a\nAUGGCCUAA\n")
    run = [sys.executable, "-c", "from api.cli import app; app()"]
    store = str(folder / "x.store")
    words = ["build", str(folder / "x.fasta"), "--store", store, "--backbone", "one-hot-mrna"]
    subprocess.run([*run, *words, "--molecule", "mrna"], check=True, capture_output=True)
    process = subprocess.Popen(
        [*run, "serve", store, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EMBEDSTORE_API_KEYS": KEY},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving .* at http://.*:(\d+)\b", line):
                # read on: a full pipe would stop the server
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield process, int(found[1])
                return
        raise SystemExit("the server did not start")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
