"""Neighbours over HTTP: found in the background, by every kind of query, and never zeros."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

import api.neighbors as held
from api.dependencies import SEARCH_THREADS
from api.errors import NotReady
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import StoreError
from embedstore.neighbors import METRICS
from embedstore.records import Record, Records

URL = "/v1/neighbors"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Requests wait for an index on a slow machine too."""
    monkeypatch.setattr(held, "WAIT_SECONDS", 60)


def ask(client, **body):
    response = client.post(URL, json={"backbone": "one-hot-mrna", **body})
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer):
    return [[each["id"] for each in found["records"]] for found in answer["neighbors"]]


def grow(store, name, texts):
    """Another collection with embeddings of its own."""
    rows = [Record(f"{name}-{at}", text, "mrna") for at, text in enumerate(texts)]
    prepared = prepare(BackboneConfig(backbone="one-hot-mrna"))
    records = Records(rows, pa.table({"n": np.arange(float(len(rows)))}), 0, [])
    build(store, records, prepared, BuildConfig(collection=name, quiet=True))


@pytest.fixture
def store_client(serve, store):
    return serve(store=store.folder)


@pytest.mark.parametrize("metric", METRICS)
def test_every_kind_of_query_finds_the_same(store_client, store, gene_of, metric):
    key = store.find_key("a/b/c", "mrna")
    vector = store.recipe("one-hot-mrna").means([key])[0].tolist()
    options = {"metric": metric, "k": 5, "exclude_self": False}
    by_record = ask(store_client, collection="genes", id="a/b/c", **options)
    assert (by_record["key"], by_record["embedding"]) == (key, "stored")
    assert ids(by_record)[0] == ["a/b/c"]
    by_key = ask(store_client, key=key, **options)
    by_text = ask(store_client, sequence=gene_of(1).lower(), **options)
    by_vector = ask(store_client, vector=vector, **options)
    assert by_key == by_record
    assert by_text == by_record
    assert by_vector["neighbors"] == by_record["neighbors"]
    assert (by_vector["key"], by_vector["embedding"]) == (None, "given")


@pytest.mark.parametrize("metric", METRICS)
def test_values_are_those_of_the_stored_averages(store_client, store, metric):
    reader = store.recipe("one-hot-mrna")
    answer = ask(store_client, collection="genes", id="gene-0", metric=metric, k=1000)
    keys = [each["key"] for each in answer["neighbors"]]
    assert len(keys) == len(reader) - 1  # without itself
    query = reader.means([store.find_key("gene-0", "mrna")])[0].astype(np.float64)
    found = reader.means(keys).astype(np.float64)
    if metric == "cosine":
        expected = found @ query / np.linalg.norm(found, axis=1) / np.linalg.norm(query)
        got = [each["score"] for each in answer["neighbors"]]
        assert got == sorted(got, reverse=True)
        assert {each["distance"] for each in answer["neighbors"]} == {None}
    else:
        expected = np.linalg.norm(found - query, axis=1)
        got = [each["distance"] for each in answer["neighbors"]]
        assert got == sorted(got)
        assert {each["score"] for each in answer["neighbors"]} == {None}
    assert np.allclose(got, expected, atol=1e-5)


def test_the_query_itself_is_left_out_where_it_is_known_by_name(store_client, store, gene_of):
    key = store.find_key("gene-0", "mrna")
    queries = ({"key": key}, {"collection": "genes", "id": "gene-0"}, {"sequence": gene_of(0)})
    for query, by_default in zip(queries, (True, True, False), strict=True):
        for asked, left_out in ((None, by_default), (True, True), (False, False)):
            answer = ask(store_client, exclude_self=asked, k=4, **query)
            assert (key not in [each["key"] for each in answer["neighbors"]]) == left_out
            assert len(answer["neighbors"]) == 4


def test_a_new_sequence_is_embedded_as_a_build_would(store_client, store, gene_of):
    answer = ask(store_client, sequence=gene_of(90), k=3)
    assert answer["embedding"] == "new"
    embedded = prepare(BackboneConfig(backbone="one-hot-mrna")).load().embed([gene_of(90)])
    again = ask(store_client, vector=embedded.mean[0].tolist(), k=3)
    assert again["neighbors"] == answer["neighbors"]
    assert len(store.recipe("one-hot-mrna")) == answer["index"]["vectors"]  # nothing was kept


def test_a_neighbour_names_every_record_with_its_view(store_client, store, gene_of):
    grow(store, "copies", [gene_of(0)] * 30)
    answer = ask(store_client, sequence=gene_of(0), k=1)
    (nearest,) = answer["neighbors"]
    assert nearest["record_count"] == 31
    assert nearest["records"][0] == {"collection": "copies", "id": "copies-0"}
    assert len(nearest["records"]) == 20


