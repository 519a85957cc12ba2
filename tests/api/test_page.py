"""What the page is made of and what it asks for; `test_browser.py` looks at it in a browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from api.routes.page import FILES
from api.settings import Settings
from embedstore.dogma import VIEWS, view_of
from embedstore.store import key_of
from embedstore.store.inventory import inventory

WEB = Path(__file__).parents[2] / "api/web"


@pytest.mark.parametrize("path", FILES)
def test_the_page_and_its_parts_load_without_a_key(serve, shared_store, path):
    client = serve(store=shared_store.folder, api_keys=("secret",))
    response = client.get(path)
    assert response.status_code == 200
    assert response.content == (WEB / FILES[path][0]).read_bytes()
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert client.get("/v1/coverage").status_code == 401
    assert client.post("/v1/views", json={"sequence": "AUG"}).status_code == 401


def test_every_file_of_the_page_is_served_and_nothing_else(client):
    assert {name for name, _ in FILES.values()} == {path.name for path in WEB.iterdir()}
    for path in ("/web/", "/web/../app.py", "/web/%2e%2e/app.py", "/web/index.html", "/web/x.js"):
        assert client.get(path).status_code == 404


def test_a_foreign_name_gets_no_page(client):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_the_page_asks_nobody_else_and_writes_no_markup():
    texts = {path.name: path.read_text() for path in WEB.iterdir()}
    assert len(texts) == 5
    for name, text in texts.items():
        allowed = text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*// .*$|/\*\*.*\*/|;? // .*$", "", allowed, flags=re.M), name
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert not any(word in text for text in texts.values()), word
    assert " style=" not in texts["index.html"] and " on" not in re.sub(
        r">[^<]*<", "><", texts["index.html"]
    ).replace(" on-", "")


def test_coverage_is_that_of_the_inventory(client, shared_store):
    rows = client.get("/v1/coverage").json()["coverage"]
    assert len(rows) == 2
    told = [{key: row[key] for key in ("collection", "recipe")} for row in rows]
    expected = inventory(shared_store)["coverage"]
    assert told == [{key: row[key] for key in ("collection", "recipe")} for row in expected]
    for row, known in zip(rows, expected, strict=True):
        assert {key: row[key] for key in known} == known
        assert row["problem"] is None
    assert client.get("/v1/coverage").json()["coverage"] == rows


def test_coverage_follows_the_store(serve, store):
    client = serve(store=store.folder)
    first = client.get("/v1/coverage").json()["coverage"]
    (path,) = store.folder.glob("collections/genes.*.parquet")
    shutil.copy(path, path.with_name("again.parquet"))  # a collection as stores of before have it
    for segment in store.segment_folders(store.find_recipe("one-hot-mrna").name):
        shutil.rmtree(segment)
    rows = client.get("/v1/coverage").json()["coverage"]
    assert [row["collection"] for row in rows] == ["again", "again", "genes", "genes"]
    assert [row["embedded"] for row in rows[2:]] == [0, first[1]["embedded"]]


def test_a_damaged_collection_is_told_in_its_row_and_hides_no_other(serve, store, tmp_path):
    (path,) = store.folder.glob("collections/genes.*.parquet")
    shutil.copy(path, path.with_name("whole.parquet"))
    path.write_bytes(b"PAR1")
    response = serve(store=store.folder).get("/v1/coverage")
    broken, whole = response.json()["coverage"][:2], response.json()["coverage"][2:]
    assert all(row["problem"] and row["embedded"] is None for row in broken)
    assert all(row["problem"] is None and row["embedded"] for row in whole)
    assert str(tmp_path) not in response.text


def views(client, sequence, molecule=None):
    response = client.post("/v1/views", json={"sequence": sequence, "molecule": molecule})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_sequence_is_shown_as_every_backbone_would_read_it(client, gene_of):
    found = views(client, gene_of(3).lower())
    assert (found["molecule"], found["letters"]) == ("mrna", len(gene_of(3)))
    assert [each["view"] for each in found["views"]] == list(VIEWS)
    for each in found["views"]:
        text = view_of(gene_of(3), "mrna", each["view"]).text
        assert (each["text"], each["key"], each["error"]) == (text, key_of(text), None)


@pytest.mark.parametrize(
    ("sequence", "molecule", "wrong"),
    [
        ("AUGGC", "mrna", {"protein": "length-not-codons", "cds": "length-not-codons"}),
        ("AUGUAAGCUUAA", None, {"protein": "inner-stop-codon", "cds": "inner-stop-codon"}),
        ("MKLVWW", None, {"mrna": "no-nucleotides", "dna": "no-nucleotides"}),
    ],
)
def test_a_view_that_is_not_there_says_why_and_hides_no_other(client, sequence, molecule, wrong):
    found = views(client, sequence, molecule)["views"]
    codes = {each["view"]: each["error"]["code"] for each in found if each["error"]}
    assert codes.items() >= wrong.items()
    assert all((each["text"] is None) == (each["error"] is not None) for each in found)
    assert any(each["text"] for each in found)


@pytest.mark.parametrize("sequence", ["", "  ", "AUG!", "<img src=x>"])
def test_what_is_no_sequence_is_422(client, assert_problem, sequence):
    response = client.post("/v1/views", json={"sequence": sequence})
    assert_problem(response, 422, "bad-input")


def test_a_sequence_beyond_the_limit_is_413(serve, shared_store, assert_problem):
    client = serve(store=shared_store.folder, max_letters=10)
    assert_problem(client.post("/v1/views", json={"sequence": "A" * 11}), 413, "too-large")


@pytest.fixture
def run(probes, tmp_path, results_of):
    """The probes as a run of `probe grid` leaves them, 60 test rows each."""
    folder = tmp_path / "run"
    (folder / "predictions").mkdir(parents=True)
    probes.rename(folder / "probes")
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(60, 2)).round(6).tolist()
    sides = rng.choice(["high", "low"], (60, 2)).tolist()
    for name, rows in (("halflife", numbers), ("protein-side", sides)):
        with (folder / "predictions" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "true", "predicted"])
            writer.writerows([f"gene,{at}", *row] for at, row in enumerate(rows))
    intervals = {"intervals": {"halflife": [0.25, 0.75]}}
    results = results_of(intervals, {"halflife": {}, "protein-side": {}})
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_a_run_gives_intervals_and_every_test_row(serve, shared_store, run):
    client = serve(store=shared_store.folder, probes=run)
    answer = client.get("/v1/probes/halflife/predictions").json()
    assert (answer["score"], answer["interval"], answer["level"]) == (0.5, [0.25, 0.75], 0.05)
    assert (answer["metric"], answer["unit"], answer["rows"]) == ("spearman", "log2(halflife)", 60)
    with (run / "predictions/halflife.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert answer["points"] == [
        {"id": row["id"], "true": float(row["true"]), "predicted": float(row["predicted"])}
        for row in rows
    ]
    classes = client.get("/v1/probes/protein-side/predictions").json()
    assert (classes["kind"], classes["interval"]) == ("classification", None)
    assert {point["true"] for point in classes["points"]} == {"high", "low"}


def test_each_seed_of_a_run_has_its_own_points(serve, shared_store, run):
    path = run / "predictions/halflife.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "true", "predicted_0", "predicted_1"])
        writer.writerows([r["id"], r["true"], r["predicted"], at] for at, r in enumerate(rows))
    results = json.loads((run / "results.json").read_text())
    undefined = {"best_epoch": 1, "validation_score": None, "test_score": None}
    seeds = [{"seed": seed, **undefined} for seed in (4, 5)]
    results["backbones"]["halflife"]["seeds"] = seeds
    (run / "results.json").write_text(json.dumps(results))
    shutil.copytree(run / "probes/halflife", run / "probes/halflife-seed-5")
    client = serve(store=shared_store.folder, probes=run)
    first = client.get("/v1/probes/halflife/predictions").json()
    assert first["points"][7]["predicted"] == float(rows[7]["predicted"])
    second = client.get("/v1/probes/halflife-seed-5/predictions").json()
    assert [point["predicted"] for point in second["points"]] == list(range(60))


def test_points_are_capped_and_drawn_alike_each_time(serve, shared_store, run, assert_problem):
    client = serve(store=shared_store.folder, probes=run)
    url = "/v1/probes/halflife/predictions?limit="
    answer = client.get(f"{url}7").json()
    assert (answer["rows"], len(answer["points"])) == (60, 7)
    whole = client.get(f"{url}60").json()["points"]
    places = [whole.index(point) for point in answer["points"]]
    assert places == sorted(places) and places != list(range(7))
    assert client.get(f"{url}7").json() == answer
    assert client.get(f"{url}0").json()["points"] == []
    for limit in ("-1", "5001", "all"):
        assert_problem(client.get(url + limit), 422, "bad-input")


def test_probes_outside_of_a_run_have_their_score_alone(client, assert_problem):
    answer = client.get("/v1/probes/halflife/predictions").json()
    assert (answer["score"], answer["interval"], answer["rows"]) == (0.5, None, 0)
    assert_problem(client.get("/v1/probes/nothing/predictions"), 404, "missing-probe")


@pytest.mark.parametrize("content", ["id,true\na,1\n", "id,true,predicted\na,1,x\n", "a\0b,\n1"])
def test_test_rows_that_cannot_be_read_are_500_without_paths(
    serve, shared_store, run, assert_problem, tmp_path, content
):
    (run / "predictions/halflife.csv").write_text(content)
    client = serve(store=shared_store.folder, probes=run)
    problem = assert_problem(client.get("/v1/probes/halflife/predictions"), 500, "damaged-probe")
    assert str(tmp_path) not in str(problem)
    assert client.get("/v1/probes/protein-side/predictions").status_code == 200


def test_the_size_of_exact_search_is_a_setting(shared_store):
    variable = {"EMBEDSTORE_NEIGHBORS_EXACT_MAX": "500"}
    made = Settings.from_environment(variable, store=shared_store.folder)
    assert made.neighbors_exact_max == 500
    assert Settings(store=shared_store.folder).neighbors_exact_max == 1_000_000
