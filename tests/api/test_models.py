"""Sequences are embedded as a build would embed them, in the form of OpenAI's call or per token."""

from __future__ import annotations

import base64
import io
import sys
import threading
import time

import numpy as np
import openai
import pyarrow as pa
import pytest

from api.arrow import ARROW
from api.embedder import Embedder
from embedstore import key_of
from embedstore.backbones.load import BackboneConfig, PreparedBackbone, prepare

ONE_HOT = "one-hot-mrna"


def embed(client, status=200, **body):
    response = client.post("/v1/embeddings", json={"model": ONE_HOT, **body})
    assert response.status_code == status, response.text
    return response.json()


def embed_tokens(client, accept, **body):
    response = client.post(
        "/v1/token-embeddings", json={"model": ONE_HOT, **body}, headers={"Accept": accept}
    )
    assert response.status_code == 200, response.text
    return response


def reference(backbone, text):
    return prepare(BackboneConfig(backbone=backbone)).load().embed([text])


@pytest.fixture(scope="module")
def server(running, shared_store):
    with running(str(shared_store.folder), EMBEDSTORE_API_KEYS="secret") as started:
        yield started


@pytest.mark.parametrize("format", ["float", "base64", None])
def test_the_official_openai_client_reads_what_is_served(server, shared_store, gene_of, format):
    texts = [gene_of(0), gene_of(300), gene_of(0)]
    options = {} if format is None else {"encoding_format": format}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret") as client:
        made = client.embeddings.create(model=ONE_HOT, input=texts, **options)
        names = [model.id for model in client.models.list()]
        assert client.models.retrieve(names[0]).id == names[0]
    vectors = [
        np.frombuffer(base64.b64decode(each.embedding), "<f4")
        if isinstance(each.embedding, str)
        else np.array(each.embedding, np.float32)
        for each in made.data
    ]
    expected = [reference(ONE_HOT, text).mean[0] for text in texts]
    assert np.array_equal(vectors, expected)
    assert [each.index for each in made.data] == [0, 1, 2]
    assert made.model == shared_store.find_recipe(ONE_HOT).name
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, texts))
    assert made.model in names


def test_the_openai_client_sees_our_errors_as_its_own(server):
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="none", input="AUG")
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.embeddings.create(model=ONE_HOT, input="AUG", dimensions=2)
    assert refused.value.body["code"] == refused.value.code == "bad-input"
    assert "dimensions" in refused.value.body["fix"]


def test_a_trained_model_gives_what_it_gives_alone(serve, shared_store, gene_of):
    client = serve(store=shared_store.folder)
    texts = [gene_of(number) for number in (3, 60, 20)]
    made = embed(client, model="codon-mini", input=texts)["data"]
    for text, each in zip(texts, made, strict=True):
        alone = reference("codon-mini", text).mean[0]
        assert np.allclose(each["embedding"], alone, atol=1e-5)
        assert each["source"] == "computed"


def test_what_is_stored_is_read_and_the_rest_computed(client, shared_store, gene_of):
    first, second = embed(client, input=[gene_of(0), gene_of(301)])["data"]
    assert (first["source"], second["source"]) == ("stored", "computed")
    assert first["key"] == shared_store.find_key("gene-0", "mrna")


def test_one_string_is_a_list_of_one(client, gene_of):
    assert embed(client, input=gene_of(5))["data"] == embed(client, input=[gene_of(5)])["data"]


def test_a_molecule_decides_how_the_letters_are_read(client):
    protein = embed(client, model="one-hot-protein", input="GACA", molecule="protein")["data"]
    assert np.allclose(protein[0]["embedding"][:2], [0.5, 0.25])  # columns A and C
    answer = embed(client, 422, model="one-hot-protein", input="GACA", molecule="dna")
    assert "length-not-codons" not in answer["problem"] and "Sequence 1" in answer["problem"]