def test_the_index_says_what_it_is(store_client, store):
    index = ask(store_client, collection="genes", id="gene-0")["index"]
    assert (index["kind"], index["recall"], index["recall_queries"]) == ("exact", 1, None)
    assert index["vectors"] == len(store.recipe("one-hot-mrna"))
    assert (index["stale"], index["excluded"]) == (False, [])
    assert len(index["segments"]) == 32


def test_beyond_the_setting_search_is_approximate_and_tells_its_recall(serve, store):
    grow(store, "more", ["AUG" + "GCUAAG"[at % 6 :] * (1 + at) + "UAA" for at in range(120)])
    client = serve(store=store.folder, neighbors_exact_max=100)
    index = ask(client, collection="genes", id="gene-0")["index"]
    assert index["kind"] == "ivf"
    assert 0.95 <= index["recall"] <= 1
    assert index["recall_queries"] == min(200, index["vectors"])


def test_until_the_first_index_is_there_the_answer_is_503(
    store_client, assert_problem, monkeypatch
):
    monkeypatch.setattr(held, "WAIT_SECONDS", 0.01)
    go, real, builds = threading.Event(), held.open_neighbors, []

    def slowly(*arguments, **options):
        builds.append(arguments)
        assert go.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(held, "open_neighbors", slowly)
    body = {"backbone": "one-hot-mrna", "collection": "genes", "id": "gene-0"}
    for _ in range(3):
        response = store_client.post(URL, json=body)
        assert_problem(response, 503, "not-ready")
        assert int(response.headers["retry-after"]) > 0
    assert store_client.get("/info").status_code == 200  # everything else goes on
    go.set()
    monkeypatch.setattr(held, "WAIT_SECONDS", 60)
    assert store_client.post(URL, json=body).status_code == 200
    assert len(builds) == 1


@pytest.mark.parametrize("restart", [False, True])
def test_new_segments_are_found_once_the_index_was_made_again_and_the_old_one_answers_meanwhile(
    serve, store, gene_of, monkeypatch, restart
):
    client = serve(store=store.folder)
    before = ask(client, collection="genes", id="gene-0")["index"]
    go, real = threading.Event(), held.open_neighbors

    def slowly(*arguments, **options):
        assert go.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(held, "open_neighbors", slowly)
    grow(store, "later", [gene_of(70)])
    if restart:  # the old one then comes from the disk
        client = serve(store=store.folder)
    stale = ask(client, sequence=gene_of(70), k=1)
    assert stale["index"] == {**before, "stale": True}
    assert ids(stale) != [["later-0"]]
    go.set()
    done = client.app.state.services.neighborhoods
    for _ in range(600):
        if not done.index(stale["recipe"], "cosine").stale:
            break
        threading.Event().wait(0.05)
    fresh = ask(client, sequence=gene_of(70), k=1)
    assert ids(fresh) == [["later-0"]]
    assert fresh["index"]["vectors"] == before["vectors"] + 1
    assert fresh["index"]["stale"] is False
    assert fresh["index"]["segments"] != before["segments"]


def test_a_damaged_segment_is_named_and_its_embeddings_are_not_zeros(serve, store, assert_problem):
    grow(store, "later", ["AUGGCUGCUGCUUAA"])
    reader = store.recipe("one-hot-mrna")
    lost = store.find_key("later-0", "mrna")
    name = reader.info(lost).segment
    path = store.recipe_folder(reader.name) / "segments" / name / "mean/c/0/0"
    path.write_bytes(b"\0" * len(path.read_bytes()))
    client = serve(store=store.folder)
    answer = ask(client, vector=[0.0] * reader.recipe.width, metric="l2", k=1000)
    assert [each["segment"] for each in answer["index"]["excluded"]] == [name]
    assert "checksum" in answer["index"]["excluded"][0]["problem"]
    assert lost not in [each["key"] for each in answer["neighbors"]]
    assert all(each["distance"] > 0.1 for each in answer["neighbors"])
    response = client.post(URL, json={"backbone": "one-hot-mrna", "key": lost})
    assert_problem(response, 500, "damaged-segment")


