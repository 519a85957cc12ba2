"""Callers without a key, foreign names and large bodies are refused before any route runs."""

from __future__ import annotations

import hmac
import json

import pytest

from api.settings import Settings

KEYS = ("first-key", "second-key")


@pytest.fixture
def guarded(serve, shared_store, shared_probes):
    return serve(store=shared_store.folder, probes=shared_probes, api_keys=KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_any_of_the_keys_opens_every_route(guarded, key):
    assert guarded.get("/info", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert guarded.get("/info", headers={"Authorization": f"bearer  {key}"}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "first-key",
        "Bearer",
        "Bearer first-ke",
        "Bearer first-key,second-key",
        "Basic first-key",
    ],
)
@pytest.mark.parametrize("path", ["/info", "/v1/probes", "/openapi.json", "/no/such/route"])
def test_without_a_valid_key_nothing_is_told(guarded, assert_problem, value, path):
    response = guarded.get(path, headers={"Authorization": value} if value else {})
    assert_problem(response, 401, "unauthorised")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_of_odd_bytes_is_only_wrong(guarded, assert_problem):
    response = guarded.get("/info", headers=[(b"authorization", b"Bearer \xff\x80")])
    assert_problem(response, 401, "unauthorised")


def test_health_is_open(guarded):
    assert guarded.get("/health").json() == {"status": "ok"}


def test_keys_are_compared_in_constant_time_by_hash(guarded, monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    guarded.get("/info", headers={"Authorization": "Bearer first-key"})
    assert len(compared) == len(KEYS)  # the second too, though the first fits
    assert all(len(side) == 32 for pair in compared for side in pair)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "0.0.0.0"])
def test_without_keys_a_foreign_name_is_refused(client, assert_problem, host):
    """A page on the web can point a name of its own at 127.0.0.1 (DNS rebinding)."""
    assert_problem(client.get("/info", headers={"Host": host}), 403, "foreign-host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"])
def test_without_keys_this_machine_is_served_under_its_names(client, host):
    assert client.get("/info", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(
    serve, shared_store, shared_probes, assert_problem, chunked
):
    options = {"store": shared_store.folder, "probes": shared_probes, "max_letters": 100}
    limit = Settings(max_sequences=1, **options).max_request_bytes
    small = serve(max_sequences=1, **options)
    content = iter([b" " * limit, b" "]) if chunked else b" " * (limit + 1)
    response = small.post("/v1/probes/halflife/predict", content=content)
    assert_problem(response, 413, "too-large")


def test_a_body_at_the_limit_is_read(serve, shared_store, shared_probes):
    options = {"store": shared_store.folder, "probes": shared_probes, "max_letters": 100}
    limit = Settings(max_sequences=1, **options).max_request_bytes
    small = serve(max_sequences=1, **options)
    text = json.dumps({"sequences": [{"sequence": "AUGGCU"}]})
    response = small.post(
        "/v1/probes/halflife/predict",
        content=text.ljust(limit),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 200
