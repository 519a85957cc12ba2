"""`data fetch`: from a folder or over the network to a table that a build reads, or one error."""

import hashlib
import json
import shlex
import sys
import urllib.request
from dataclasses import replace

import pyarrow.parquet as parquet
import pytest
import typer
from typer.testing import CliRunner

from api.cli import app
from embedstore import open_store
from embedstore.datasets import DATA_SETS, commands
from embedstore.datasets.entry import Form, Part, Preset, Target
from embedstore.records import read_records
from probe.cli import app as probe_app

GENES = ["ATGGCTAAATAA", "ATGGCAAAATAA", "ATGGCTAAATAA", "ATGCCCAAATAA", "GCTAAATAA"]
CSV = "gene_id,coding,decay_rate\n" + "".join(
    f"g{number},{gene},{number / 2}\n" for number, gene in enumerate(GENES)
)


def form_of(content, name, url=None):
    return Form(name=name, checksum=f"sha256:{hashlib.sha256(content).hexdigest()}", url=url)


def run(*arguments, app=app):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def no_folder_in_the_environment(monkeypatch):
    monkeypatch.delenv("EMBEDSTORE_DATA", raising=False)


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach a server fails the test."""

    def refuse(*values, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def register(monkeypatch):
    """Register a small set under the name of a real one."""

    def put(form, name="icodon-test", **changes):
        entry = replace(DATA_SETS[name], parts=(Part(forms=(form,)),), **changes)
        monkeypatch.setitem(DATA_SETS, name, entry)
        return entry

    return put


@pytest.fixture
def small(register):
    """Five rows: two share a sequence, one is no coding sequence."""
    return register(form_of(CSV.encode(), "genes.csv", "https://nowhere.invalid/far/theirs.csv"))


def test_a_table_from_a_folder_needs_no_network_and_says_what_was_done(small, offline, tmp_path):
    (tmp_path / "icodon_stability").mkdir()
    (tmp_path / "icodon_stability" / "genes.csv").write_text(CSV)
    out = tmp_path / "out"
    done = run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", out)
    assert done.exit_code == 0, done.output
    assert "Licence: MIT (S. G. Medina-Muñoz). Keep the copyright notice" in done.stderr
    assert "1 no coding sequence: no-start-codon; 4 left" in done.stderr
    assert "1 averaged into the row of the same sequence; 3 left" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "icodon-test.json",
        "icodon-test.parquet",
    ]
    table = parquet.read_table(out / "icodon-test.parquet")
    assert table.to_pylist() == [
        row | {"molecule": "mrna"}
        for row in (
            {"id": "g0;g2", "sequence": "AUGGCUAAAUAA", "decay_rate": 0.5, "rows_averaged": 2},
            {"id": "g1", "sequence": "AUGGCAAAAUAA", "decay_rate": 0.5, "rows_averaged": 1},
            {"id": "g3", "sequence": "AUGCCCAAAUAA", "decay_rate": 1.5, "rows_averaged": 1},
        )
    ]
    document = json.loads((out / "icodon-test.json").read_text())
    assert document["rows_in"] == 5 and document["rows"] == 3
    assert document["rows_in"] - sum(step["dropped"] for step in document["steps"]) == 3
    assert document["licence"]["name"].startswith("MIT")
    assert document["files"][0]["checksum"] == small.parts[0].forms[0].checksum
    assert document["preset"] == {"coding": True, "max_nt": 1000, "average": True, "keep": None}
    digest = hashlib.sha256((out / "icodon-test.parquet").read_bytes()).hexdigest()
    assert document["table"]["checksum"] == f"sha256:{digest}"


def test_the_same_fetch_writes_the_same_bytes(small, offline, tmp_path):
    (tmp_path / "genes.csv").write_text(CSV)
    files = []
    for out in (tmp_path / "a", tmp_path / "b"):
        assert run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", out).exit_code == 0
        files.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert len(files[0]) == 2 and files[0] == files[1]


def test_the_printed_commands_build_and_are_understood(small, offline, tmp_path):
    (tmp_path / "genes.csv").write_text(CSV)
    done = run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", tmp_path / "o u t")
    build, grid = map(shlex.split, done.stdout.splitlines())
    assert build[:2] == ["embedstore", "build"] and grid[:2] == ["probe", "grid"]
    built = run(*build[1:])
    assert built.exit_code == 0, built.output
    assert len(open_store(tmp_path / "o u t" / "icodon-test.store").collection("icodon-test")) == 3
    probed = run(*grid[1:], app=probe_app)
    assert probed.exit_code == 1 and probed.stderr.startswith("error: "), probed.output
    assert "rows" in probed.stderr  # understood, and refused: three are too few to split


@pytest.mark.parametrize("entry", DATA_SETS.values(), ids=lambda entry: entry.name)
def test_the_commands_of_every_set_parse_and_pass_its_task_on(entry, tmp_path):
    lines = [shlex.split(line) for line in commands(entry, tmp_path / f"{entry.name}.parquet")]
    assert [words[0] for words in lines] == ["embedstore", "probe"]
    found = {}
    for words in lines:
        group = typer.main.get_command(app if words[0] == "embedstore" else probe_app)
        command = group.commands[words[1]]
        (tmp_path / f"{entry.name}.parquet").touch()
        found |= command.make_context(words[1], words[2:]).params
    assert found["label"] == entry.target.label
    assert found["min_label"] == entry.target.min_label
    assert found["transform"] == entry.target.transform
    assert found["collection"] == found["name"] == entry.name
    told = entry.target.classes or entry.target.kind == "per-position"
    assert found["kind"] == (entry.target.kind if told else None)
    plain = "random-plain" if entry.target.kind == "classification" else "random"
    assert found["split"] == (f"column:{entry.split}" if entry.split else plain)


def test_the_folder_of_the_environment_serves_without_network(
    small, offline, tmp_path, monkeypatch
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "theirs.csv").write_text(CSV)  # under the name the source gives it
    monkeypatch.setenv("EMBEDSTORE_DATA", str(tmp_path / "data"))
    done = run("data", "fetch", "icodon-test", "-o", tmp_path / "x.parquet")
    assert done.exit_code == 0, done.output
    assert len(read_records(tmp_path / "x.parquet").rows) == 3
    listed = {row["name"]: row for row in json.loads(run("data", "ls", "--json").stdout)}
    assert listed["icodon-test"]["at hand"] and not listed["mrfp"]["at hand"]


def test_a_folder_without_the_file_is_an_error_and_not_a_download(small, offline, tmp_path):
    done = run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "has no file genes.csv or theirs.csv" in done.stderr
    assert "https://nowhere.invalid/far/theirs.csv" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_local_file_with_other_bytes_is_refused_and_an_older_table_stays(small, tmp_path):
    (tmp_path / "genes.csv").write_text(CSV)
    out = tmp_path / "x.parquet"
    assert run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", out).exit_code == 0
    before = out.read_bytes(), out.with_suffix(".json").read_bytes()
    (tmp_path / "genes.csv").write_text(CSV + "g9,ATGTAA,1\n")
    done = run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", out)
    assert done.exit_code == 1
    assert small.parts[0].forms[0].checksum in done.stderr and ", found sha256:" in done.stderr
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == before
    assert (tmp_path / "genes.csv").exists()  # the user's own file is not ours to remove


def test_what_is_not_at_hand_is_downloaded_once(register, server, tmp_path):
    server.content = CSV.encode()
    register(server.form(name="genes.csv"))
    out = tmp_path / "out"
    for _ in range(2):
        done = run("data", "fetch", "icodon-test", "-o", out)
        assert done.exit_code == 0, done.output
    assert len(server.asked) == 1
    assert (out / "genes.csv").read_text() == CSV
    assert len(read_records(out / "icodon-test.parquet").rows) == 3


def test_a_download_with_wrong_bytes_leaves_neither_file_nor_table(register, server, tmp_path):
    server.content = b"something else"
    register(server.form(CSV.encode(), name="genes.csv"))
    done = run("data", "fetch", "icodon-test", "-o", tmp_path / "out")
    assert done.exit_code == 1 and done.stderr.count("sha256:") == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_a_licence_to_accept_is_asked_for_before_anything_is_read(register, server, tmp_path):
    server.content = b"Sequence,Value,Dataset,Split\n" + b"ATGGCTAAATAA,1.5,F,train\n" * 3
    register(server.form(name="f.csv"), name="fungal-expression")
    out = tmp_path / "out"
    done = run("data", "fetch", "fungal-expression", "-o", out)
    assert done.exit_code == 1
    assert "no commercial use" in done.stderr and "--accept-licence" in done.stderr
    assert "ARTIFACT_LICENSE.md" in done.stderr
    assert server.asked == [] and not out.exists()
    done = run("data", "fetch", "fungal-expression", "-o", out, "--accept-licence")
    assert done.exit_code == 0, done.output
    assert "Licence: academic, non-commercial" in done.stderr
    records = read_records(out / "fungal-expression.parquet")
    assert [row.id for row in records.rows] == ["row-1", "row-2", "row-3"]  # not averaged
    assert records.labels.column_names == ["Value", "Dataset", "Split"]


def test_raw_files_are_checked_and_copied_as_they_are(small, offline, tmp_path):
    (tmp_path / "genes.csv").write_text(CSV)
    done = run(
        "data", "fetch", "icodon-test", "--from", tmp_path, "--raw", "-o", tmp_path / "r", "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [str(tmp_path / "r" / "genes.csv")]
    assert (tmp_path / "r" / "genes.csv").read_text() == CSV
    document = json.loads((tmp_path / "r" / "icodon-test.raw.json").read_text())
    assert document["licence"]["name"].startswith("MIT")


def test_a_longest_sequence_may_be_given(small, offline, tmp_path):
    (tmp_path / "genes.csv").write_text(CSV)
    options = ["--from", tmp_path, "-o", tmp_path / "x.parquet", "--json", "--max-nt"]
    done = run("data", "fetch", "icodon-test", *options, 12)
    assert json.loads(done.stdout)["preset"]["max_nt"] == 12
    done = run("data", "fetch", "icodon-test", *options, 11)
    assert done.exit_code == 1 and "No row of icodon-test is left" in done.stderr


def test_lists_of_positions_and_parts_of_the_authors_reach_the_collection(
    monkeypatch, offline, tmp_path
):
    rows = [
        {"id": f"r{n}", "sequence": "GGAAAGG", "SN_filter": n % 2, "deg_Mg_50C": [n, 0.5]}
        for n in range(4)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(content.replace(b'"r', b'"s'))
    entry = replace(
        DATA_SETS["openvaccine"],
        parts=tuple(
            Part(name=part, forms=(form_of((tmp_path / name).read_bytes(), name),))
            for part, name in (("train", "a.jsonl"), ("test", "b.jsonl"))
        ),
        split="part",
        preset=Preset(coding=False, max_nt=None, keep=("SN_filter", 1)),
        target=Target(label="deg_Mg_50C", kind="per-position"),
    )
    monkeypatch.setitem(DATA_SETS, "openvaccine", entry)
    done = run("data", "fetch", "openvaccine", "--from", tmp_path, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert run(*shlex.split(done.stdout.splitlines()[0])[1:]).exit_code == 0
    table = open_store(tmp_path / "openvaccine.store").collection("openvaccine").table
    assert table.column("id").to_pylist() == ["r1", "r3", "s1", "s3"]
    assert table.column("part").to_pylist() == ["train", "train", "test", "test"]
    assert table.column("deg_Mg_50C").to_pylist() == [[1, 0.5], [3, 0.5]] * 2


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.csv.gz"])
def test_a_table_goes_to_parquet_alone(name, small, offline, tmp_path):
    done = run("data", "fetch", "icodon-test", "--from", tmp_path, "-o", tmp_path / name)
    assert done.exit_code == 1 and "folder or a .parquet file" in done.stderr


def test_what_cannot_be_downloaded_says_so(offline, tmp_path):
    done = run("data", "fetch", "yeast-expression", "-o", tmp_path)
    assert done.exit_code == 1
    assert "cannot be downloaded" in done.stderr and "--from" in done.stderr


def test_show_says_files_licence_and_preset():
    done = run("data", "show", "ecoli-six-classes")
    for text in ("7e32a22549f4565a", "Boël et al. 2016", "classification of E, scored by accuracy"):
        assert text in done.stdout
    values = json.loads(run("data", "show", "mrna-stability", "--json").stdout)
    assert values["licence"]["must_accept"] and values["preset"]["max_nt"] == 1000
    assert run("data", "show", "nothing").exit_code == 1


def test_listing_needs_no_optional_package(monkeypatch):
    for package in ("openpyxl", "rdata", "pandas"):
        monkeypatch.setitem(sys.modules, package, None)
    done = run("data", "ls")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 1 + len(DATA_SETS)


# name: rows read, rows left, what is dropped by reason
REAL = {
    "openvaccine": (4082, 4082, {}),
    # 1,081 different sequences of at most 1,000 nt begin with AUG and end with a stop; 6 of them
    # have another stop inside, which the paper's rule forbids
    "icodon-test": (7576, 1075, {"inner-stop-codon": 14, "no-start-codon": 114}),
    "yeast-expression": (6600, 3100, {"inner-stop-codon": 16, "no-start-codon": 10}),
    "mrfp": (1459, 1459, {}),
    "ecoli-abundance": (3627, 2013, {"no-start-codon": 424, "no-stop-codon": 4}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_have_the_registered_checksums_and_counts(name, data_folder, offline, tmp_path):
    done = run("data", "fetch", name, "--from", data_folder, "-o", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    read, left, dropped = REAL[name]
    assert (document["rows_in"], document["rows"]) == (read, left)
    assert read == DATA_SETS[name].rows
    assert read - sum(step["dropped"] for step in document["steps"]) == left
    steps = {step["what"].split(": ")[-1]: step["dropped"] for step in document["steps"]}
    assert {reason: steps[reason] for reason in dropped} == dropped
    records = read_records(tmp_path / f"{name}.parquet")
    assert len(records.rows) == left and records.repeated == 0
    labels = DATA_SETS[name].target.label, *DATA_SETS[name].other_labels
    assert set(labels) <= set(records.labels.column_names)


def test_icodon_has_1081_sequences_of_1000_nt_where_inner_stops_pass(data_folder):
    rows = read_records(
        data_folder / "icodon_stability/icodon_test.csv.gz",
        molecule="mrna",
        sequence_column="coding",
    ).rows
    short = {row.sequence for row in rows if len(row.sequence) <= 1000}
    ends = ("UAA", "UAG", "UGA")
    whole = {s for s in short if s.startswith("AUG") and s.endswith(ends) and len(s) % 3 == 0}
    inner = {s for s in whole if any(s[at : at + 3] in ends for at in range(0, len(s) - 3, 3))}
    assert (len(whole), len(inner), len(whole - inner)) == (1081, 6, 1075)
