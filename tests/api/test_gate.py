"""Callers without a key, foreign names and large bodies are refused before any route runs."""

from __future__ import annotations

import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import RateLimited
from api.rate import RateLimit
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


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr("api.rate.time.monotonic", one)
    return one


def test_each_key_has_its_own_rate(serve, shared_store, assert_problem, clock):
    client = serve(store=shared_store.folder, api_keys=KEYS, requests_per_minute=6)
    first, second = ({"Authorization": f"Bearer {key}"} for key in KEYS)
    for _ in range(6):
        assert client.get("/v1/probes", headers=first).status_code == 200
    response = client.get("/v1/probes", headers=first)
    assert_problem(response, 429, "rate-limited")
    assert client.get("/v1/probes", headers=second).status_code == 200
    clock.now += int(response.headers["retry-after"])
    assert client.get("/v1/probes", headers=first).status_code == 200
    assert client.get("/v1/probes", headers=first).status_code == 429


def test_what_watches_the_server_and_wrong_keys_use_up_no_rate(serve, shared_store, clock):
    client = serve(store=shared_store.folder, api_keys=KEYS, requests_per_minute=1)
    for path in ("/health", "/ready", "/v1/probes"):
        assert client.get(path).status_code in (200, 401)
    header = {"Authorization": f"Bearer {KEYS[0]}"}
    assert client.get("/v1/probes", headers=header).status_code == 200


@given(gaps=st.lists(st.floats(0, 30), max_size=60), rate=st.integers(1, 20))
def test_no_stretch_of_time_holds_more_than_a_minute_s_burst_and_its_share(gaps, rate):
    clock = Clock()
    limit = RateLimit(rate)
    passed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.rate.time.monotonic", clock)
        for gap in gaps:
            clock.now += gap
            try:
                limit.take(b"key")
            except RateLimited as error:
                assert error.retry_after >= 1
            else:
                passed.append(clock.now)
    for at, begin in enumerate(passed):
        for more, end in enumerate(passed[at:], start=1):
            assert more <= rate + (end - begin) * rate / 60 + 1e-6


def test_a_body_that_comes_too_slowly_is_408(serve, shared_store):
    import asyncio

    from api.gate import Gate

    async def never():
        await asyncio.sleep(60)

    sent = []

    async def send(message):
        sent.append(message)

    gate = Gate(None, Settings(store=shared_store.folder, request_seconds=1))
    gate._seconds = 0.01
    scope = {"type": "http", "path": "/", "headers": [(b"content-length", b"5")]}
    asyncio.run(gate(scope, never, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "slow-body"


def test_pages_of_other_origins_are_told_nothing_unless_allowed(serve, shared_store):
    page = {"Origin": "https://lab.example"}
    closed = serve(store=shared_store.folder).get("/info", headers=page)
    assert "access-control-allow-origin" not in closed.headers
    client = serve(store=shared_store.folder, api_keys=KEYS, cors_origins=("https://lab.example",))
    asked = {**page, "Access-Control-Request-Method": "POST"}
    before = client.options("/v1/embeddings", headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "https://lab.example"
    refused = client.get("/info", headers=page)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://lab.example"
    other = client.get("/info", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_other_machines_are_served_without_keys_only_where_told(serve, shared_store):
    client = serve(store=shared_store.folder, host="0.0.0.0", allow_no_keys=True)
    assert client.get("/info", headers={"Host": "node7.example:8000"}).status_code == 200
