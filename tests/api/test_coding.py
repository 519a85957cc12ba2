"""Every route that takes a sequence reads it by the coding region and genetic code it is sent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from api.client import Client, ClientError
from embedstore import create_store, key_of
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.dogma import Coding
from embedstore.errors import BadInput
from embedstore.records import Record, Records

GENE = "AUGGCUGCUAAGUUCUAA"  # gene-1 of conftest.py's store is of this kind
TRANSCRIPT = "GGC" + "A" + GENE + "CCCCA"
REGION = {"start": 4, "stop": 4 + len(GENE)}
BACTERIAL = "GUG" + GENE[3:]
SEC = "AUGGCUUGAGCUUAA"
CASES = [
    (TRANSCRIPT, {"coding_region": REGION}, "MAAKF"),
    (TRANSCRIPT, {"orf": "longest"}, "MAAKF"),
    (BACTERIAL, {"genetic_code": 11}, "MAAKF"),
    ("CC" + BACTERIAL, {"genetic_code": 11, "coding_region": {"start": 2, "stop": 20}}, "MAAKF"),
    ("AUGCUGUAA", {"genetic_code": 12}, "MS"),
    (SEC, {"allow_inner_stop": True}, "MAXA"),
    (SEC, {"selenocysteine": True}, "MAUA"),
    (SEC, {"genetic_code": 4}, "MAWA"),
]
WRONG = [
    ({"coding_region": {"start": 4, "stop": 400}}, "no part of its 27 nt"),
    ({"coding_region": {"start": 9, "stop": 9}}, "no part of its 27 nt"),
    ({"genetic_code": 7}, "NCBI has no genetic code 7"),
    ({"orf": "longest", "coding_region": REGION}, "Send one of them"),
    ({"orf": "longest", "genetic_code": 28}, "cannot be told"),
]


def all_routes(client, sequence, given, molecule="mrna"):
    """The key that each route reads of a sequence as protein; an error's words where it fails."""
    one = {"sequence": sequence, "molecule": molecule, **given}
    several = {"model": "one-hot-protein", "input": sequence, "molecule": molecule, **given}
    accept = {"Accept": "application/json"}
    asked = {
        "embeddings": ("/v1/embeddings", several, lambda a: a["data"][0]["key"]),
        "tokens": ("/v1/token-embeddings", several, _key_or_error),
        "predict": (
            "/v1/probes/protein-side/predict",
            {"sequences": [one]},
            _key_or_problem,
        ),
        "neighbors": ("/v1/neighbors", {"backbone": "one-hot-protein", **one}, lambda a: a["key"]),
        "views": ("/v1/views", one, _protein_view),
    }
    found = {}
    for name, (path, body, key) in asked.items():
        response = client.post(path, json=body, headers=accept)
        answer = response.json()
        found[name] = (
            key(answer) if response.is_success else answer["problem"] + " " + answer["fix"]
        )
    return found


def _key_or_error(answer):
    (entry,) = answer["data"]
    return entry["key"] or entry["error"]["problem"] + " " + entry["error"]["fix"]


def _key_or_problem(answer):
    (entry,) = answer["predictions"]
    return entry["key"] if "key" in entry else " ".join(map(entry["error"].get, ("problem", "fix")))


def _protein_view(answer):
    (view,) = (each for each in answer["views"] if each["view"] == "protein")
    return view["key"] or view["error"]["problem"]


@pytest.fixture
def ready(serve, store, probes):
    """A client of a server whose index of neighbours is made; over copies, for it is kept there."""
    import time

    client = serve(store=store.folder, probes=probes)

    for _ in range(200):
        body = {"backbone": "one-hot-protein", "sequence": "MAA", "molecule": "protein"}
        if client.post("/v1/neighbors", json=body).status_code != 503:
            return client
        time.sleep(0.05)
    raise AssertionError("the index was never made")


@pytest.mark.parametrize(("sequence", "given", "protein"), CASES)
@pytest.mark.parametrize("molecule", ["mrna", "dna"])
def test_every_route_reads_the_same_protein(ready, sequence, given, protein, molecule):
    if molecule == "dna":
        sequence = sequence.replace("U", "T")
    found = all_routes(ready, sequence, given, molecule)
    assert found == dict.fromkeys(found, key_of(protein))


@pytest.mark.parametrize(("given", "problem"), WRONG)
def test_every_route_refuses_what_cannot_be(ready, given, problem):
    for answer in all_routes(ready, TRANSCRIPT, given).values():
        assert problem in answer


def test_every_route_refuses_to_translate_a_protein(ready):
    for answer in all_routes(ready, "MAAKF", {"genetic_code": 11}, "protein").values():
        assert "is a protein, which is not translated" in answer


def test_a_transcript_without_its_region_is_told_what_to_send(ready):
    found = all_routes(ready, TRANSCRIPT, {})
    assert "coding_region or orf" in found["tokens"] and "genetic_code" in found["neighbors"]


