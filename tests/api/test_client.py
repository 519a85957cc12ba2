"""The client gives what the library gives, tries again where that helps, and says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import numpy as np
import pytest

from api.client import Client, ClientError
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.errors import BadInput, StoreError
from probe.saved import load_probe

ONE_HOT = "one-hot-mrna"


@pytest.fixture(scope="module")
def server(running, shared_store, shared_probes):
    arguments = (str(shared_store.folder), "--probes", str(shared_probes))
    with running(*arguments, EMBEDSTORE_API_KEYS="secret") as started:
        yield started


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url, "secret") as one:
        yield one


def reference(text):
    return prepare(BackboneConfig(backbone=ONE_HOT)).load().embed([text])


def test_stored_embeddings_come_as_they_are_stored(client, shared_store, odd_ids):
    reader = shared_store.recipe(ONE_HOT)
    for id in ("gene-0", *odd_ids):
        stored = reader.get(id, "genes")
        got = client.embedding("genes", id, ONE_HOT)
        assert got.dtype == np.float16 and np.array_equal(got, stored)
    assert np.array_equal(client.embedding("genes", "gene-0", ONE_HOT, (2, 5)), stored[2:5])
    key = shared_store.find_key("gene-0", "mrna")
    assert np.array_equal(client.mean("genes", "gene-0", ONE_HOT), reader.means([key])[0])


@pytest.mark.parametrize("id", [".", "..", "a/../b"])
def test_an_id_of_dots_is_an_id_and_no_way_up(client, id):
    with pytest.raises(ClientError) as error:
        client.embedding("genes", id, ONE_HOT)
    assert error.value.code == "missing-record"
    assert repr(id) in str(error.value)


def test_an_address_without_a_scheme_is_refused_and_not_tried_again(monkeypatch):
    monkeypatch.setattr("api.client.time.sleep", lambda _: pytest.fail("it waits"))
    with Client("127.0.0.1:8000") as client, pytest.raises(BadInput, match="no address"):
        client.info()


@pytest.mark.parametrize("pooled", [False, True])
def test_many_are_looked_up_at_once(client, shared_store, odd_ids, pooled):
    ids = [*odd_ids, "nobody"] * 20  # more than one request
    found = client.lookup(ONE_HOT, collection="genes", ids=ids, pooled=pooled)
    reader = shared_store.recipe(ONE_HOT)
    keys = {id: shared_store.find_key(id, "mrna") for id in odd_ids}
    assert len(found) == len(ids)
    for id, each in zip(ids, found, strict=True):
        if id == "nobody":
            assert each is None
        elif pooled:
            assert np.array_equal(each, reader.means([keys[id]])[0])
        else:
            assert np.array_equal(each, reader.get(keys[id])) and each.dtype == np.float16
    (one,) = client.lookup(ONE_HOT, keys=[keys[odd_ids[0]]])
    assert np.array_equal(one, reader.get(keys[odd_ids[0]]))


def test_sequences_are_embedded_in_as_many_requests_as_it_takes(client, gene_of):
    texts = [gene_of(number) for number in range(150)]
    vectors = client.embed(texts, ONE_HOT)
    assert vectors.dtype == np.float32 and vectors.flags.writeable
    assert np.array_equal(vectors, [reference(text).mean[0] for text in texts])
    matrices = client.token_embeddings(texts[:3], ONE_HOT)
    for text, each in zip(texts, matrices, strict=False):
        assert np.array_equal(each, reference(text).tokens)
    assert client.embed([], ONE_HOT).shape[0] == 0


def test_predictions_are_the_probe_s_and_errors_stand_at_their_places(
    client, shared_probes, gene_of
):
    answer = client.predict("halflife", [gene_of(0), "AUG!", gene_of(90)])
    probe = load_probe(shared_probes / "halflife")
    for at, text in ((0, gene_of(0)), (2, gene_of(90))):
        embedded = reference(text)
        (expected,) = probe.predict(embedded.tokens, embedded.lengths)
        assert answer.values[at] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(answer.values[1])
    assert {at: error.code for at, error in answer.errors.items()} == {1: "bad-input"}
    assert answer.digests["probe"] == probe.info.weights_digest
    sides = client.predict("protein-side", collection="genes", ids=["gene-0", "no-frame"])
    assert sides.values[0] in ("high", "low") and sides.values[1] is None
    assert sides.errors[1].code == "length-not-codons"


def test_refusals_carry_code_problem_fix_and_the_request_s_id(client):
    with pytest.raises(ClientError) as refused:
        client.embedding("genes", "nobody", ONE_HOT)
    error = refused.value
    assert (error.code, error.status) == ("missing-record", 404)
    assert "nobody" in error.problem and error.fix and len(error.request_id) == 32
    assert isinstance(error, StoreError)
    with pytest.raises(ClientError, match="Sequence 1"):
        client.token_embeddings(["AUG", "AUG!"], ONE_HOT)
    with pytest.raises(BadInput):
        client.predict("halflife")
    with pytest.raises(BadInput):
        client.lookup(ONE_HOT, ids=["a"], keys=["b"])


def test_a_wrong_key_is_refused_at_once(server):
    with Client(server.url, "wrong") as client, pytest.raises(ClientError) as refused:
        client.info()
    assert refused.value.code == "unauthorised"


PROBLEM = {"code": "queue-full", "problem": "Full.", "fix": "Wait."}


class Script:
    """Answers from a list; an exception is raised."""

    def __init__(self, *steps):
        self.steps, self.requests = list(steps), []

    def __call__(self, request):
        self.requests.append(request)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture
def waits(monkeypatch):
    seen = []
    monkeypatch.setattr("api.client.time.sleep", seen.append)
    return seen


def scripted(*steps, **options):
    script = Script(*steps)
    return Client("http://server", transport=httpx.MockTransport(script), **options), script


def busy(status=429, after=None, code="queue-full"):
    headers = {} if after is None else {"Retry-After": after}
    return httpx.Response(status, json={**PROBLEM, "code": code}, headers=headers)


def test_a_busy_server_is_asked_again_when_it_says(waits):
    done = httpx.Response(200, json={"ok": 1})
    client, script = scripted(busy(after="7"), busy(503, after="1000", code="not-ready"), done)
    assert client.info() == {"ok": 1}
    assert waits == [7, 60]  # never longer than a minute
    assert len(script.requests) == 3


def test_without_a_word_waits_double_with_some_chance(waits):
    lost = httpx.ConnectError("refused")
    client, _ = scripted(lost, lost, httpx.Response(502, text="bad gateway"), lost, tries=4)
    with pytest.raises(ClientError) as failed:
        client.info()
    assert failed.value.code == "unreachable"
    for wait, least in zip(waits, (0.5, 1, 2), strict=True):
        assert least <= wait <= 1.5 * least


@pytest.mark.parametrize(
    "answer",
    [
        busy(503, code="missing-weights"),
        busy(404, code="missing-record"),
        busy(422, code="bad-input"),
        busy(500, code="damaged-segment"),
    ],
)
def test_what_no_waiting_changes_is_raised_at_once(waits, answer):
    client, script = scripted(answer)
    with pytest.raises(ClientError) as failed:
        client.info()
    assert failed.value.status == answer.status_code
    assert len(script.requests) == 1 and waits == []


def test_the_last_refusal_is_told_when_tries_run_out(waits):
    client, script = scripted(busy(), busy(), tries=2)
    with pytest.raises(ClientError) as failed:
        client.info()
    assert (failed.value.code, failed.value.status) == ("queue-full", 429)
    assert len(script.requests) == 2 and len(waits) == 1


def test_an_answer_of_something_else_says_so(waits):
    client, _ = scripted(httpx.Response(404, text="<html>nginx</html>"))
    with pytest.raises(ClientError) as failed:
        client.info()
    assert failed.value.code == "not-embedstore"


def test_neighbours_are_asked_as_the_route_takes_them():
    answer = {"recipe": "r", "metric": "l2", "index": {}, "neighbors": []}
    client, script = scripted(httpx.Response(200, json=answer))
    assert client.neighbors("esm2-8m", vector=np.array([0.5, 1]), k=3, metric="l2") == answer
    (request,) = script.requests
    assert request.url.path == "/v1/neighbors"
    assert json.loads(request.content) == {
        "backbone": "esm2-8m",
        "vector": [0.5, 1.0],
        "k": 3,
        "metric": "l2",
    }


def test_predictions_for_each_position_are_arrays():
    answer = {
        "unit": "u",
        "recipe": "r",
        "digests": {},
        "predictions": [
            {"prediction": [1.0, 2.0]},
            {"error": {"code": "c", "problem": "p", "fix": "f"}},
            {"prediction": [3.0]},
        ],
    }
    client, _ = scripted(httpx.Response(200, json=answer))
    values = client.predict("p", ["A", "B", "C"]).values
    assert np.array_equal(values[0], [1, 2]) and values[1] is None and len(values[2]) == 1


def test_the_client_imports_neither_torch_nor_the_server():
    script = """
import sys
import api.client
heavy = {"torch", "transformers", "fastapi", "starlette", "uvicorn", "sklearn", "faiss"}
found = heavy & set(sys.modules) | {name for name in sys.modules if name.startswith("api.routes")}
assert not found, found
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
