"""Stored embeddings over HTTP are those of the store; size and ETag are known before a read."""

from __future__ import annotations

import io
import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.arrow import ARROW
from api.representations import JSON_NUMBER_BYTES, OFFERED, choose_media_type, parse_rows
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import BadInput
from embedstore.records import Record, Records

BACKBONE = "one-hot-mrna"
URL = "/v1/collections/genes/gene-0/embedding?backbone=one-hot-mrna"
JSON = {"Accept": "application/json"}


def load(response):
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content), allow_pickle=False)


def by_key(store, id="gene-0"):
    reader = store.recipe(BACKBONE)
    return f"/v1/embeddings/{reader.name}/{store.find_key(id, 'mrna')}"


def damage(store):
    """Flip one bit of the stored embedding of gene-0."""
    reader = store.recipe(BACKBONE)
    info = reader.info(store.find_key("gene-0", "mrna"))
    (segment,) = [each for each in reader.segments if each.name == info.segment]
    shard = segment.folder / "tokens/c/0/0"
    content = bytearray(shard.read_bytes())
    content[int(segment.start[info.row]) * info.shape[1] * 2] ^= 1
    shard.write_bytes(content)


def test_a_record_comes_as_npy_exactly_as_stored(client, shared_store):
    response = client.get(URL)
    stored = shared_store.recipe(BACKBONE).get("gene-0", "genes")
    assert load(response).dtype == stored.dtype == np.float16
    assert np.array_equal(load(response), stored)
    assert response.headers["content-type"] == "application/x-npy"


def test_a_key_gives_what_its_record_gives(client, shared_store):
    assert client.get(by_key(shared_store)).content == client.get(URL).content


def test_json_holds_the_same_numbers(client, shared_store):
    body = client.get(URL, headers=JSON).json()
    stored = shared_store.recipe(BACKBONE).get("gene-0", "genes")
    assert np.array_equal(np.array(body["embedding"], body["dtype"]), stored)
    assert body["shape"] == list(stored.shape)
    assert body["rows"] == [0, len(stored)]
    assert body["recipe"] == shared_store.find_recipe(BACKBONE).name


def test_the_mean_is_that_of_the_store(client, shared_store):
    reader = shared_store.recipe(BACKBONE)
    mean = reader.means([shared_store.find_key("gene-0", "mrna")])[0]
    assert np.array_equal(load(client.get(by_key(shared_store) + "/mean")), mean)
    url = f"/v1/collections/genes/gene-0/mean?backbone={BACKBONE}"
    assert np.array_equal(load(client.get(url)), mean)
    body = client.get(url, headers=JSON).json()
    assert np.array_equal(np.array(body["mean"], np.float32), mean)
    assert body["shape"] == [4] and body["dtype"] == "float32"


def test_an_arrow_stream_holds_the_same_numbers(client, shared_store):
    accept = {"Accept": ARROW}
    response = client.get(f"{URL}&rows=2:5", headers=accept)
    assert response.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(response.content).read_all()
    stored = shared_store.recipe(BACKBONE).get("gene-0", "genes")
    (rows,) = table.column("embedding")
    assert rows.values.flatten().to_numpy().dtype == np.float16
    assert np.array_equal(np.array(rows.as_py()), stored[2:5])
    assert table.column("key").to_pylist() == [shared_store.find_key("gene-0", "mrna")]
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    recipe = shared_store.find_recipe(BACKBONE)
    assert about == {"recipe": recipe.name, "view": "mrna", "rows": "2:5"}
    response = client.get(by_key(shared_store) + "/mean", headers=accept)
    (mean,) = pa.ipc.open_stream(response.content).read_all().column("embedding")
    assert np.array_equal(mean.values.to_numpy(), stored.astype(np.float32).mean(axis=0))


def test_a_plain_slash_in_an_id_needs_no_encoding(client, shared_store):
    stored = shared_store.recipe(BACKBONE).get("a/b/c", "genes")
    url = f"/v1/collections/genes/a/b/c/embedding?backbone={BACKBONE}"
    assert np.array_equal(load(client.get(url)), stored)


@pytest.mark.parametrize(
    "rows, part",
    [("0:2", slice(0, 2)), ("3:", slice(3, None)), (":1", slice(1)), (":", slice(None))],
)
def test_rows_are_a_half_open_slice(client, shared_store, rows, part):
    stored = shared_store.recipe(BACKBONE).get("gene-0", "genes")
    assert np.array_equal(load(client.get(f"{URL}&rows={rows}")), stored[part])
    assert client.get(f"{URL}&rows={rows}", headers=JSON).json()["shape"][0] == len(stored[part])


