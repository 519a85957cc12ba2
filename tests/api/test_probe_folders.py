"""What `--probes` may name, and what a server makes of probes that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
from urllib.parse import quote

import httpx
import numpy as np
import pytest

import api.shelf
from api.client import Client
from embedstore.documents import seal

SEQUENCE = {"sequences": [{"sequence": "AUGGCUUAA"}]}
BOTH = ["halflife", "protein-side"]


def listed(client):
    """Names of the probes that are served, and problems of the others by name."""
    answer = client.get("/v1/probes")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    damaged = {each["name"]: each["problem"] for each in found["damaged"]}
    info = client.get("/info").json()
    served = [each["name"] for each in found["probes"]]
    assert info["probes"] == served
    assert {each["name"]: each["problem"] for each in info["damaged"]} == damaged
    assert client.get("/ready").status_code == client.get("/v1/models").status_code == 200
    return served, damaged


def assert_predicts(client, name):
    answer = client.post(f"/v1/probes/{name}/predict", json=SEQUENCE)
    assert answer.status_code == 200, answer.text
    assert "prediction" in answer.json()["predictions"][0]


@pytest.fixture
def runs(shared_probes, tmp_path, results_of):
    """A folder of two runs: `first` and `second`."""
    for name in ("first", "second"):
        shutil.copytree(shared_probes, tmp_path / "runs" / name / "probes")
        found = {"intervals": {"halflife": [0.25, 0.75]}}
        text = json.dumps(results_of(found, {"halflife": {}}))
        (tmp_path / "runs" / name / "results.json").write_text(text)
    return tmp_path / "runs"


def test_a_run_a_folder_of_runs_and_a_single_probe_are_served(serve, shared_store, runs):
    of_run = serve(store=shared_store.folder, probes=runs / "first")
    assert listed(of_run) == (BOTH, {})
    one = serve(store=shared_store.folder, probes=runs / "first" / "probes" / "halflife")
    assert listed(one) == (["halflife"], {})
    assert_predicts(one, "halflife")
    several = serve(store=shared_store.folder, probes=runs)
    names = [f"{run}:{name}" for run in ("first", "second") for name in BOTH]
    assert listed(several) == (names, {})
    for name in names:
        assert_predicts(several, name)
    assert several.get("/v1/probes").json()["probes"][0]["interval"]["low"] == 0.25
    tested = several.get("/v1/probes/second:halflife/predictions").json()
    assert (tested["probe"], tested["interval"]) == ("second:halflife", [0.25, 0.75])


def test_names_stay_when_a_run_is_added_and_a_sweep_is_a_folder_of_runs(
    serve, shared_store, shared_probes, runs
):
    shutil.rmtree(runs / "second")
    (runs / "sweep.json").write_text("{}")  # says nothing of the probes that there are
    (runs / "sweep.yaml").write_text("")
    shutil.copytree(shared_probes, runs / ".third.draft" / "probes")  # not finished
    client = serve(store=shared_store.folder, probes=runs)
    first = [f"first:{name}" for name in BOTH]
    assert listed(client) == (first, {})
    (runs / ".third.draft").rename(runs / "genes.textcnn.random")
    names = [*first, *(f"genes.textcnn.random:{name}" for name in BOTH)]
    assert listed(client) == (names, {})
    assert_predicts(client, names[-1])


def test_two_probes_of_one_name_are_neither_of_them(serve, shared_store, shared_probes, tmp_path):
    one = shared_probes / "halflife"
    shutil.copytree(one, tmp_path / "p" / "a:b" / "probes" / "c")
    shutil.copytree(one, tmp_path / "p" / "a" / "probes" / "b:c")
    shutil.copytree(one, tmp_path / "p" / "fine")
    names, damaged = listed(serve(store=shared_store.folder, probes=tmp_path / "p"))
    assert names == ["fine"]
    assert "two probes" in damaged["a:b:c"]


@pytest.mark.parametrize(
    ("file", "field", "value", "said"),
    [
        ("probe.json", "metrics", "x", "'metrics' is 'x'"),
        ("probe.json", "scale", {"mean": 0.0, "std": "1"}, "std"),
        ("probe.json", "scale", {"mean": 0.0, "std": True}, "std"),
        ("probe.json", "scale", {"mean": 1e999, "std": 1.0}, "probe.json"),
        ("probe.json", "classes", [1], "classes"),
        ("probe.json", "head", {"kind": "nothing"}, "head"),
        ("probe.json", "head", {"kind": "ridge", "width": 10**9, "outputs": 1}, "width"),
        ("probe.json", "head", {"kind": "ridge", "width": 4, "outputs": 1}, "proj|centre|fc"),
        ("probe.json", "task", {"kind": 1}, "task"),
        ("probe.json", "recipe", {"width": -1}, "recipe|its field"),
    ],
)
def test_a_bad_field_of_one_probe_is_named_and_the_others_are_served(
    serve, shared_store, probes, file, field, value, said
):
    path = probes / "halflife" / file
    document = json.loads(path.read_text()) | {field: value}
    text = json.dumps(document if value == {"mean": 1e999, "std": 1.0} else seal(document))
    path.write_text(text)
    client = serve(store=shared_store.folder, probes=probes)
    names, damaged = listed(client)
    assert names == ["protein-side"] and list(damaged) == ["halflife"]
    assert any(each in damaged["halflife"] for each in said.split("|")), damaged
    assert str(probes) not in json.dumps(damaged)
    answer = client.post("/v1/probes/halflife/predict", json=SEQUENCE)
    assert (answer.status_code, answer.json()["code"]) == (500, "damaged-probe")
    assert_predicts(client, "protein-side")


@pytest.mark.parametrize("file", ["probe.json", "head.safetensors"])
@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "link out", "another", "empty"])
def test_whatever_stands_in_a_probe_the_others_are_served(
    serve, shared_store, probes, tmp_path, file, what
):
    path = probes / "halflife" / file
    path.rename(tmp_path / "elsewhere")
    match what:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link out":
            path.symlink_to(tmp_path / "elsewhere")
        case "another":
            shutil.copy(probes / "protein-side" / file, path)
        case "empty":
            path.touch()
    client = serve(store=shared_store.folder, probes=probes)
    names, damaged = listed(client)
    if (file, what) == ("probe.json", "another"):  # whose digest is of another head
        assert "head.safetensors" in damaged["halflife"]
    assert names == ["protein-side"]
    assert file in damaged["halflife"] or what == "another"
    assert str(tmp_path) not in damaged["halflife"]


def test_any_flipped_bit_is_listed_as_damage_or_changes_nothing(serve, shared_store, probes):
    client = serve(store=shared_store.folder, probes=probes)
    whole = client.get("/v1/probes").json()
    rng = np.random.default_rng(0)
    for file in ("probe.json", "head.safetensors"):
        path = probes / "halflife" / file
        content = path.read_bytes()
        for at in rng.integers(len(content), size=25).tolist():
            bad = bytearray(content)
            bad[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            found = client.get("/v1/probes").json()
            assert found == whole or [each["name"] for each in found["damaged"]] == ["halflife"]
            assert "protein-side" in [each["name"] for each in found["probes"]]
        path.write_bytes(content)
    assert client.get("/v1/probes").json() == whole


@pytest.mark.parametrize("name", ["new\nline", "\x1b[31m", "\udcff\udcfe"])
def test_a_folder_whose_name_cannot_be_shown_breaks_no_list(serve, shared_store, probes, name):
    shutil.copytree(probes / "halflife", probes / name)
    shutil.copytree(probes / "halflife", probes / "gène 50% ?#&")
    client = serve(store=shared_store.folder, probes=probes)
    names, damaged = listed(client)
    assert names == ["gène 50% ?#&", *BOTH]
    ((shown, problem),) = damaged.items()
    assert shown.isprintable() and "name that cannot be shown" in problem
    assert_predicts(client, quote(names[0]))


def test_links_out_of_the_folder_are_named_not_followed(
    serve, shared_store, shared_probes, probes, runs, tmp_path
):
    (probes / "elsewhere").symlink_to(shared_probes / "halflife")
    (probes / "within").symlink_to(probes / "halflife")
    client = serve(store=shared_store.folder, probes=probes)
    names, damaged = listed(client)
    assert names == [*BOTH, "within"]
    assert "link" in damaged["elsewhere"]
    (runs / "third").symlink_to(shutil.copytree(runs / "second", tmp_path / "outside"))
    names, damaged = listed(serve(store=shared_store.folder, probes=runs))
    assert len(names) == 4 and list(damaged) == [f"third:{name}" for name in BOTH]
    (tmp_path / "link").symlink_to(runs)  # what the operator names may be one
    assert len(listed(serve(store=shared_store.folder, probes=tmp_path / "link"))[0]) == 4


def test_a_probe_that_goes_while_it_is_listed_is_left_out(serve, shared_store, probes, monkeypatch):
    client = serve(store=shared_store.folder, probes=probes)
    read = api.shelf.read_probe_info

    def gone(folder):
        if folder.name == "halflife":
            shutil.rmtree(folder)
        return read(folder)

    monkeypatch.setattr(api.shelf, "read_probe_info", gone)
    assert listed(client) == (["protein-side"], {})


def test_only_what_changed_is_read_again(serve, shared_store, probes, monkeypatch):
    read, asked = api.shelf.read_probe_info, []

    def counted(folder):
        asked.append(folder.name)
        return read(folder)

    monkeypatch.setattr(api.shelf, "read_probe_info", counted)
    (probes / "bad").mkdir()
    (probes / "bad" / "probe.json").write_text("{")
    client = serve(store=shared_store.folder, probes=probes)
    for _ in range(3):
        assert listed(client)[0] == BOTH
    assert sorted(asked) == ["bad", *BOTH]
    path = probes / "halflife" / "probe.json"
    status = path.stat()
    document = json.loads(path.read_text())
    document["metrics"]["test"]["n"] = 4  # of the same length
    new = path.with_name("new")
    new.write_text(json.dumps(seal(document), indent=2) + "\n")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)
    first = client.get("/v1/probes").json()["probes"][0]
    assert first["metrics"]["test"]["n"] == 4
    assert asked[3:] == ["halflife"]
    shutil.rmtree(probes / "bad")
    assert listed(client) == (BOTH, {})


def test_a_client_is_told_of_both(serve, shared_store, probes):
    (probes / "halflife" / "probe.json").write_text("[]")
    app = serve(store=shared_store.folder, probes=probes)

    def answer(request):
        return httpx.Response(200, json=app.get(request.url.path).json())

    client = Client("http://127.0.0.1", transport=httpx.MockTransport(answer))
    assert [each["name"] for each in client.probes()] == ["protein-side"]
    (damaged,) = client.damaged_probes()
    assert damaged["name"] == "halflife" and "probe.json" in damaged["problem"]