def test_views_say_where_they_lie(client):
    body = {"sequence": TRANSCRIPT, "molecule": "mrna", "coding_region": REGION}
    views = {each["view"]: each for each in client.post("/v1/views", json=body).json()["views"]}
    assert {name: (each["start"], each["step"]) for name, each in views.items()} == {
        "mrna": (0, 1),
        "dna": (0, 1),
        "cds": (4, 1),
        "protein": (4, 3),
    }
    assert views["cds"]["text"] == GENE and views["mrna"]["text"] == TRANSCRIPT


def test_a_region_for_each_of_several_inputs(client):
    body = {"model": "one-hot-protein", "input": [TRANSCRIPT, GENE], "molecule": "mrna"}
    answer = client.post("/v1/embeddings", json=body | {"coding_region": [REGION, None]}).json()
    assert [each["key"] for each in answer["data"]] == [key_of("MAAKF")] * 2
    refused = client.post("/v1/embeddings", json=body | {"coding_region": [REGION]})
    assert refused.status_code == 422 and "lists 1, and input 2" in refused.json()["problem"]


def test_only_a_sequence_has_neighbours_by_a_code(client):
    body = {"backbone": "one-hot-protein", "key": "00" * 16, "genetic_code": 11}
    refused = client.post("/v1/neighbors", json=body)
    assert refused.status_code == 422 and "Leave out genetic_code" in refused.json()["fix"]


def test_stored_records_are_predicted_by_their_own_regions(tmp_path, serve, shared_probes):
    rows = [
        Record("utr", TRANSCRIPT, "mrna", Coding(4, 4 + len(GENE))),
        Record("bacterial", BACTERIAL, "mrna", Coding(code=11)),
        Record("no-region", TRANSCRIPT, "mrna", Coding(absent="no-coding-region")),
    ]
    store = create_store(tmp_path / "s")
    for backbone in ("one-hot-protein", "one-hot-mrna"):
        prepared = prepare(BackboneConfig(backbone=backbone))
        config = BuildConfig(collection="t", quiet=True)
        build(store, Records(rows, pa.table({}), 0, []), prepared, config)
    client = serve(store=store.folder, probes=shared_probes)
    ids = [row.id for row in rows]
    path = "/v1/probes/protein-side/predict"
    answer = client.post(path, json={"ids": ids, "collection": "t"}).json()["predictions"]
    assert [each.get("key") for each in answer] == [key_of("MAAKF")] * 2 + [None]
    assert answer[2]["error"]["code"] == "no-coding-region"
    assert answer[0]["embedding"] == "stored"
    sent = [{"sequence": TRANSCRIPT, "coding_region": REGION}]
    again = client.post(path, json={"sequences": sent}).json()["predictions"]
    assert again[0]["probabilities"] == answer[0]["probabilities"]


def test_the_client_sends_regions_and_codes(ready):
    with Client("http://127.0.0.1", transport=_through(ready)) as mine:
        whole = mine.embed([GENE] * 300, "one-hot-protein")
        regions = [(4, 4 + len(GENE)), None] * 150  # more than go in one request
        made = mine.embed([TRANSCRIPT, GENE] * 150, "one-hot-protein", coding_regions=regions)
        np.testing.assert_array_equal(made, whole)
        tokens = mine.token_embeddings(
            [BACTERIAL], "one-hot-protein", translation={"genetic_code": 11}
        )
        np.testing.assert_array_equal(tokens[0].mean(axis=0), whole[0].astype(tokens[0].dtype))
        predicted = mine.predict("protein-side", [TRANSCRIPT, GENE] * 150, coding_regions=regions)
        assert not predicted.errors and len(set(predicted.values.tolist())) == 1
        found = mine.neighbors(
            "one-hot-protein", sequence=TRANSCRIPT, coding_region=regions[0], molecule="mrna"
        )
        assert found["key"] == key_of("MAAKF")
        with pytest.raises(BadInput, match="1 coding regions are given for 2"):
            mine.embed([GENE, GENE], "one-hot-protein", coding_regions=[None])
        with pytest.raises(ClientError, match="no genetic code 7"):
            mine.embed([GENE], "one-hot-protein", translation={"genetic_code": 7})


def _through(client):
    """Requests of our client, answered by the app in this process."""
    import httpx

    class Transport(httpx.BaseTransport):
        def handle_request(self, request):
            answer = client.request(
                request.method,
                str(request.url),
                content=request.read(),
                headers=dict(request.headers),
            )
            headers = {"content-type": answer.headers["content-type"]}
            return httpx.Response(answer.status_code, headers=headers, content=answer.content)

    return Transport()


@pytest.mark.parametrize(
    "given",
    [{"genetic_code": True}, {"genetic_code": "11"}]
    + [{"coding_region": REGION | {name: value}} for name in REGION for value in (True, "4", 4.0)],
)
def test_what_only_looks_like_a_number_is_422(client, assert_problem, given):
    asked = {"sequence": TRANSCRIPT, "molecule": "mrna", **given}
    assert_problem(client.post("/v1/views", json=asked), 422, "bad-input")