@pytest.mark.parametrize(
    "rows", ["", "1", "2:2", "3:1", "-1:", "0:16", "0:99999999999999", "a:b", "\u0660:\u0662"]
)
def test_rows_that_are_not_there_are_refused(client, assert_problem, rows):
    assert_problem(client.get(f"{URL}&rows={rows}"), 422, "bad-input")


@given(length=st.integers(1, 50), first=st.integers(0, 60), stop=st.integers(0, 60))
def test_a_slice_is_accepted_exactly_where_numpy_gives_all_of_it(length, first, stop):
    whole = len(np.zeros(length)[first:stop]) == stop - first > 0
    try:
        assert parse_rows(f"{first}:{stop}", length) == (first, stop)
        assert whole
    except BadInput:
        assert not whole


@pytest.mark.parametrize(
    "accept, expected",
    [
        ("", OFFERED[0]),
        ("*/*", OFFERED[0]),
        ("application/*", OFFERED[0]),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
        ("application/x-npy;q=0, */*", "application/octet-stream"),
        ("application/json, application/x-npy", OFFERED[0]),
        ("APPLICATION/JSON ; Q=1.0", "application/json"),
        ("application/octet-stream", "application/octet-stream"),
    ],
)
def test_accept_chooses_the_best_liked(accept, expected):
    assert choose_media_type(accept, OFFERED) == expected


@pytest.mark.parametrize("accept", ["text/csv", "image/*", "application/json;q=0", "*/*;q=0", "x"])
def test_what_is_not_offered_is_406(client, assert_problem, accept):
    assert_problem(client.get(URL, headers={"Accept": accept}), 406, "not-acceptable")


def test_every_representation_has_its_own_strong_etag(client, shared_store):
    answers = [
        client.get(URL),
        client.get(URL, headers=JSON),
        client.get(URL, headers={"Accept": ARROW}),
        client.get(f"{URL}&rows=0:2"),
        client.get(f"/v1/collections/genes/gene-0/mean?backbone={BACKBONE}"),
        client.get("/v1/collections/genes/gene-0/embedding?backbone=one-hot-protein"),
        client.get(f"/v1/collections/genes/a/b/c/embedding?backbone={BACKBONE}"),
    ]
    tags = [answer.headers["etag"] for answer in answers]
    assert len(set(tags)) == len(tags)
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)
    info = shared_store.recipe(BACKBONE).info(shared_store.find_key("gene-0", "mrna"))
    assert info.checksum in tags[0]
    assert {answer.headers["vary"] for answer in answers} == {"Accept"}


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_a_known_etag_gives_304_and_no_read(serve, store, form):
    client = serve(store=store.folder)
    tag = client.get(URL).headers["etag"]
    damage(store)  # a read would fail
    response = client.get(URL, headers={"If-None-Match": form.format(tag)})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == tag


def test_another_etag_gives_the_content(client):
    tag = client.get(URL, headers=JSON).headers["etag"]
    assert client.get(URL, headers={"If-None-Match": tag}).status_code == 200


def test_too_large_is_known_before_any_read(serve, store, assert_problem):
    damage(store)
    client = serve(store=store.folder, max_response_bytes=5 * 4 * 2)  # five rows of four float16
    body = assert_problem(client.get(URL), 413, "too-large")
    assert "rows=0:5" in body["fix"]
    assert client.get(f"{URL}&rows=0:5").json()["code"] == "damaged-segment"  # small enough to read


def test_the_rows_that_413_suggests_are_sent(serve, shared_store):
    client = serve(store=shared_store.folder, max_response_bytes=5 * 4 * 2)
    assert load(client.get(f"{URL}&rows=0:5")).shape == (5, 4)


@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(width=16, allow_nan=False, allow_infinity=False)
)
def test_a_number_in_json_takes_no_more_bytes_than_it_is_counted_for(number):
    assert len(json.dumps(number)) + 1 <= JSON_NUMBER_BYTES
    assert math.isfinite(number)


def test_a_flipped_bit_is_500_and_never_served(serve, store, assert_problem):
    damage(store)
    client = serve(store=store.folder)
    for headers in ({}, JSON):
        body = assert_problem(client.get(URL, headers=headers), 500, "damaged-segment")
        assert str(store.folder) not in str(body)


def test_a_lost_shard_is_500_not_404(serve, store, assert_problem):
    for shard in store.folder.glob("recipes/*/segments/*/tokens"):
        shutil.rmtree(shard)
    assert_problem(serve(store=store.folder).get(URL), 500, "damaged-segment")