@pytest.mark.parametrize(
    "body, word",
    [
        ({"input": []}, "no input"),
        ({"input": ""}, "empty"),
        ({"input": ["AUG", "AUG!"]}, "Sequence 2"),
        ({"input": [1, 2]}, "input"),
        ({"input": "AUG", "dimensions": 3}, "4 numbers"),
        ({"input": "AUG", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "AUG", "molecule": "rna"}, "molecule"),
        ({"input": "AUG", "more": 1}, "more"),
    ],
)
def test_what_cannot_be_embedded_is_422_and_says_which(client, assert_problem, body, word):
    response = client.post("/v1/embeddings", json={"model": ONE_HOT, **body})
    assert word in assert_problem(response, 422, "bad-input")["problem"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/token-embeddings"])
def test_limits_hold_before_anything_is_computed(
    serve, shared_store, assert_problem, monkeypatch, path
):
    monkeypatch.setattr(Embedder, "embed", None)
    client = serve(
        store=shared_store.folder, max_sequences=2, max_letters=30, max_response_bytes=80
    )
    for sequences in (["AUG"] * 3, ["A" * 31], ["A" * 16, "C" * 15]):
        response = client.post(path, json={"model": ONE_HOT, "input": sequences})
        assert_problem(response, 413, "too-large")
    response = client.post("/v1/token-embeddings", json={"model": ONE_HOT, "input": "ACGUACGUACG"})
    assert_problem(response, 413, "too-large")


def test_a_matrix_comes_as_npy(client, gene_of):
    response = embed_tokens(client, "application/x-npy", input=gene_of(302))
    matrix = np.load(io.BytesIO(response.content), allow_pickle=False)
    expected = reference(ONE_HOT, gene_of(302)).tokens
    assert matrix.dtype == np.float16 and np.array_equal(matrix, expected)


def test_several_matrices_come_as_an_arrow_stream_or_json(client, gene_of):
    texts = [gene_of(0), "AUG!", gene_of(303), "MKLVW"]
    table = pa.ipc.open_stream(embed_tokens(client, "*/*", input=texts).content).read_all()
    body = embed_tokens(client, "application/json", input=texts).json()
    assert table.column("error").to_pylist() == [None, "bad-input", None, "no-nucleotides"]
    assert [each["error"] and each["error"]["code"] for each in body["data"]] == [
        None,
        "bad-input",
        None,
        "no-nucleotides",
    ]
    assert table.column("source").to_pylist() == ["stored", None, "computed", None]
    for row in (0, 2):
        expected = reference(ONE_HOT, texts[row]).tokens
        assert np.array_equal(np.array(table.column("embedding")[row].as_py()), expected)
        assert np.array_equal(np.array(body["data"][row]["embedding"]), expected)
    assert table.schema.metadata[b"model"].decode() == body["model"]


def test_npy_holds_one_input_only(client, assert_problem):
    body = {"model": ONE_HOT, "input": ["AUG", "AUC"]}
    headers = {"Accept": "application/x-npy"}
    response = client.post("/v1/token-embeddings", json=body, headers=headers)
    assert_problem(response, 406, "not-acceptable")
    response = client.post("/v1/token-embeddings", json={**body, "input": "AUG!"}, headers=headers)
    assert_problem(response, 422, "bad-input")


def test_models_are_the_recipes_and_what_else_can_embed_here(client, shared_store):
    models = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    for name in shared_store.recipes():
        assert models[name]["stored"] == len(shared_store.recipe(name))
    assert models["codon-mini"]["on_demand"] and models["codon-mini"]["stored"] == 0
    assert "esm2-8m" not in models


def test_a_model_without_weights_here_is_503_and_an_unknown_one_404(client, assert_problem):
    for path in ("/v1/embeddings", "/v1/token-embeddings"):
        response = client.post(path, json={"model": "esm2-8m", "input": "MKLV"})
        problem = assert_problem(response, 503, "missing-weights")
        assert "--weights esm2-8m=DIR" in problem["fix"]
        response = client.post(path, json={"model": "esm2-9m", "input": "MKLV"})
        assert_problem(response, 404, "missing-recipe")
    assert_problem(client.get("/v1/models/esm2-8m"), 404, "missing-recipe")


def test_without_torch_the_store_is_served_and_the_rest_is_503_with_the_reason(
    serve, shared_store, shared_probes, assert_problem, monkeypatch, gene_of
):
    client = serve(store=shared_store.folder, probes=shared_probes)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    url = f"/v1/collections/genes/gene-0/embedding?backbone={ONE_HOT}"
    assert client.get(url).status_code == 200
    assert client.get("/v1/probes").status_code == 200
    assert embed(client, input=gene_of(0))["data"][0]["source"] == "stored"
    response = client.post("/v1/embeddings", json={"model": "codon-mini", "input": gene_of(0)})
    assert "torch" in assert_problem(response, 503, "not-installed")["problem"]
    body = {"sequences": [{"sequence": gene_of(0)}]}
    response = client.post("/v1/probes/halflife/predict", json=body)
    assert "torch" in assert_problem(response, 503, "not-installed")["problem"]


def test_a_model_that_fails_is_500_for_its_sequence_and_tells_no_cause(
    serve, shared_store, assert_problem, monkeypatch, gene_of
):
    real = Embedder.embed

    def fail(self, recipe, batch):
        if any(item.text == "AUGAUG" for item in batch):
            raise RuntimeError("secret")
        return real(self, recipe, batch)

    monkeypatch.setattr(Embedder, "embed", fail)
    client = serve(store=shared_store.folder)
    response = client.post("/v1/embeddings", json={"model": ONE_HOT, "input": "AUGAUG"})
    assert "secret" not in str(assert_problem(response, 500, "embedding-failed"))
    assert embed(client, input=gene_of(304))["data"]


def test_a_model_that_cannot_be_loaded_is_503_and_tried_once_a_batch(
    serve, shared_store, assert_problem, monkeypatch, gene_of
):
    tries = []

    def fail(prepared):
        tries.append(prepared.recipe.name)
        raise RuntimeError("secret")

    monkeypatch.setattr(PreparedBackbone, "load", fail)
    client = serve(store=shared_store.folder)
    texts = [gene_of(number) for number in range(310, 318)]
    response = client.post("/v1/embeddings", json={"model": ONE_HOT, "input": texts})
    assert "secret" not in str(assert_problem(response, 503, "bad-weights"))
    assert len(tries) == 1
    monkeypatch.undo()
    assert embed(client, input=texts)["data"]


@pytest.mark.parametrize("accept", ["application/json", "application/vnd.apache.arrow.stream"])
def test_large_answers_are_made_beside_the_event_loop(client, gene_of, monkeypatch, accept):
    import asyncio

    from api.routes import models

    loops = []

    def note(make):
        def made(*arguments):
            loops.append(asyncio._get_running_loop())
            return make(*arguments)

        return made

    for name in ("json_bytes", "token_stream"):
        monkeypatch.setattr(models, name, note(getattr(models, name)))
    body = {"model": ONE_HOT, "input": [gene_of(0), gene_of(320)]}
    response = client.post("/v1/token-embeddings", json=body, headers={"Accept": accept})
    assert response.status_code == 200
    assert loops == [None]


class Held:
    """Stands in for a backbone's work: waits until it is let go."""

    def __init__(self, monkeypatch):
        self.free, self.busy = threading.Event(), threading.Event()
        real = Embedder.embed

        def embed(embedder, recipe, batch):
            self.busy.set()
            assert self.free.wait(60)
            return real(embedder, recipe, batch)

        monkeypatch.setattr(Embedder, "embed", embed)


@pytest.fixture
def held(monkeypatch):
    one = Held(monkeypatch)
    yield one
    one.free.set()


def test_a_full_queue_is_429_with_retry_after_and_loses_no_request(
    serve, shared_store, held, assert_problem
):
    from concurrent.futures import ThreadPoolExecutor

    client = serve(store=shared_store.folder, max_queued_tokens=40)

    def ask(number):
        text = "AUG" * 3 + "".join("ACGU"[(number >> 2 * at) % 4] for at in range(4))
        return client.post("/v1/embeddings", json={"model": ONE_HOT, "input": text})

    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, 0)]
        assert held.busy.wait(60)
        asked += [pool.submit(ask, number) for number in range(1, 24)]
        while client.app.state.services.metrics.refused._value.get() < 20:
            time.sleep(0.005)
        held.free.set()
        answers = [each.result() for each in asked]
    refused = [each for each in answers if each.status_code == 429]
    assert len(refused) == 20  # one runs, three of 13 tokens wait
    for each in refused:
        assert_problem(each, 429, "queue-full")
        assert int(each.headers["retry-after"]) >= 1
    for each in set(answers) - set(refused):
        assert each.status_code == 200 and len(each.json()["data"]) == 1
    assert client.app.state.services.queue.waiting == (0, 0)


