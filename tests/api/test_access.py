"""Every request has an id, a line in the log and its place in the metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys

import pytest

from api.access import Access
from api.logs import FIELDS, JsonFormatter, TextFormatter

URL = "/v1/collections/genes/gene-0/embedding?backbone=one-hot-mrna"


def sample(client, name, **labels):
    """The value of one sample of /metrics; 0 where it is not there."""
    text = client.get("/metrics").text
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? ([0-9.e+-]+)", line)
        if found and wanted <= set(re.findall(r'\w+="[^"]*"', found[1] or "")):
            return float(found[2])
    return 0.0


def test_a_request_that_the_end_of_the_server_cuts_off_is_told_to_come_again(client):
    """An answer of ours with its id, in place of the bare 500 of the server below."""

    async def never(scope, receive, send):
        await asyncio.Event().wait()

    async def go():
        sent = []

        async def send(message):
            sent.append(message)

        access = Access(never, client.app.state.services.metrics)
        scope = {"type": "http", "method": "GET", "headers": [(b"x-request-id", b"mine")]}
        task = asyncio.create_task(access(scope, None, send))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sent

    start, body = asyncio.run(go())
    headers = dict(start["headers"])
    assert (start["status"], headers[b"x-request-id"]) == (503, b"mine")
    assert int(headers[b"retry-after"]) > 0
    assert json.loads(body["body"])["code"] == "not-ready"


@pytest.mark.parametrize("given", ["abc-123", "01HV.x_y:z/=+", "a" * 128])
def test_a_sane_request_id_comes_back(client, given):
    assert client.get("/health", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "a\tb", "{}", "é".encode()])
def test_any_other_is_replaced(client, given):
    made = client.get("/health", headers=[(b"x-request-id", given)] if given else []).headers
    assert re.fullmatch("[0-9a-f]{32}", made["x-request-id"])


def test_requests_without_one_get_different_ids(client):
    made = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3


def test_refusals_and_failures_have_ids_too(serve, shared_store, monkeypatch):
    client = serve(
        store=shared_store.folder, api_keys=("k",), raise_server_exceptions=False, request_seconds=1
    )
    assert client.get("/info").headers["x-request-id"]

    def fail(self):
        raise RuntimeError("cause")

    monkeypatch.setattr("api.shelf.ProbeShelf.listing", fail)
    response = client.get("/info", headers={"Authorization": "Bearer k", "X-Request-ID": "mine"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "mine"


def test_every_request_is_one_log_record_with_its_route(client, caplog):
    caplog.set_level(logging.INFO, "api.access")
    client.get(URL, headers={"X-Request-ID": "mine"})
    client.get("/no/such/route")
    first, second = (getattr(record, FIELDS) for record in caplog.records)
    assert first["route"] == "/v1/collections/{name}/{id:path}/embedding"
    assert (first["method"], first["status"]) == ("GET", 200)
    assert first["bytes"] > 0 and 0 < first["seconds"] < 60
    assert (second["route"], second["status"]) == ("none", 404)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_log_line_is_one_line_with_its_fields(formatter):
    record = logging.LogRecord("n", logging.INFO, "f", 1, "said %s", ("a\nb",), None)
    setattr(record, FIELDS, {"status": 200})
    text = formatter.format(record)
    assert "200" in text
    if isinstance(formatter, JsonFormatter):
        entry = json.loads(text)
        assert "\n" not in text
        assert (entry["message"], entry["status"], entry["level"]) == ("said a\nb", 200, "INFO")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])


def test_a_traceback_is_a_field_of_the_json(capsys):
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "m", (), sys.exc_info())
    assert "ValueError: why" in json.loads(JsonFormatter().format(record))["traceback"]


def test_metrics_count_requests_by_route_template(client):
    route = "/v1/collections/{name}/{id:path}/embedding"
    before = sample(client, "embedstore_requests_total", route=route, status="200")
    for _ in range(3):
        client.get(URL)
    assert sample(client, "embedstore_requests_total", route=route, status="200") == before + 3
    assert sample(client, "embedstore_request_seconds_count", route=route, method="GET") >= 3


def test_no_client_can_make_new_series(client):
    for path in ("/x1", "/x2"):
        client.get(path)
        client.request("BREW", path)
    text = client.get("/metrics").text
    assert "/x1" not in text and "BREW" not in text
    assert sample(client, "embedstore_requests_total", route="none", method="OTHER") == 2


def test_metrics_count_tokens_and_where_embeddings_came_from(client, gene_of):
    body = {"model": "one-hot-mrna", "input": [gene_of(0), gene_of(400)]}
    assert client.post("/v1/embeddings", json=body).status_code == 200
    assert sample(client, "embedstore_embeddings_total", source="stored") == 1
    assert sample(client, "embedstore_embeddings_total", source="computed") == 1
    assert sample(client, "embedstore_tokens_total") == len(gene_of(400))
    assert sample(client, "embedstore_queue_sequences") == 0


def test_metrics_need_a_key_and_readiness_does_not(serve, shared_store, assert_problem):
    client = serve(store=shared_store.folder, api_keys=("k",))
    assert_problem(client.get("/metrics"), 401, "unauthorised")
    assert client.get("/ready").json() == {"status": "ready"}


def test_a_server_whose_store_went_away_is_alive_and_not_ready(serve, store, assert_problem):
    client = serve(store=store.folder)
    store.folder.rename(store.folder.with_name("elsewhere"))
    problem = assert_problem(client.get("/ready"), 503, "not-ready")
    assert str(store.folder) not in str(problem)
    assert client.get("/health").status_code == 200


def test_a_server_that_ends_is_not_ready(serve, shared_store, assert_problem):
    client = serve(store=shared_store.folder)
    client.app.state.services.queue.close(0)
    response = client.get("/ready")
    assert_problem(response, 503, "not-ready")
    assert response.headers["retry-after"]
    body = {"model": "one-hot-mrna", "input": "AUGAUGA"}
    assert_problem(client.post("/v1/embeddings", json=body), 503, "not-ready")
