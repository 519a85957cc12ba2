"""What is answered from memory is what the store would answer, at any moment."""

from __future__ import annotations

import os
import time

import pyarrow as pa
import pytest

from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import Record, Records

BACKBONE = "one-hot-mrna"
RECORD = f"/v1/collections/genes/gene-0/embedding?backbone={BACKBONE}"
MEAN = f"/v1/collections/genes/gene-0/mean?backbone={BACKBONE}"
JSON = {"Accept": "application/json"}


def hits(client):
    return client.app.state.services.metrics.answers.labels("hit")._value.get()


def is_held(client, url, **headers):
    """Whether the next answer comes from memory."""
    before = hits(client)
    client.get(url, headers=headers)
    return hits(client) == before + 1


def age(store):
    """Make the store older than the clock's tick: what is younger is never held."""
    past = time.time_ns() - 10**9
    for path in [store.folder, *store.folder.rglob("*")]:
        os.utime(path, ns=(past, past))


@pytest.fixture
def aged(store):
    age(store)
    return store


@pytest.mark.parametrize("url", [RECORD, MEAN, f"{RECORD}&rows=1:3"])
@pytest.mark.parametrize("headers", [{}, JSON])
def test_the_second_answer_is_the_first_to_the_byte(serve, aged, url, headers):
    client = serve(store=aged.folder)
    first = client.get(url, headers={**headers, "X-Request-ID": "one"})
    assert first.status_code == 200 and hits(client) == 0
    second = client.get(url, headers={**headers, "X-Request-ID": "one"})
    assert hits(client) == 1
    assert second.content == first.content
    assert dict(second.headers) == dict(first.headers)
    fresh = serve(store=aged.folder, cache_bytes=0)
    assert fresh.get(url, headers=headers).content == first.content
    tag = first.headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        again = client.get(url, headers={**headers, "If-None-Match": known})
        assert again.status_code == 304 and again.content == b""
        assert again.headers["etag"] == tag
    assert client.get(url, headers={**headers, "If-None-Match": '"x"'}).content == first.content


def test_form_rows_and_record_are_told_apart(serve, aged):
    client = serve(store=aged.folder)
    urls = [RECORD, MEAN, f"{RECORD}&rows=0:2", RECORD.replace("gene-0", "a%2Fb%2Fc")]
    answers = [client.get(url, headers=headers) for url in urls for headers in ({}, JSON)]
    assert len({each.content for each in answers}) == len(answers)
    again = [client.get(url, headers=headers) for url in urls for headers in ({}, JSON)]
    assert [each.content for each in again] == [each.content for each in answers]
    assert hits(client) == len(urls) * 2


def test_damage_is_seen_though_the_answer_is_held(serve, aged, assert_problem):
    client = serve(store=aged.folder)
    client.get(RECORD)
    assert is_held(client, RECORD)
    for shard in aged.folder.glob("recipes/*/segments/*/tokens/c/0/0"):
        content = bytearray(shard.read_bytes())
        content[0] ^= 1
        content[len(content) // 3] ^= 1
        shard.write_bytes(bytes(len(content)))
    assert_problem(client.get(RECORD), 500, "damaged-segment")


def test_a_replaced_collection_is_seen_though_the_answer_is_held(serve, aged, gene_of):
    client = serve(store=aged.folder)
    before = client.get(RECORD).content
    assert is_held(client, RECORD)
    records = Records([Record("gene-0", gene_of(88), "mrna")], pa.table({}), 0, [])
    prepared = prepare(BackboneConfig(backbone=BACKBONE))
    build(aged, records, prepared, BuildConfig(collection="genes", quiet=True, replace=True))
    after = client.get(RECORD)
    assert after.status_code == 200 and after.content != before


def test_a_second_recipe_makes_the_name_ambiguous_though_the_answer_is_held(
    serve, aged, assert_problem
):
    client = serve(store=aged.folder)
    client.get(RECORD)
    assert is_held(client, RECORD)
    aged.write_recipe(prepare(BackboneConfig(backbone=BACKBONE, store_dtype="float32")).recipe)
    assert_problem(client.get(RECORD), 404, "missing-recipe")


def test_a_key_is_asked_for_before_anything_is_told(serve, aged, assert_problem):
    client = serve(store=aged.folder, api_keys=("k",))
    key = {"Authorization": "Bearer k"}
    client.get(RECORD, headers=key)
    assert is_held(client, RECORD, **key)
    assert_problem(client.get(RECORD), 401, "unauthorised")


def test_refusals_are_not_held(serve, aged):
    client = serve(store=aged.folder)
    for url in (RECORD.replace("gene-0", "nobody"), f"{RECORD}&rows=9:1"):
        assert client.get(url).status_code in (404, 422)
        assert not is_held(client, url)


def test_a_store_that_has_just_changed_is_read_each_time(serve, aged):
    client = serve(store=aged.folder)
    future = time.time_ns() + 10**10
    for segments in aged.folder.glob("recipes/*/segments"):
        os.utime(segments, ns=(future, future))
    client.get(RECORD)
    assert not is_held(client, RECORD)


def test_no_more_is_held_than_was_allowed(serve, aged, odd_ids):
    from urllib.parse import quote

    client = serve(store=aged.folder, cache_bytes=9 * 2_500)
    urls = [RECORD.replace("gene-0", quote(id, safe="")) for id in odd_ids]
    answers = [client.get(url).content for url in urls]
    shelf = client.app.state.services.answers
    assert 0 < shelf._bytes <= 9 * 2_500
    assert shelf._bytes == sum(each.size for each in shelf._held.values())
    assert [client.get(url).content for url in urls] == answers


def test_the_log_names_the_route_of_a_held_answer(serve, aged):
    client = serve(store=aged.folder)
    for _ in range(3):
        client.get(RECORD)
    text = client.get("/metrics").text
    route = "/v1/collections/{name}/{id:path}/embedding"
    assert f'method="GET",route="{route}",status="200"}} 3.0' in text
