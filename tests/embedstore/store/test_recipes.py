"""Recipe documents: read by every later version, refused by name where they are of a later one."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.app import create_app
from api.settings import Settings
from embedstore import Recipe, create_store, key_of, open_store
from embedstore.cli import app
from embedstore.errors import DamagedSegment, NewerFormat
from embedstore.loaders.joined import JoinedRecipe
from embedstore.records import Record
from embedstore.store import store as store_module
from embedstore.store.collection import make_table
from embedstore.store.merge import merge
from embedstore.store.recipe import added_in, name_of
from embedstore.store.repair import repair
from embedstore.store.verify import verify

GOLDEN = Path(__file__).parents[2] / "golden"
BEFORE = GOLDEN / "store-format-1" / "store"
NEWEST = GOLDEN / "store-format-1-recipe-1"
RECIPE = Recipe(backbone="esm2-8m", view="protein", width=8, weights="sha256:0")
NAME = "esm2-8m-fde4c21649"  # as test_store.py has it from the first version


@dataclass(frozen=True, kw_only=True)
class Later(Recipe):
    """The recipe of a later version, which has two fields more."""

    pooling: str = added_in(2, "none")
    residues: str | None = added_in(3, None)


@dataclass(frozen=True, kw_only=True)
class Plain(Recipe):
    """A field that somebody added as fields are added to any dataclass."""

    pooling: str = "none"


@pytest.fixture
def broken(tmp_path):
    """A store with a table, a whole recipe, and one whose document has an unknown field."""

    def make(kind):
        store = create_store(tmp_path / f"{kind}.store")
        table = make_table([Record("a", "MA", "protein")], pa.table({}))
        store.write_collection("genes", table)
        store.write_recipe(RECIPE)
        (folder,) = (NEWEST / kind / "recipes").iterdir()
        shutil.copytree(folder, store.folder / "recipes" / folder.name)
        return store, folder.name

    return make


def test_the_format_number_is_written_and_renames_nothing():
    assert RECIPE.name == NAME
    document = json.loads(RECIPE.canonical())
    assert document["format"] == 1
    assert RECIPE.as_json() == {key: document[key] for key in document if key != "format"}
    assert name_of(document) == name_of(RECIPE.as_json()) == NAME


@pytest.mark.parametrize("kind", [Later, Plain])
def test_a_field_that_is_added_later_renames_nothing(kind, monkeypatch, snapshot, tmp_path):
    later = kind(**RECIPE.as_json())
    assert later.name == NAME
    assert later.canonical() == RECIPE.canonical()  # so versions of before read it, too
    monkeypatch.setattr(store_module, "Recipe", kind)
    for folder in (BEFORE, NEWEST / "store"):
        before = snapshot(folder)
        old = open_store(folder)
        assert verify(old).whole
        for name in old.recipes():
            found = old.find_recipe(name)
            assert (found.name, found.pooling) == (name, "none")
            assert old.recipe(name).keys()
            store = create_store(tmp_path / "new")
            store.write_recipe(kind(**found.as_json()))  # as a build of the same settings does
            assert name in store.recipes()
        assert snapshot(folder) == before


def test_a_recipe_with_a_later_value_has_its_own_name_and_format():
    later = Later(**RECIPE.as_json(), pooling="mean")
    assert later.name != NAME
    assert later.document["format"] == 2
    assert Later(**RECIPE.as_json(), residues="X").document["format"] == 3
    assert Later.parse(later.canonical(), later.name) == later
    with pytest.raises(NewerFormat, match=rf"recipes/{later.name}/recipe.json.* format 2.* 1\b"):
        Recipe.parse(later.canonical(), later.name)


def test_a_document_keeps_the_name_that_its_own_fields_digest_to(tmp_path):
    """Fields it lacks have the values of before, and those it tells need not be told."""
    short = {key: RECIPE.as_json()[key] for key in ("backbone", "view", "width", "weights")}
    told = {"format": 2, **RECIPE.as_json(), "pooling": "none"}
    for kind, document in ((Recipe, short), (Later, told)):
        name = name_of(document)
        assert name != NAME
        found = kind.parse(json.dumps(document, indent=2).encode(), name)
        assert found == kind(**RECIPE.as_json())
        for same in (found, pickle.loads(pickle.dumps(found))):
            assert same.name == name
            assert kind.parse(same.canonical(), name).name == name
    source = create_store(tmp_path / "short.store")
    folder = source.recipe_folder(name_of(short))
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(short))
    source.write_collection("genes", make_table([Record("a", "MA", "protein")], pa.table({})))
    merge([source], tmp_path / "all.store")
    assert open_store(tmp_path / "all.store").recipes() == [name_of(short)]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"pooling": "mean"}, "'pooling' is unknown"),
        ({"format": 0}, "format number is 0"),
        ({"format": True}, "format number is True"),
        ({"format": "2"}, "format number is '2'"),
        ({"format": None}, "format number is None"),
        ({"width": "8"}, "'width' is '8'"),
        ({"width": True}, "'width' is True"),
        ({"layer": None}, "'layer' is None"),
        ({"backbone": 3}, "'backbone' is 3"),
        ({"weights": ["sha256:0"]}, "'weights'"),
    ],
)
def test_what_this_format_cannot_say_is_damage_and_named(change, said):
    document = json.loads(RECIPE.canonical()) | change
    with pytest.raises(DamagedSegment, match=said) as caught:
        Recipe.parse(json.dumps(document).encode(), name_of(document))
    assert "must stay" in caught.value.fix


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"3", b"null", b"{}", b"\xff", b'{"format":1', b"[" * 9999]
)
def test_what_is_no_document_is_damage(text):
    with pytest.raises(DamagedSegment):
        Recipe.parse(text, NAME)


def test_another_number_in_a_document_is_seen():
    document = json.loads(RECIPE.canonical()) | {"layer": 2}
    with pytest.raises(DamagedSegment, match="describes"):
        Recipe.parse(json.dumps(document).encode(), NAME)


READERS = {
    "ls": lambda store, name: ["ls", store],
    "ls one": lambda store, name: ["ls", store, name],
    "info": lambda store, name: ["info", store],
    "missing": lambda store, name: ["missing", store, "--collection", "genes", "--backbone", name],
    "get": lambda store, name: ["get", store, "a", "--backbone", name, "-o", f"{store}.npy"],
    "merge": lambda store, name: ["merge", store, f"{store}.all"],
    "export": lambda store, name: [
        *("export", store, "--backbone", name, "--format", "npz", "--pooled", "-o", f"{store}.npz")
    ],
    "gc": lambda store, name: ["gc", store, "--redundant"],
}


@pytest.mark.parametrize("words", READERS.values(), ids=READERS)
def test_every_command_refuses_a_newer_recipe_by_name(broken, snapshot, words):
    store, name = broken("newer")
    before = snapshot(store.folder)
    done = CliRunner().invoke(app, words(str(store.folder), name))
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"recipes/{name}/recipe.json is of a later version" in line
    assert "Install a newer embedstore" in line
    assert snapshot(store.folder) == before
    assert not Path(f"{store.folder}.all").exists()


@pytest.mark.parametrize("words", [["verify"], ["verify", "--backbone"], ["repair"]])
def test_a_newer_recipe_is_a_problem_and_stays(broken, snapshot, words):
    store, name = broken("newer")
    before = snapshot(store.folder)
    command, *option = words
    done = CliRunner().invoke(app, [command, str(store.folder), *option, *[name] * len(option)])
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.output.splitlines() if "later version" in line]
    assert f"recipe recipes/{name}/recipe.json: recipes/{name}/recipe.json is of" in line
    assert "Install a newer embedstore" in line
    assert snapshot(store.folder) == before


def test_a_newer_recipe_hides_no_other(broken):
    store, name = broken("newer")
    assert store.find_recipe(RECIPE.name) == RECIPE
    assert name in store.recipes()
    with pytest.raises(NewerFormat):
        store.recipe(name)
    client = TestClient(create_app(Settings(store=str(store.folder))), base_url="http://127.0.0.1")
    with client:
        info = client.get("/info").json()
        assert [each["recipe"] for each in info["recipes"]] == [RECIPE.name]
        (told,) = info["damaged"]
        assert told["name"] == name
        assert "later version" in told["problem"]
        assert client.get("/v1/models").status_code == 200
        answer = client.get(f"/v1/embeddings/{name}/{key_of('MA')}")
        assert (answer.status_code, answer.json()["code"]) == (500, "newer-format")


def test_an_unknown_field_of_this_format_is_named_as_damage(broken, snapshot):
    store, name = broken("unknown")
    before = snapshot(store.folder)
    with pytest.raises(DamagedSegment, match="'pooling' is unknown to format 1"):
        store.recipe(name)
    (problem,) = verify(store).problems
    assert (problem.kind, problem.where) == ("recipe", f"recipes/{name}/recipe.json")
    assert "'pooling'" in problem.what
    assert repair(store).left == [problem]
    assert snapshot(store.folder) == before


@pytest.mark.parametrize("text", [None, b"", b"{}", b'{"format":1}', BEFORE.as_posix().encode()])
def test_repair_restores_a_document_from_a_segment(tmp_path, snapshot, text):
    for source in (BEFORE, NEWEST / "store"):
        folder = tmp_path / source.parent.name
        shutil.copytree(source, folder)
        before = snapshot(folder)
        store = open_store(folder)
        name = store.recipes()[0]
        path = store.recipe_folder(name) / "recipe.json"
        path.unlink()
        if text is not None:
            path.write_bytes(text)
        # a damaged segment of the same recipe is seen once the recipe can be read again
        shard = store.segment_folders(name)[-1] / "tokens/c/0/0"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1])
        report = repair(store)
        assert report.recipes_restored == [f"recipes/{name}/recipe.json"]
        assert len(report.quarantined) == 1
        assert report.left == []
        assert verify(store).whole
        assert (
            snapshot(folder)[f"recipes/{name}/recipe.json"]
            == (before[f"recipes/{name}/recipe.json"])
        )


def test_repair_restores_no_document_of_another_recipe(tmp_path):
    shutil.copytree(NEWEST / "store", tmp_path / "s")
    store = open_store(tmp_path / "s")
    for name in store.recipes():
        for folder in store.segment_folders(name):
            text = (folder / "zarr.json").read_text()
            (folder / "zarr.json").write_text(text.replace('"layer"', '"player"'))
        (store.recipe_folder(name) / "recipe.json").unlink()
    report = repair(store)
    assert report.recipes_restored == []
    assert len(report.left) == 2


def test_joined_recipes_carry_the_format_and_keep_their_names():
    joined = JoinedRecipe(recipes=(RECIPE, RECIPE), align="pooled", factors=(1.0, 2.0))
    assert [each["format"] for each in joined.document["recipes"]] == [1, 1]
    assert JoinedRecipe.from_json(joined.document).name == joined.name
    assert JoinedRecipe.from_json(joined.as_json()).name == joined.name
    newer = joined.document | {"recipes": [RECIPE.document, RECIPE.document | {"format": 2}]}
    with pytest.raises(NewerFormat):
        JoinedRecipe.from_json(newer)