@pytest.mark.parametrize(
    "path, code",
    [
        ("collections/other/gene-0/embedding?backbone=one-hot-mrna", "missing-collection"),
        ("collections/genes/nobody/embedding?backbone=one-hot-mrna", "missing-record"),
        ("collections/genes/no-frame/embedding?backbone=one-hot-protein", "missing-record"),
        ("collections/genes/gene-0/embedding?backbone=esm2-8m", "missing-recipe"),
        ("embeddings/esm2-8m-0123456789/" + "0" * 32, "missing-recipe"),
        ("embeddings/one-hot-mrna/" + "0" * 32, "missing-embedding"),
    ],
)
def test_what_is_absent_is_404(client, assert_problem, path, code):
    assert_problem(client.get(f"/v1/{path}"), 404, code)


def test_a_key_of_another_form_is_422(client, assert_problem):
    for key in ("0" * 31, "G" * 32, "A" * 32):
        assert_problem(client.get(f"/v1/embeddings/one-hot-mrna/{key}"), 422, "bad-input")


ESCAPES = [
    "..%2f..%2fetc%2fpasswd",
    "%2fetc%2fpasswd",
    "%2e%2e",
    "..%5c..",
    "genes%00",
    "%00",
    ".",
    "*",
    "%ff",
    "x" * 5000,
]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_reaches_the_file_system(client, monkeypatch, name):
    """Names are looked up in lists: a path with the name in it is never even asked for."""
    from pathlib import Path
    from urllib.parse import unquote

    text = unquote(name)
    real = Path.stat

    def watched(self, **options):
        assert text in (".", "*") or text not in str(self)
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", watched)
    for path in (
        f"/v1/collections/{name}/gene-0/embedding?backbone={BACKBONE}",
        f"/v1/collections/genes/{name}/embedding?backbone={BACKBONE}",
        f"/v1/collections/genes/gene-0/embedding?backbone={name}",
        f"/v1/embeddings/{name}/{'0' * 32}",
        f"/v1/embeddings/{BACKBONE}/{name}",
    ):
        response = client.get(path)
        assert response.status_code in (404, 422), path
        assert set(response.json()) == {"code", "problem", "fix"}
    body = {"ids": ["gene-0"], "collection": "genes"}
    assert client.post(f"/v1/probes/{name}/predict", json=body).status_code == 404
    body = {"ids": ["gene-0"], "collection": text}
    assert client.post("/v1/probes/halflife/predict", json=body).status_code == 404


def test_what_a_build_adds_is_seen_at_once(serve, store, gene_of):
    client = serve(store=store.folder)
    url = f"/v1/collections/more/new/embedding?backbone={BACKBONE}"
    assert client.get(URL).status_code == 200  # the reader is held now
    assert client.get(url).status_code == 404
    records = Records([Record("new", gene_of(77), "mrna")], pa.table({}), 0, [])
    prepared = prepare(BackboneConfig(backbone=BACKBONE))
    build(store, records, prepared, BuildConfig(collection="more", quiet=True))
    assert load(client.get(url)).shape == (len(gene_of(77)), 4)


def test_a_backbone_that_gains_a_second_recipe_must_be_named_in_full(serve, store, assert_problem):
    client = serve(store=store.folder)
    first = store.find_recipe(BACKBONE).name
    before = client.get(URL).content
    store.write_recipe(prepare(BackboneConfig(backbone=BACKBONE, store_dtype="float32")).recipe)
    assert first in assert_problem(client.get(URL), 404, "missing-recipe")["fix"]
    assert client.get(URL.replace(BACKBONE, first)).content == before


def test_a_segment_built_again_after_damage_is_served(serve, store, assert_problem):
    """Its name is the same, for it is made of the keys."""
    client = serve(store=store.folder)
    before = client.get(URL).content
    damage(store)
    assert_problem(client.get(URL), 500, "damaged-segment")
    for segment in list(store.folder.glob("recipes/*/segments/*")):
        segment.rename(store.folder.parent / f"{segment.parents[1].name}-{segment.name}")
    collection = store.collection("genes")
    records = Records(collection.records(), collection.table.select(["halflife"]), 0, [])
    prepared = prepare(BackboneConfig(backbone=BACKBONE))
    build(store, records, prepared, BuildConfig(collection="genes", quiet=True))
    assert client.get(URL).content == before


def test_info_counts_what_is_there(client, shared_store, odd_ids):
    info = client.get("/info").json()
    assert info["collections"] == [{"name": "genes", "records": len(odd_ids) + 2}]
    counts = {each["backbone"]: each["keys"] for each in info["recipes"]}
    assert counts == {"one-hot-mrna": len(odd_ids) + 2, "one-hot-protein": len(odd_ids) + 1}
    assert info["probes"] == ["halflife", "protein-side"]
    assert set(info["versions"]) >= {"embedstore", "python", "torch"}
