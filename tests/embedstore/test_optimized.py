"""`python -O`, which drops every assert, changes nothing that a user can see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib, sys
from pathlib import Path
from typer.testing import CliRunner
from embedstore.cli import app

folder = Path(sys.argv[1])
folder.mkdir()
files = {
    "good.csv": "id,sequence\\na,AUGGCCUAA\\nb,AUGGCUUAA\\nc,AUGGC\\n",
    "empty.csv": "id,sequence\\na,\\n",
    "letter.csv": "id,sequence\\na,AUGJCC\\n",
    "twice.csv": "id,sequence\\na,AUG\\na,GUA\\n",
    "column.csv": "id,text\\na,AUG\\n",
    "header.fasta": ">\\nAUG\\n",
    "nothing.fasta": "",
    "table.xlsx": "x",
}
for name, text in files.items():
    (folder / name).write_text(text)

def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    said = (result.stdout + result.stderr).replace(str(folder), "FOLDER")
    kept = [line for line in said.splitlines() if "seconds" not in line and "share" not in line]
    kept = [line for line in kept if "failures_file" not in line and "second" not in line]
    print(result.exit_code, type(result.exception).__name__, *kept, sep="\\n")

store = folder / "s"
for name in files:
    for backbone in ("one-hot-protein", "codon-composition", "nope"):
        run("build", folder / name, "--store", store, "--backbone", backbone, "--molecule", "mrna")
run("build", folder / "good.csv", "--store", store, "--backbone", "one-hot-protein", "--strict")
run("get", store, "a", "--backbone", "one-hot-protein", "-o", folder / "a.npy")
run("get", store, "zzz", "--backbone", "one-hot-protein", "-o", folder / "z.npy")
run("missing", store, "--backbone", "one-hot-protein")
for shard in sorted(store.rglob("tokens/c/0/0")):
    print(hashlib.sha256(shard.read_bytes()).hexdigest())
print("asserts", "on" if __debug__ else "off", file=sys.stderr)
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *options, "-c", SCRIPT, str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=True)


def test_python_with_asserts_off_says_and_stores_the_same(tmp_path):
    plain, optimized = run(tmp_path / "plain"), run(tmp_path / "optimized", "-O")
    assert "asserts on" in plain.stderr
    assert "asserts off" in optimized.stderr
    assert plain.stdout.count("\n") > 60
    assert plain.stdout == optimized.stdout
