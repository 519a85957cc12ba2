"""Predictions over HTTP are the probe's own; what cannot be read fails alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from api.embedder import Embedder
from api.settings import Settings
from embedstore import Recipe
from embedstore.backbones.load import BackboneConfig, PreparedBackbone, config_of, prepare
from embedstore.build.plan import Item
from embedstore.documents import seal
from embedstore.errors import MissingWeights
from embedstore.loaders import JoinedRecipe
from probe.heads import make_head
from probe.objective import Objective, Scale
from probe.saved import Probe, load_probe, save_probe
from probe.tasks import Task
from probe.training import LinearConfig, TrainingConfig


def predict(client, name, **body):
    response = client.post(f"/v1/probes/{name}/predict", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def one(client, name, sequence, **more):
    (answer,) = predict(client, name, sequences=[{"sequence": sequence, **more}])["predictions"]
    return answer


def test_probes_are_listed_with_task_recipe_and_scores(client, shared_store):
    listed = client.get("/v1/probes").json()
    assert listed["damaged"] == []
    first, second = listed["probes"]
    assert (first["name"], first["kind"], first["unit"]) == (
        "halflife",
        "regression",
        "log2(halflife)",
    )
    assert first["recipe"] == shared_store.find_recipe("one-hot-mrna").name
    assert first["metrics"] == {"test": {"spearman": 0.5, "n": 3}}
    assert (second["kind"], second["classes"]) == ("classification", ["high", "low"])


def test_stored_records_are_predicted_as_the_library_does(client, shared_store, shared_probes):
    ids = ["gene-0", "a/b/c", "配列"]
    answer = predict(client, "halflife", ids=ids, collection="genes")
    packed = shared_store.recipe("one-hot-mrna").batch(
        [shared_store.find_key(id, "mrna") for id in ids]
    )
    expected = load_probe(shared_probes / "halflife").predict(packed.tokens, packed.lengths)
    assert [each["id"] for each in answer["predictions"]] == ids
    assert {each["embedding"] for each in answer["predictions"]} == {"stored"}
    got = [each["prediction"] for each in answer["predictions"]]
    assert np.allclose(got, expected, rtol=0, atol=1e-6)
    assert answer["unit"] == "log2(halflife)"
    assert answer["recipe"] == shared_store.find_recipe("one-hot-mrna").name


def test_a_new_sequence_is_embedded_as_a_build_would(client, shared_probes, gene_of):
    answer = one(client, "halflife", gene_of(90))
    assert answer["embedding"] == "new"
    embedded = prepare(BackboneConfig(backbone="one-hot-mrna")).load().embed([gene_of(90)])
    (expected,) = load_probe(shared_probes / "halflife").predict(embedded.tokens, embedded.lengths)
    assert answer["prediction"] == pytest.approx(expected, abs=1e-6)


def test_a_known_sequence_comes_from_the_store(client, gene_of):
    by_id = predict(client, "halflife", ids=["gene-0"], collection="genes")["predictions"][0]
    by_text = one(client, "halflife", gene_of(0))
    assert by_text["embedding"] == "stored"
    assert (by_text["key"], by_text["prediction"]) == (by_id["key"], by_id["prediction"])


def test_case_white_space_and_t_for_u_change_nothing(client, gene_of):
    plain = one(client, "halflife", gene_of(90), molecule="mrna")
    text = gene_of(90).lower().replace("u", "t")
    for molecule in ("mrna", "dna"):
        same = one(client, "halflife", f"\n{text[:10]} {text[10:]}\n", molecule=molecule)
        assert (same["key"], same["prediction"]) == (plain["key"], plain["prediction"])


def test_synonymous_genes_share_the_prediction_of_their_protein(client):
    first, second = (one(client, "protein-side", text) for text in ("AUGCUUUAA", "AUGCUCUAG"))
    protein = one(client, "protein-side", "ML*", molecule="protein")
    assert first["key"] == second["key"] == protein["key"]
    assert first["prediction"] == second["prediction"] == protein["prediction"]


def test_a_class_comes_with_the_probability_of_each(client, shared_probes, gene_of):
    answer = one(client, "protein-side", gene_of(3))
    assert set(answer["probabilities"]) == {"high", "low"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    best = max(answer["probabilities"], key=answer["probabilities"].__getitem__)
    assert answer["prediction"] == best
    assert one(client, "halflife", gene_of(3))["probabilities"] is None


def test_a_sequence_that_cannot_be_read_fails_alone(client, gene_of):
    texts = [gene_of(0), "AUGGC", "AUGUAAGCUUAA", "AUG!", "", gene_of(91)]
    sequences = [
        {"id": f"s{at}", "sequence": text, "molecule": "mrna"} for at, text in enumerate(texts)
    ]
    answers = predict(client, "protein-side", sequences=sequences)["predictions"]
    assert [each["id"] for each in answers] == [each["id"] for each in sequences]
    codes = [each.get("error", {}).get("code") for each in answers]
    assert codes == [None, "length-not-codons", "inner-stop-codon", "bad-input", "bad-input", None]
    assert "'!' at position 3" in answers[3]["error"]["problem"]
    for answer in answers:
        if "error" in answer:
            assert set(answer["error"]) == {"code", "problem", "fix"}


def test_ids_that_are_absent_or_have_no_view_fail_alone(client):
    ids = ["nobody", "no-frame", "gene-0"]
    answers = predict(client, "protein-side", ids=ids, collection="genes")["predictions"]
    codes = [each.get("error", {}).get("code") for each in answers]
    assert codes == ["missing-record", "length-not-codons", None]


def test_a_protein_has_no_mrna_to_read(client):
    answer = one(client, "halflife", "MKLVWW")
    assert answer["error"]["code"] == "no-nucleotides"


def test_the_molecule_is_told_from_the_letters_and_said(client, gene_of):
    assert one(client, "protein-side", gene_of(1))["molecule"] == "mrna"
    assert one(client, "protein-side", gene_of(1).replace("U", "T"))["molecule"] == "dna"
    assert one(client, "protein-side", "MKLVWW")["molecule"] == "protein"


def test_repeats_are_answered_each(client, gene_of):
    texts = [{"sequence": gene_of(92)}] * 3
    answers = predict(client, "halflife", sequences=texts)["predictions"]
    assert len(answers) == 3
    assert len({json.dumps(each) for each in answers}) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sequences": []},
        {"ids": [], "collection": "genes"},
        {"ids": ["gene-0"]},
        {"collection": "genes"},
        {"sequences": [{"sequence": "AUG"}], "collection": "genes"},
        {"sequences": [{"sequence": "AUG"}], "ids": ["gene-0"], "collection": "genes"},
    ],
)
def test_a_request_without_clear_sequences_is_422(client, assert_problem, body):
    assert_problem(client.post("/v1/probes/halflife/predict", json=body), 422, "bad-input")


def test_too_many_sequences_or_letters_are_413(
    serve, shared_store, shared_probes, assert_problem, gene_of
):
    client = serve(store=shared_store.folder, probes=shared_probes, max_sequences=2, max_letters=40)
    url = "/v1/probes/halflife/predict"
    body = {"sequences": [{"sequence": "AUG"}] * 3}
    assert_problem(client.post(url, json=body), 413, "too-large")
    body = {"sequences": [{"sequence": "AUG" * 14}]}
    assert_problem(client.post(url, json=body), 413, "too-large")
    body = {"ids": ["gene-0"] * 3, "collection": "genes"}
    assert_problem(client.post(url, json=body), 413, "too-large")
    assert client.post(url, json={"sequences": [{"sequence": gene_of(0)}]}).status_code == 200


def test_an_unknown_probe_or_collection_is_404(client, assert_problem):
    body = {"ids": ["gene-0"], "collection": "genes"}
    answer = client.post("/v1/probes/nothing/predict", json=body)
    assert "halflife" in assert_problem(answer, 404, "missing-probe")["fix"]
    body = {"ids": ["gene-0"], "collection": "other"}
    answer = client.post("/v1/probes/halflife/predict", json=body)
    assert_problem(answer, 404, "missing-collection")


def test_a_server_without_probes_has_none(serve, shared_store):
    assert serve(store=shared_store.folder).get("/v1/probes").json() == {
        "probes": [],
        "damaged": [],
    }


def test_the_probes_of_a_run_are_those_in_its_folder(serve, shared_store, probes, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    probes.rename(run / "probes")
    listed = serve(store=shared_store.folder, probes=run).get("/v1/probes").json()["probes"]
    assert [each["name"] for each in listed] == ["halflife", "protein-side"]


def test_intervals_are_those_of_the_run(serve, shared_store, probes, tmp_path, results_of):
    run = tmp_path / "run"
    run.mkdir()
    probes.rename(run / "probes")
    client = serve(store=shared_store.folder, probes=run)

    def intervals():
        return [each["interval"] for each in client.get("/v1/probes").json()["probes"]]

    assert intervals() == [None, None]
    found = {"intervals": {"halflife": [0.25, 0.75], "protein-side": [None, None]}}
    (run / "results.json").write_text(json.dumps(results_of(found, {})))
    assert intervals() == [{"low": 0.25, "high": 0.75, "confidence": 0.95}, None]
    (run / "results.json").write_text("{")
    assert intervals() == [None, None]  # the probes are no worse for it


def test_an_answer_says_what_exactly_predicted(client, shared_store, shared_probes):
    answer = predict(client, "halflife", sequences=[{"sequence": "AUGGCU"}])
    info = load_probe(shared_probes / "halflife").info
    assert answer["digests"] == {
        "probe": info.weights_digest,
        "recipe": shared_store.find_recipe("one-hot-mrna").name.removeprefix("one-hot-mrna-"),
        "model": None,
    }


def test_a_probe_saved_later_is_listed(serve, shared_store, probes, save_random_probe):
    client = serve(store=shared_store.folder, probes=probes)
    save_random_probe(probes / "another", shared_store.find_recipe("one-hot-mrna"))
    names = [each["name"] for each in client.get("/v1/probes").json()["probes"]]
    assert names == ["another", "halflife", "protein-side"]
    assert one(client, "another", "AUGGCU")["prediction"] is not None


@pytest.mark.parametrize("file", ["probe.json", "head.safetensors"])
def test_a_damaged_probe_is_500_and_hides_no_other(
    serve, shared_store, probes, assert_problem, tmp_path, file
):
    (probes / "halflife" / file).write_bytes(b"{}")
    client = serve(store=shared_store.folder, probes=probes)
    body = {"sequences": [{"sequence": "AUGGCU"}]}
    problem = assert_problem(
        client.post("/v1/probes/halflife/predict", json=body), 500, "damaged-probe"
    )
    assert str(tmp_path) not in str(problem)
    listed = client.get("/v1/probes").json()
    assert "protein-side" in [each["name"] for each in listed["probes"]]
    assert [each["name"] for each in listed["damaged"]] == ["halflife"]


def test_a_head_that_is_not_finite_is_a_problem_and_hides_no_other(
    serve, shared_store, probes, assert_problem
):
    folder = probes / "halflife"
    tensors = load_file(folder / "head.safetensors")
    tensors["fc.bias"] = np.full_like(tensors["fc.bias"], np.nan)
    save_file(tensors, folder / "head.safetensors")
    document = json.loads((folder / "probe.json").read_text())
    weights = (folder / "head.safetensors").read_bytes()
    document["weights_digest"] = hashlib.blake2b(weights, digest_size=16).hexdigest()
    (folder / "probe.json").write_text(json.dumps(seal(document)))
    client = serve(store=shared_store.folder, probes=probes)
    listed = client.get("/v1/probes").json()
    assert [each["name"] for each in listed["probes"]] == ["protein-side"]
    (damaged,) = listed["damaged"]
    assert damaged["name"] == "halflife"
    assert "training diverged" in damaged["problem"]
    for body in (
        {"sequences": [{"sequence": "AUGGCU"}]},
        {"ids": ["gene-0"], "collection": "genes"},
    ):
        answer = client.post("/v1/probes/halflife/predict", json=body)
        problem = assert_problem(answer, 500, "damaged-probe")
        assert "training diverged" in problem["problem"]
        assert str(probes) not in answer.text
    assert one(client, "protein-side", "AUGGCUUAA")["prediction"] in ("high", "low")


@pytest.mark.parametrize("name", ["halflife", "protein-side"])
def test_a_sequence_whose_prediction_is_not_finite_fails_alone(
    serve, shared_store, probes, monkeypatch, name
):
    """By a head whose sums overflow on one sequence alone; never null, never a class by chance."""
    real = Probe.answer

    def overflowing(probe, tokens, lengths):
        tokens, ends = tokens.astype(np.float32), np.cumsum(lengths)
        for first, last in zip(ends - lengths, ends, strict=True):
            if last - first > 10:
                tokens[first:last] = np.inf
        return real(probe, tokens, lengths)

    monkeypatch.setattr(Probe, "answer", overflowing)
    client = serve(store=shared_store.folder, probes=probes)
    sequences = [{"sequence": "AUGGCUUAA"}, {"sequence": "AUG" + "GCU" * 30 + "UAA"}]
    good, bad = predict(client, name, sequences=sequences)["predictions"]
    assert good["prediction"] is not None
    assert bad["error"]["code"] == "not-finite"
    assert "prediction" not in bad


def test_a_joined_probe_is_listed_and_its_predictions_are_refused(
    serve, shared_store, probes, save_random_probe, assert_problem
):
    recipes = tuple(shared_store.find_recipe(f"one-hot-{view}") for view in ("mrna", "protein"))
    joined = JoinedRecipe(recipes=recipes, align="codon", factors=(2.0, 4.0))
    save_random_probe(probes / "both", joined)
    client = serve(store=shared_store.folder, probes=probes)
    (listed,) = (p for p in client.get("/v1/probes").json()["probes"] if p["name"] == "both")
    assert (listed["recipe"], listed["view"]) == (joined.name, "mrna+protein")
    answer = client.post("/v1/probes/both/predict", json={"ids": ["gene-0"], "collection": "genes"})
    problem = assert_problem(answer, 422, "bad-input")
    assert "one-hot-mrna+one-hot-protein" in problem["problem"]


def test_a_probe_of_a_later_version_hides_no_other_and_tells_no_path(
    serve, shared_store, probes, assert_problem
):
    path = probes / "halflife" / "probe.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 99}))
    client = serve(store=shared_store.folder, probes=probes)
    listed = client.get("/v1/probes").json()
    assert [each["name"] for each in listed["probes"]] == ["protein-side"]
    assert [each["name"] for each in listed["damaged"]] == ["halflife"]
    body = {"sequences": [{"sequence": "AUGGCU"}]}
    answers = [
        client.post("/v1/probes/halflife/predict", json=body),
        client.get("/v1/probes/halflife/predictions"),
    ]
    for answer in answers:
        problem = assert_problem(answer, 500, "damaged-probe")
        assert "later version" in problem["problem"]
        assert str(probes) not in answer.text


def test_a_damaged_embedding_is_500_never_recomputed(serve, store, shared_probes, assert_problem):
    for shard in store.folder.glob("recipes/*/segments/*/tokens/c/0/0"):
        content = bytearray(shard.read_bytes())
        content[0] ^= 1
        shard.write_bytes(content)
    client = serve(store=store.folder, probes=shared_probes)
    ids = [each["id"] for each in store.collection("genes").table.select(["id"]).to_pylist()]
    body = {"ids": ids, "collection": "genes"}
    answer = client.post("/v1/probes/halflife/predict", json=body)
    assert_problem(answer, 500, "damaged-segment")


def test_a_probe_whose_recipe_the_store_lacks_embeds_anew(
    serve, shared_store, probes, save_random_probe
):
    recipe = prepare(BackboneConfig(backbone="kmer-composition")).recipe
    save_random_probe(probes / "kmer", recipe)
    client = serve(store=shared_store.folder, probes=probes)
    answers = predict(client, "kmer", sequences=[{"sequence": "AUGGCU"}, {"sequence": "AU"}])
    first, second = answers["predictions"]
    assert first["embedding"] == "new"
    assert second["error"]["code"] == "no-token"


@pytest.fixture
def esm_recipe(tiny_esm):
    return prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu")).recipe


def test_weights_that_were_not_given_are_503_naming_recipe_and_option(
    serve, shared_store, probes, save_random_probe, assert_problem, gene_of
):
    recipe = Recipe(backbone="esm2-8m", view="protein", width=16, weights="sha256:0")
    save_random_probe(probes / "esm", recipe)
    client = serve(store=shared_store.folder, probes=probes)
    body = {"sequences": [{"sequence": gene_of(0)}]}
    problem = assert_problem(
        client.post("/v1/probes/esm/predict", json=body), 503, "missing-weights"
    )
    assert recipe.name in problem["problem"]
    assert "--weights esm2-8m=DIR" in problem["fix"]


def test_weights_of_another_digest_are_503_naming_both_recipes(
    serve, shared_store, probes, save_random_probe, assert_problem, gene_of, tiny_esm, esm_recipe
):
    recipe = Recipe(backbone="esm2-8m", view="protein", width=16, weights="sha256:0")
    save_random_probe(probes / "esm", recipe)
    client = serve(
        store=shared_store.folder, probes=probes, weights={"esm2-8m": tiny_esm}, device="cpu"
    )
    body = {"sequences": [{"sequence": gene_of(0)}]}
    problem = assert_problem(
        client.post("/v1/probes/esm/predict", json=body), 503, "missing-weights"
    )
    assert recipe.name in problem["problem"] and esm_recipe.name in problem["problem"]
    assert str(tiny_esm) not in str(problem)


def test_the_weights_a_probe_was_trained_on_embed_new_sequences(
    serve, shared_store, probes, save_random_probe, tiny_esm, esm_recipe
):
    save_random_probe(probes / "esm", esm_recipe)
    client = serve(
        store=shared_store.folder, probes=probes, weights={"esm2-8m": tiny_esm}, device="cpu"
    )
    texts = ["MKLV", "MKLVWW", "M" * 2000]
    body = [{"sequence": text, "molecule": "protein"} for text in texts]
    answers = predict(client, "esm", sequences=body)["predictions"]
    config = BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu")
    embedded = prepare(config).load().embed(texts[:2])
    expected = load_probe(probes / "esm").predict(embedded.tokens, embedded.lengths)
    assert np.allclose([each["prediction"] for each in answers[:2]], expected, atol=1e-4)
    assert answers[2]["error"]["code"] == "too-long"


def test_unusable_weights_are_found_at_the_start(serve, shared_store, tmp_path):
    with pytest.raises(MissingWeights):
        serve(store=shared_store.folder, weights={"esm2-8m": tmp_path})


def test_a_backbone_is_loaded_once_and_runs_one_batch_at_a_time(shared_store, monkeypatch):
    recipe = shared_store.find_recipe("one-hot-mrna")
    loads, running, most = [], [], []

    class Slow:
        def embed(self, views):
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()
            return views

    def load(self):
        loads.append(threading.get_ident())
        time.sleep(0.05)
        return Slow()

    monkeypatch.setattr(PreparedBackbone, "load", load)
    embedder = Embedder(Settings(store=shared_store.folder))
    batch = [Item("0" * 32, "AUG", 3, 3)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: embedder.embed(recipe, batch), range(8)))
    assert done == [["AUG"]] * 8
    assert len(loads) == 1
    assert max(most) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"store_dtype": "float32"},
        {"long": "truncate", "max_tokens": 12},
        {"long": "window", "max_tokens": 12},
        {"long": "window", "max_tokens": 12, "window_overlap": 3},
        {"long": "skip"},
        {"layer": 1},
    ],
)
def test_a_recipe_gives_back_the_options_that_made_it(options, tiny_esm):
    asked = BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu", **options)
    recipe = prepare(asked).recipe
    assert prepare(config_of(recipe, tiny_esm, "cpu")).recipe == recipe


def test_a_policy_of_a_later_version_is_not_guessed():
    recipe = Recipe(
        backbone="one-hot-mrna",
        view="mrna",
        width=4,
        weights=None,
        long="spiral:3",
        compute_dtype="float16",
    )
    with pytest.raises(MissingWeights, match="spiral"):
        config_of(recipe, None, "cpu")


LISTS = Objective(
    task=Task(collection="genes", label="track", kind="per-position"),
    classes=(),
    scale=Scale(mean=0.5, std=0.2),
    positions=7,
)
SEVERAL = Objective(
    task=Task(collection="genes", label="a,b", kind="regression"),
    classes=(),
    scale=Scale(mean=(1.0, 50.0), std=(0.5, 10.0)),
)


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (SEVERAL, "textcnn"),
        (SEVERAL, "ridge"),
        (LISTS, "textcnn"),
        (dataclasses.replace(LISTS, by_token=True), "textcnn-position"),
    ],
)
def test_several_outputs_and_positions_are_lists_of_numbers(
    serve, shared_store, tmp_path, gene_of, objective, kind
):
    recipe = shared_store.find_recipe("one-hot-mrna")
    head = make_head(kind, recipe.width, objective.outputs)
    training = LinearConfig(penalty=1.0) if kind == "ridge" else TrainingConfig()
    save_probe(
        tmp_path / "probes" / "lists",
        head,
        recipe=recipe,
        objective=objective,
        split_digest="ab" * 16,
        metrics={},
        training=training,
    )
    client = serve(store=shared_store.folder, probes=tmp_path / "probes")
    (listed,) = client.get("/v1/probes").json()["probes"]
    assert (listed["kind"], listed["head"]) == (objective.task.kind, kind)
    stored, new = gene_of(0), gene_of(90)
    answers = predict(client, "lists", sequences=[{"sequence": stored}, {"sequence": new}])
    assert [each["embedding"] for each in answers["predictions"]] == ["stored", "new"]
    embedded = prepare(BackboneConfig(backbone="one-hot-mrna")).load().embed([stored, new])
    expected = load_probe(tmp_path / "probes" / "lists").answers(
        embedded.tokens.astype(np.float16), embedded.lengths
    )
    for answer, numbers in zip(answers["predictions"], expected, strict=True):
        assert answer["prediction"] == pytest.approx(numbers, abs=1e-4)
        assert answer["probabilities"] is None
    if objective.by_token:
        lengths = [len(answer["prediction"]) for answer in answers["predictions"]]
        assert lengths == [len(stored), len(new)]
