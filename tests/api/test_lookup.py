"""Many stored embeddings at once: each present, as stored, or absent, with the reason."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.arrow import ARROW, mean_stream, token_stream

BACKBONE = "one-hot-protein"
JSON, STREAM = {"Accept": "application/json"}, {"Accept": ARROW}


def look_up(client, headers=JSON, **body):
    response = client.post(
        "/v1/embeddings/lookup", json={"backbone": BACKBONE, **body}, headers=headers
    )
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("pooled", [False, True])
def test_entries_come_in_the_order_asked_present_or_absent(client, shared_store, pooled):
    ids = ["配列", "nobody", "no-frame", "a/b/c", "配列"]
    body = look_up(client, collection="genes", ids=ids, pooled=pooled).json()
    reader = shared_store.recipe(BACKBONE)
    assert [each["id"] for each in body["items"]] == ids
    status = ["present", "absent", "absent", "present", "present"]
    assert [each["status"] for each in body["items"]] == status
    assert body["recipe"] == reader.name
    assert body["dtype"] == ("float32" if pooled else "float16")
    for each in body["items"]:
        if each["status"] == "absent":
            assert each["embedding"] is None and each["reason"] == "missing-record"
            continue
        key = shared_store.find_key(each["id"], "protein")
        expected = reader.means([key])[0] if pooled else reader.get(key)
        assert each["key"] == key and each["reason"] is None
        assert np.array_equal(np.array(each["embedding"], body["dtype"]), expected)


@pytest.mark.parametrize("pooled", [False, True])
def test_an_arrow_stream_says_the_same(client, shared_store, pooled):
    keys = ["0" * 32, shared_store.find_key("gene-0", "protein"), "f" * 32]
    table = pa.ipc.open_stream(look_up(client, STREAM, keys=keys, pooled=pooled).content).read_all()
    body = look_up(client, JSON, keys=keys, pooled=pooled).json()
    assert body["items"] == table.to_pylist()
    assert table.column("status").to_pylist() == ["absent", "present", "absent"]
    assert table.column("reason").to_pylist() == ["missing-embedding", None, "missing-embedding"]
    assert table.column("embedding").null_count == 2


def test_all_absent_is_an_answer_too(client):
    items = look_up(client, keys=["0" * 32]).json()["items"]
    assert [each["status"] for each in items] == ["absent"]
    table = pa.ipc.open_stream(look_up(client, STREAM, keys=["0" * 32]).content).read_all()
    assert table.column("embedding").to_pylist() == [None]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"keys": []},
        {"ids": [], "collection": "genes"},
        {"ids": ["gene-0"]},
        {"keys": ["0" * 32], "collection": "genes"},
        {"keys": ["0" * 32], "ids": ["gene-0"], "collection": "genes"},
        {"keys": ["0" * 31]},
        {"keys": ["G" * 32]},
        {"keys": ["0" * 32], "pooled": "perhaps"},
        {"keys": ["0" * 32], "more": 1},
    ],
)
def test_a_request_that_is_not_clear_is_422(client, assert_problem, body):
    response = client.post("/v1/embeddings/lookup", json={"backbone": BACKBONE, **body})
    assert_problem(response, 422, "bad-input")


def test_unknown_recipes_and_collections_are_404(client, assert_problem):
    url = "/v1/embeddings/lookup"
    response = client.post(url, json={"backbone": "esm2-8m", "keys": ["0" * 32]})
    assert_problem(response, 404, "missing-recipe")
    body = {"backbone": BACKBONE, "ids": ["x"], "collection": "other"}
    assert_problem(client.post(url, json=body), 404, "missing-collection")


def test_npy_is_not_offered(client, assert_problem):
    body = {"backbone": BACKBONE, "keys": ["0" * 32]}
    headers = {"Accept": "application/x-npy"}
    response = client.post("/v1/embeddings/lookup", json=body, headers=headers)
    assert_problem(response, 406, "not-acceptable")


def test_what_is_too_large_is_refused_before_any_read(serve, store, assert_problem):
    for shard in store.folder.glob("recipes/*/segments/*/tokens/c/0/0"):
        shard.unlink()  # a read would fail
    reader = store.recipe(BACKBONE)
    keys = reader.keys()[:3]
    size = int(reader.lengths(keys).sum()) * 20 * 2
    body = {"backbone": BACKBONE, "keys": keys}
    url = "/v1/embeddings/lookup"
    exact = serve(store=store.folder, max_response_bytes=size)
    assert_problem(exact.post(url, json=body, headers=STREAM), 500, "damaged-segment")
    assert_problem(exact.post(url, json=body), 413, "too-large")  # JSON takes more
    small = serve(store=store.folder, max_response_bytes=size - 1)
    assert_problem(small.post(url, json=body, headers=STREAM), 413, "too-large")
    few = serve(store=store.folder, max_sequences=2)
    assert_problem(few.post(url, json=body), 413, "too-large")


def test_repeats_count_as_often_as_they_are_sent(serve, shared_store, assert_problem):
    reader = shared_store.recipe(BACKBONE)
    (key,) = reader.keys()[:1]
    size = int(reader.lengths([key])[0]) * 20 * 2
    client = serve(store=shared_store.folder, max_response_bytes=size)
    assert look_up(client, STREAM, keys=[key])
    body = {"backbone": BACKBONE, "keys": [key, key]}
    response = client.post("/v1/embeddings/lookup", json=body, headers=STREAM)
    assert_problem(response, 413, "too-large")


@given(
    lengths=st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=8),
    width=st.integers(1, 5),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_a_stream_gives_back_every_matrix_and_every_gap(lengths, width, dtype):
    rng = np.random.default_rng(0)
    made = [
        None if length is None else rng.standard_normal((length, width)).astype(dtype)
        for length in lengths
    ]
    names = [str(at) for at in range(len(made))]
    table = pa.ipc.open_stream(token_stream({"id": names}, made, width, dtype, {})).read_all()
    means = [None if each is None else each[0].astype(np.float32) for each in made]
    pooled = pa.ipc.open_stream(mean_stream({"id": names}, means, width, {})).read_all()
    assert table.column("id").to_pylist() == names
    for at, (each, mean) in enumerate(zip(made, means, strict=True)):
        rows, average = table.column("embedding")[at], pooled.column("embedding")[at]
        if each is None:
            assert rows.as_py() is None and average.as_py() is None
        else:
            flat = rows.values.flatten().to_numpy()
            assert np.array_equal(flat.reshape(-1, width), each) and flat.dtype == dtype
            assert np.array_equal(average.values.to_numpy(), mean)