def test_an_answer_that_takes_too_long_is_504(serve, shared_store, held, assert_problem):
    client = serve(store=shared_store.folder, request_seconds=1)
    response = client.post("/v1/embeddings", json={"model": ONE_HOT, "input": "AUGAU"})
    assert_problem(response, 504, "timed-out")
    held.free.set()
    assert embed(client, input="AUGAU")["data"]


def test_a_client_that_goes_away_frees_its_place(serve, shared_store, held):
    import asyncio
    import json

    client = serve(store=shared_store.folder)
    queue = client.app.state.services.queue

    async def ask(text, gone):
        body = json.dumps({"model": ONE_HOT, "input": text}).encode()
        messages = [{"type": "http.request", "body": body}]
        status = []

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            status.append(message.get("status"))

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/embeddings",
            "query_string": b"",
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
        await client.app(scope, receive, send)
        return status[0]

    async def go():
        gone, stays = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(ask("AUGAUGA", stays))
        while not held.busy.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(ask("AUGAUGC", gone))
        third = asyncio.create_task(ask("AUGAUGG", stays))
        while queue.waiting != (2, 14):
            await asyncio.sleep(0.001)
        gone.set()
        assert await second == 499
        assert queue.waiting == (1, 7)
        held.free.set()
        return [await first, await third]

    assert asyncio.run(asyncio.wait_for(go(), 20)) == [200, 200]