def test_a_failed_build_is_told_and_tried_again(store_client, assert_problem, monkeypatch):
    real = held.open_neighbors

    def fail(*arguments, **options):
        raise StoreError("It failed.", "Mend it.")

    monkeypatch.setattr(held, "open_neighbors", fail)
    body = {"backbone": "one-hot-mrna", "collection": "genes", "id": "gene-0"}
    assert_problem(store_client.post(URL, json=body), 500, "store-error")
    monkeypatch.setattr(held, "open_neighbors", real)
    assert store_client.post(URL, json=body).status_code == 500  # not yet
    monkeypatch.setattr(held, "AGAIN_SECONDS", -1)
    assert store_client.post(URL, json=body).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"key": "0" * 32, "sequence": "AUG"},
        {"vector": [1.0] * 4, "collection": "genes", "id": "gene-0"},
        {"collection": "genes"},
        {"id": "gene-0"},
        {"key": "no key"},
        {"key": "0" * 32, "molecule": "mrna"},
        {"sequence": ""},
        {"sequence": "AUG!"},
        {"sequence": "MKLVWW", "molecule": "protein"},
        {"vector": []},
        {"vector": [1.0]},
        {"vector": [0.0] * 4},
        {"vector": [1e39] * 4, "metric": "l2"},
        {"vector": ["a"] * 4},
        {"sequence": "AUG", "k": 0},
        {"sequence": "AUG", "k": 1001},
        {"sequence": "AUG", "metric": "hamming"},
        {"sequence": "AUG", "unknown": 1},
    ],
    ids=str,
)
def test_a_query_that_cannot_be_asked_is_422_and_begins_nothing(
    store_client, store, assert_problem, query
):
    response = store_client.post(URL, json={"backbone": "one-hot-mrna", **query})
    assert_problem(response, 422, "bad-input")
    assert list(store.folder.glob("recipes/*/neighbors")) == []


@pytest.mark.parametrize(
    "query",
    [f'"vector": [{number}, 1, 1, 1]' for number in ("NaN", "Infinity", "1e999")]
    + [r'"sequence": "\ud800"', r'"collection": "genes", "id": "\ud800"'],
)
def test_what_json_can_write_but_nobody_can_mean_is_422(client, assert_problem, query):
    body = f'{{"backbone": "one-hot-mrna", {query}}}'
    response = client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "bad-input")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"key": "0" * 32}, "missing-embedding"),
        ({"collection": "genes", "id": "nobody"}, "missing-record"),
        ({"collection": "other", "id": "gene-0"}, "missing-collection"),
        ({"collection": "../genes", "id": "gene-0"}, "missing-collection"),
        ({"backbone": "esm2-8m", "sequence": "AUG"}, "missing-recipe"),
        ({"backbone": "../../etc", "sequence": "AUG"}, "missing-recipe"),
    ],
    ids=str,
)
def test_what_is_not_there_is_404(client, assert_problem, query, code):
    response = client.post(URL, json={"backbone": "one-hot-mrna", **query})
    assert_problem(response, 404, code)


def test_a_sequence_beyond_the_limit_is_413(serve, shared_store, assert_problem):
    client = serve(store=shared_store.folder, max_letters=10)
    body = {"backbone": "one-hot-mrna", "sequence": "A" * 11}
    assert_problem(client.post(URL, json=body), 413, "too-large")


def test_an_index_is_made_again_for_other_segments_only(store_client, store, monkeypatch):
    """The time of a folder changes for many reasons, and in a bucket by itself."""
    answer = ask(store_client, collection="genes", id="gene-0")
    made, real = [], held.open_neighbors
    monkeypatch.setattr(held, "open_neighbors", lambda *a, **k: made.append(a) or real(*a, **k))
    segments = store.recipe_folder(answer["recipe"]) / "segments"
    for _ in range(3):
        (segments / "somebody else's").mkdir()
        assert ask(store_client, collection="genes", id="gene-0") == answer
        (segments / "somebody else's").rmdir()
        assert ask(store_client, collection="genes", id="gene-0") == answer
    assert made == []


def test_look_ups_go_on_while_many_wait_for_an_index(client, monkeypatch):
    free, waits = threading.Event(), threading.Semaphore(0)

    def wait(self, recipe, metric):
        waits.release()
        assert free.wait(60)
        raise NotReady("It is being made.", "Ask again.")

    monkeypatch.setattr(held.Neighborhoods, "index", wait)
    body = {"backbone": "one-hot-mrna", "vector": [1.0, 0.0, 0.0, 0.0]}
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(client.post, URL, json=body) for _ in range(50)]
        try:
            for _ in range(SEARCH_THREADS):
                assert waits.acquire(timeout=60)
            url = "/v1/collections/genes/gene-0/mean?backbone=one-hot-mrna"
            assert client.get(url).status_code == 200
            assert not waits.acquire(blocking=False)
        finally:
            free.set()
        assert {each.result().status_code for each in asked} == {503}
