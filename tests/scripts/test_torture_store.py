"""A damaged store gives errors that name the damage, or right numbers; the harness sees the rest.

The sample is seeded and small; `scripts/torture_store.py --seconds 3600` is the long form. It runs
in processes of its own, as its workers are forked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
SCRIPT = SCRIPTS / "torture_store.py"

FAKES = """
import ctypes, json, os, sys, tempfile, time
from pathlib import Path

import torture_store
from torture.damages import Damage, damages, ON_DISK
from torture.judging import Item, Said
from torture.places import OnDisk, Sandbox
from torture.samples import Sample

root = Path(sys.argv[1]).resolve()
sandbox = Sandbox(root)
names = ("collections/genes.json", "recipes/r/segments/s/keys/c/0")
for name in names:
    path = sandbox.folder / "store" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"right")
broken = lambda scene: [p for n in names if (p := Path(scene.store, n)).is_symlink() or
                        not p.is_file() or p.read_bytes() != b"right"]

def operation(failing):
    def run(scene):
        wrong = broken(scene)
        if wrong:
            found = failing(scene, wrong[0])
            if isinstance(found, Said):
                return found
        return Said({"number": Item("right", number=True)})
    return run

def wrong_number(scene, path):
    return Said({"number": Item("other", number=True)})

def more_numbers(scene, path):
    return Said({"number": Item("right", number=True), "another": Item("right")})

def hidden(scene, path):
    return Said()

def unnamed(scene, path):
    return Said({"number": Item(None, "something is damaged")})

def named(scene, path):
    return Said({"number": Item(None, f"{path} is damaged")})

def denied(scene, path):
    return Said({"number": Item(None, f"no {path}", "missing-embedding")})

def outside(scene, path):
    (sandbox.folder / "evilrc").write_text("x")

def outside_by_system(scene, path):
    ctypes.CDLL(None).mkdir(os.fsencode(sandbox.home / "evil"), 0o700)

def elsewhere(scene, path):
    with tempfile.TemporaryFile(dir="/var/tmp"):
        pass

def follow(scene, path):
    if path.is_symlink():
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

def memory(scene, path):
    b"x" * (600 << 20)

def address_space(scene, path):
    import numpy
    numpy.empty(15 << 30, numpy.uint8)

fakes = {
    "traceback": lambda scene, path: {}["crc32c"],
    "hang": lambda scene, path: time.sleep(60),
    "pipe": lambda scene, path: path.is_fifo() and open(path).close(),
    "busy": lambda scene, path: [None for _ in iter(int, 1)],
    "segfault": lambda scene, path: ctypes.string_at(0),
    "exit": lambda scene, path: os._exit(3),
    **{each.__name__: each for each in (wrong_number, more_numbers, hidden, unnamed, named, denied,
       outside, outside_by_system, elsewhere, follow, memory, address_space)},
    "verify": lambda scene, path: None,
    "right": lambda scene, path: None,
}
fakes = {name: operation(failing) for name, failing in fakes.items()}
harness = torture_store.Harness(OnDisk(sandbox), sandbox, fakes)
WAITING = ("hang", "pipe", "busy")
harness.make(lambda: Sample({}, {}, [], {}, {}, "", []))
for kind in ("flip", "link", "device", "fifo"):
    path = names[kind != "flip"]
    for name in fakes:
        if kind == "flip" or name in ("follow", "pipe"):
            harness.deadline = 0.3 if name in WAITING else 30
            harness.close()
            harness.operations = {name: fakes[name]}
            harness.try_out(Damage(kind, f"store/{path}"))
harness.close()
outcomes = {}
for (_, kind, name, outcome) in harness.tried:
    outcomes.setdefault(f"{kind} {name}", outcome)
print(json.dumps(outcomes))
"""

SEEN = {
    "traceback": "traceback",
    "hang": "hang",
    "pipe": "right",
    "busy": "hang",
    "segfault": "death",
    "exit": "death",
    "wrong_number": "wrong number",
    "more_numbers": "wrong number",
    "hidden": "silently left out",
    "unnamed": "unnamed error",
    "named": "named",
    "denied": "denied",
    "outside": "written outside",
    "outside_by_system": "written outside",
    "elsewhere": "written outside",
    "follow": "right",
    "memory": "memory",
    "address_space": "memory",
    "verify": "missed by verify",
    "right": "right",
}
"""What the harness has to call each operation that fails on a flipped bit, on purpose."""
ON_OTHERS = {
    "link follow": "read outside",
    "device follow": "read outside",
    "fifo follow": "right",
    "link pipe": "right",
    "device pipe": "right",
    "fifo pipe": "hang",
}


def test_the_harness_sees_every_kind_of_failure(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS}:{SCRIPTS.parent}"}
    words = [sys.executable, "-c", FAKES, tmp_path / "sandbox"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert seen == {f"flip {name}": outcome for name, outcome in SEEN.items()} | ON_OTHERS


def test_a_failure_can_be_repeated_from_its_line():
    torture = pytest.importorskip("torture.damages")
    files = {"store/store.json": b'{"format": 1}', "store/collections/a.json": b'{"rows": [1, 2]}'}
    found = torture.damages(files, torture.ON_DISK, share=1.0, seed=3)
    assert found == torture.damages(files, torture.ON_DISK, share=1.0, seed=3)
    assert {each.kind for each in found} == set(torture.ON_DISK) - {"other", "swap"}
    flips = {(each.path, each.at) for each in found if each.kind == "flip"}
    assert flips == {(path, at) for path, content in files.items() for at in range(len(content))}
    edits = {torture.changed(each, files) for each in found if each.kind == "edit"}
    assert len(edits) > 50 and b"evilrc" in b"".join(each for each in edits if each)
    for each in found:
        assert torture.Damage(**json.loads(json.dumps(each.as_json()))) == each


def test_a_damaged_store_gives_an_error_that_names_it_or_right_numbers():
    """One process over a disk and one over a bucket behind a proxy that fails, side by side."""
    common = [sys.executable, "-W", "ignore", str(SCRIPT), "--seed", "12", "--genes", "8"]
    runs = [
        [*common, "--most", "6", "--operations", "get,verify,repair,merge,info"],
        [*common, "--most", "1", "--operations", "get,verify", "--bucket"],
    ]
    started = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words in runs
    ]
    for process in started:
        printed, errors = process.communicate(timeout=300)
        assert process.returncode in (0, 1), errors[-2000:]
        counts = json.loads(printed)
        assert counts["cases"] > 0 and counts["files"] > 50
        assert counts["failures"] == 0, errors[-4000:]
        assert process.returncode == 0