def test_look_ups_go_on_while_models_are_busy(serve, shared_store, held):
    from concurrent.futures import ThreadPoolExecutor

    client = serve(store=shared_store.folder)
    with ThreadPoolExecutor(60) as pool:
        texts = ["AUG" + "A" * (number + 1) for number in range(60)]
        waiting = [pool.submit(embed, client, input=text) for text in texts]
        assert held.busy.wait(60)
        for _ in range(5):
            url = f"/v1/collections/genes/gene-0/embedding?backbone={ONE_HOT}"
            assert client.get(url).status_code == 200
        assert not any(each.done() for each in waiting)
        held.free.set()
        assert all(each.result()["data"] for each in waiting)


@pytest.fixture
def new_text():
    return "AUGCCCGGGUUU"


def test_new_embeddings_are_written_back_only_if_asked(serve, store, new_text):
    before = sorted(store.folder.rglob("*"))
    assert embed(serve(store=store.folder), input=new_text)["data"][0]["source"] == "computed"
    assert sorted(store.folder.rglob("*")) == before


@pytest.mark.parametrize("backbone", [ONE_HOT, "one-hot-dna"])
def test_what_is_written_back_is_what_a_build_stores(serve, store, new_text, backbone):
    """For a recipe of the store, and for one it did not have."""
    client = serve(store=store.folder, write_back=True, write_back_seconds=0)
    texts = [new_text, new_text + "A", new_text]
    made = embed(client, model=backbone, input=texts)["data"]
    view = [text.replace("U", "T") if backbone == "one-hot-dna" else text for text in texts]
    for _ in range(400):
        if backbone in {store.read_recipe(name).backbone for name in store.recipes()}:
            reader = store.recipe(backbone)
            if reader.has([each["key"] for each in made]).all():
                break
        time.sleep(0.01)
    for each, text in zip(made, view, strict=True):
        expected = reference(backbone, text)
        assert np.array_equal(reader.get(each["key"]), expected.tokens)
        assert np.array_equal(reader.means([each["key"]]), expected.mean)
    again = embed(client, model=backbone, input=texts)["data"]
    assert {each["source"] for each in again} == {"stored"}
    url = f"/v1/embeddings/{backbone}/{made[0]['key']}"
    assert client.get(url).status_code == 200
    assert list(store.folder.glob("recipes/*/drafts/*")) == []


