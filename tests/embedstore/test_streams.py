"""Standard input and pipes are inputs, read once."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.cli import app
from embedstore.errors import BadInput
from embedstore.records import read_records

CSV = b"id,sequence,y\na,ATGGCTAAATAA,1\nb,ATGTAA,2\n"


def as_parquet():
    sink = io.BytesIO()
    parquet.write_table(pa.table({"id": ["a", "b"], "sequence": ["ATG", "GGC"]}), sink)
    return sink.getvalue()


CONTENTS = {
    "csv": CSV,
    "tsv": CSV.replace(b",", b"\t"),
    "jsonl": b'\n{"id": "a", "sequence": "ATG"}\n{"id": "b", "sequence": "GGC"}\n',
    "fasta": b">a\nATG\n>b\nGGC\n",
    "parquet": as_parquet(),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_every_format_comes_through_standard_input(kind, zipped, said, name, tmp_path):
    content = gzip.compress(CONTENTS[kind]) if zipped else CONTENTS[kind]
    words = ["build", name, "--store", tmp_path / "s", "--backbone", "one-hot-dna,one-hot-mrna"]
    words += ["--name", "c", *(["--format", kind] if said else [])]
    done = CliRunner().invoke(app, [str(word) for word in words], input=content)
    assert done.exit_code == 0, done.output
    assert open_store(tmp_path / "s").collection("c").ids == ["a", "b"]


def test_a_real_pipe_is_read(tmp_path):
    code = "from embedstore.cli import app; app()"
    words = ["build", "/dev/stdin", "--store", tmp_path / "s", "--backbone", "one-hot-mrna"]
    words += ["--name", "c", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], input=CSV, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["records"] == 2


def test_errors_of_a_stream_name_its_rows_without_reading_it_again(monkeypatch):
    class Once(io.BytesIO):
        def isatty(self):
            return False

    for content, said in (
        (CSV.replace(b"ATGTAA", b"ATG!"), "standard input, row 2 below the header, id 'b'"),
        (CSV + "é,ATG,1\n".encode("cp1252"), "standard input, line 4 of the file: not UTF-8"),
        (gzip.compress(CSV)[:-9], "standard input cannot be unzipped"),
        (b"", "standard input is empty"),
        (CSV.replace(b",", b";"), "separated by semicolons"),
    ):
        stream = io.TextIOWrapper(Once(content))
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(BadInput, match=said):
            read_records(Path("-"))


def test_a_stream_needs_a_name_for_its_collection(tmp_path):
    words = ["build", "-", "--store", str(tmp_path / "s"), "--backbone", "one-hot-mrna"]
    done = CliRunner().invoke(app, words, input=CSV)
    assert done.exit_code == 1 and "--name" in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["genes.csv", "genes.csv.gz", "genes"])
def test_a_named_pipe_is_read_once(name, tmp_path):
    path = tmp_path / name
    os.mkfifo(path)
    content = gzip.compress(CSV) if name.endswith("gz") else CSV
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    found = read_records(path)
    writer.join(10)
    assert not writer.is_alive()
    assert [row.id for row in found.rows] == ["a", "b"]


def test_devices_folders_and_terminals_are_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="'/dev/null' is a device"):
        read_records(Path("/dev/null"))
    with pytest.raises(BadInput, match="is a folder"):
        read_records(tmp_path, format="csv")
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(BadInput, match="is a terminal"):
        read_records(Path("-"))


def test_a_format_that_the_name_does_not_tell_can_be_said(tmp_path):
    path = tmp_path / "genes.txt"
    path.write_bytes(CSV.replace(b",", b"\t"))
    assert len(read_records(path, format="tsv").rows) == 2
    with pytest.raises(BadInput, match="--format"):
        read_records(path)
    (tmp_path / "x.fa").write_bytes(CONTENTS["fasta"])
    with pytest.raises(BadInput, match="read as fasta, which has no separator"):
        read_records(tmp_path / "x.fa", delimiter=";")
