"""Whatever fails, the body is {code, problem, fix}, and nothing of the server's inside shows."""

from __future__ import annotations

import inspect
import json

import pytest

from api.errors import STATUS, MissingProbe, status_of
from embedstore import errors
from embedstore.errors import DamagedSegment, StoreError


def test_every_error_of_the_library_has_its_status():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) > 10
    found = {kind.__name__: status_of(kind("p", "f")) for kind in kinds}
    for name, status in found.items():
        if name.startswith("Missing") and name != "MissingWeights":
            assert status == 404, name
    assert found["BadInput"] == found["TooLong"] == 422
    assert found["MissingWeights"] == found["BadWeights"] == 503
    assert found["DamagedSegment"] == found["NewerFormat"] == 500


def test_a_subclass_has_the_status_of_its_closest_parent():
    class Closer(MissingProbe):
        pass

    assert status_of(Closer("p", "f")) == STATUS[MissingProbe]
    assert status_of(StoreError("p", "f")) == 500


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/web", 404, "unknown-route"),
        ("GET", "/info/", 404, "unknown-route"),
        ("GET", "/docs", 404, "unknown-route"),
        ("POST", "/info", 405, "method-not-allowed"),
        ("GET", "/v1/probes/halflife/predict", 405, "method-not-allowed"),
        ("GET", "/v1/collections/genes/gene-0/embedding", 422, "bad-input"),  # no backbone
        ("POST", "/v1/probes/halflife/predict", 422, "bad-input"),  # no body
    ],
)
def test_routes_and_requests_that_do_not_exist(client, assert_problem, method, path, status, code):
    response = client.request(method, path)
    assert_problem(response, status, code)
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"sequences": "AUG"}',
        b'{"sequences": [{"sequence": 1}]}',
        b'{"sequences": [{"sequence": "\\ud800"}]}',
        b'{"sequences": [{"sequence": "AUG", "id": "\\ud800"}]}',
        b'{"ids": ["\\ud800"], "collection": "genes"}',
        b'{"ids": ["gene-0"], "collection": "\\ud800"}',
        b'{"sequences": [{"sequence": "AUG", "\\ud800": 1}]}',
        b'{"sequences": [{"sequence": "AUG", "molecule": "rna"}]}',
        b'{"sequences": [], "model": "x"}',
        b"[" * 5000,
    ],
)
def test_a_malformed_body_is_422(client, assert_problem, content):
    response = client.post(
        "/v1/probes/halflife/predict", content=content, headers={"Content-Type": "application/json"}
    )
    assert_problem(response, 422, "bad-input")


def test_an_unexpected_error_tells_nothing_of_its_cause(
    serve, shared_store, assert_problem, monkeypatch
):
    client = serve(store=shared_store.folder, raise_server_exceptions=False)

    def fail(self):
        raise RuntimeError("password in /secret/place")

    monkeypatch.setattr("api.shelf.ProbeShelf.listing", fail)
    body = assert_problem(client.get("/info"), 500, "internal")
    assert "secret" not in str(body) and "RuntimeError" not in str(body)
    # the server sees it all the same, and logs it with its traceback
    with pytest.raises(RuntimeError, match="secret"):
        serve(store=shared_store.folder, raise_server_exceptions=True).get("/info")


def test_damage_is_500_and_names_no_path(serve, store, assert_problem, tmp_path):
    (store.folder / "collections" / "genes.json").write_bytes(b"PAR1 and no more")
    client = serve(store=store.folder)
    url = "/v1/collections/genes/gene-0/embedding?backbone=one-hot-mrna"
    body = assert_problem(client.get(url), 500, DamagedSegment.code)
    assert str(tmp_path) not in str(body)


def test_the_openapi_document_names_the_error_body_and_no_other(client):
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert "Problem" in schemas and "HTTPValidationError" not in schemas
    routes = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(routes) >= 8
    for operation in routes:
        assert {"4XX", "5XX"} <= set(operation["responses"])
        assert operation["description"]


@pytest.mark.parametrize("part", ["recipe.json", "segments/*/segment.json"])
def test_a_damaged_recipe_hides_no_other(serve, store, assert_problem, part):
    """Others are found by their backbone, listed and embedded with."""
    (path,) = store.folder.glob(f"recipes/*protein*/{part}")
    path.write_text("{")
    client = serve(store=store.folder)
    sequence = {"model": "one-hot-mrna", "input": "AUGGCUUAA"}
    assert client.post("/v1/embeddings", json=sequence).status_code == 200
    query = "/v1/collections/genes/gene-0/mean?backbone="
    assert client.get(f"{query}one-hot-mrna").status_code == 200
    assert_problem(client.get(f"{query}one-hot-protein"), 500, "damaged-segment")
    listed = client.get("/v1/models").json()
    models = {each["id"]: each["stored"] for each in listed["data"]}
    info = client.get("/info").json()
    recipes = {each["recipe"]: each["left_out"] for each in info["recipes"]}
    (lost,) = (each["name"] for each in info["damaged"])
    (kept,) = recipes.keys() - {lost}
    assert kept.startswith("one-hot-mrna-") and lost.startswith("one-hot-protein-")
    assert models[kept] and not models.get(lost)
    assert listed["damaged"] == info["damaged"]
    if "segments" in part:  # the recipe itself is known, and what of it was left out
        assert (recipes[lost], models[lost]) == (1, 0)
        coverage = {each["recipe"]: each for each in client.get("/v1/coverage").json()["coverage"]}
        assert path.parent.name in coverage[lost]["problem"] and not coverage[kept]["problem"]
    else:
        assert lost not in recipes and lost not in models
        assert_problem(client.get(f"/v1/models/{lost}"), 500, "damaged-segment")


def test_a_damaged_collection_is_named_in_the_info(serve, store):
    (store.folder / "collections" / "genes.json").write_bytes(b"PAR1")
    info = serve(store=store.folder).get("/info").json()
    assert (info["collections"], len(info["recipes"])) == ([], 2)
    assert [each["name"] for each in info["damaged"]] == ["genes"]
    assert str(store.folder) not in json.dumps(info)