def test_what_is_gathered_is_published_when_the_server_ends(store, new_text):
    from fastapi.testclient import TestClient

    from api.app import create_app
    from api.settings import Settings

    settings = Settings(store=store.folder, write_back=True, write_back_seconds=3600)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        key = embed(client, input=new_text)["data"][0]["key"]
        assert not store.recipe(ONE_HOT).has([key]).any()
    assert store.recipe(ONE_HOT).has([key]).all()


def test_a_disk_that_hangs_does_not_keep_the_server_from_ending(store, monkeypatch):
    from api.metrics import Metrics
    from api.write_back import WAITING_BATCHES, WriteBack
    from embedstore.store.segment import SegmentWriter

    free, busy = threading.Event(), threading.Event()

    def hang(self, keys, embedded):
        busy.set()
        assert free.wait(60)

    monkeypatch.setattr(SegmentWriter, "append", hang)
    metrics = Metrics()
    write_back = WriteBack(store, store.recipe, {}, metrics, 0)
    recipe, batch = store.find_recipe(ONE_HOT), reference(ONE_HOT, "AUGAUGUUU")
    write_back.keep(recipe, [key_of("AUGAUGUUU")], batch)
    assert busy.wait(60)
    for _ in range(WAITING_BATCHES + 1):
        write_back.keep(recipe, [key_of("AUGAUGUUU")], batch)
    write_back.close(0.01)
    assert metrics.written_back.labels("lost")._value.get() == 1
    free.set()


def test_a_disk_that_refuses_costs_no_request(serve, store, new_text, monkeypatch):
    from embedstore.errors import StoreFull
    from embedstore.store.segment import SegmentWriter

    def refuse(self, keys, embedded):
        raise StoreFull("No room.", "Make room.")

    monkeypatch.setattr(SegmentWriter, "append", refuse)
    client = serve(store=store.folder, write_back=True, write_back_seconds=0)
    for _ in range(2):
        assert embed(client, input=new_text)["data"][0]["source"] == "computed"
    lost = client.app.state.services.metrics.written_back.labels("lost")
    for _ in range(400):
        if lost._value.get() == 2:
            break
        time.sleep(0.01)
    assert lost._value.get() == 2
    assert list(store.folder.glob("recipes/*/drafts/*")) == []


def test_a_store_s_only_recipe_stands_for_its_backbone(serve, store, assert_problem):
    client = serve(store=store.folder)
    first = store.find_recipe(ONE_HOT).name
    assert embed(client, input="AUG")["model"] == first
    second = prepare(BackboneConfig(backbone=ONE_HOT, store_dtype="float32")).recipe
    store.write_recipe(second)
    response = client.post("/v1/embeddings", json={"model": ONE_HOT, "input": "AUG"})
    assert first in assert_problem(response, 404, "missing-recipe")["fix"]
    for name in (first, second.name):
        assert embed(client, model=name, input="AUG")["model"] == name


def test_given_weights_embed_what_the_store_lacks(serve, shared_store, tiny_esm):
    client = serve(store=shared_store.folder, weights={"esm2-8m": tiny_esm}, device="cpu")
    config = BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu")
    made = embed(client, model="esm2-8m", input=["MKLV", "MKLVWW"])
    expected = prepare(config).load().embed(["MKLV", "MKLVWW"]).mean
    assert made["model"] == prepare(config).recipe.name
    got = [each["embedding"] for each in made["data"]]
    assert np.allclose(got, expected, atol=1e-4)


def test_a_backbone_is_loaded_once_for_all_requests(serve, shared_store, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    loads = []
    real = PreparedBackbone.load
    monkeypatch.setattr(PreparedBackbone, "load", lambda self: loads.append(1) or real(self))
    client = serve(store=shared_store.folder)
    with ThreadPoolExecutor(8) as pool:
        texts = ["AUG" + "C" * number for number in range(8)]
        assert all(pool.map(lambda text: embed(client, input=text), texts))
    assert len(loads) == 1


def test_the_arrow_type_is_the_registered_one():
    assert ARROW == "application/vnd.apache.arrow.stream"
