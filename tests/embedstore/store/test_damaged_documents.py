"""Damaged or hostile documents: named, never followed, never fatal, and mended by a rebuild."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from google_crc32c import value as crc32c
from typer.testing import CliRunner

from embedstore import Recipe, create_store, key_of, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.cli import app
from embedstore.documents import BadDocument, seal
from embedstore.errors import DamagedSegment, MissingEmbedding, NotAStore, StoreError
from embedstore.store import index_upkeep, zarr_files
from embedstore.store.drafts import publish_segment
from embedstore.store.merge import merge
from embedstore.store.recipe import name_of
from embedstore.store.repair import repair
from embedstore.store.segment import SegmentWriter
from embedstore.store.segment_document import parse_segment
from embedstore.store.store import open_damaged_store
from embedstore.store.verify import verify

RECIPE = Recipe(backbone="esm2-8m", view="protein", width=2, weights=None)
WORDS = [["MA", "MCC"], ["MD"], ["ME", "MFFF"]]


def tokens_of(word):
    """float16 that no other word has: shape (L, 2)."""
    return np.frombuffer(word.encode() * 2, np.uint8).reshape(-1, 2).astype(np.float16)


def write_segment(store, words, recipe=RECIPE):
    parts = [tokens_of(word) for word in words]
    embedded = Embedded(
        np.concatenate(parts),
        np.array([len(part) for part in parts]),
        np.stack([part.mean(axis=0, dtype=np.float32) for part in parts]),
        None,
        np.ones(len(parts), np.bool_),
    )
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        writer.append([key_of(word) for word in words], embedded)
        writer.publish({"made": "by a test"})


def rebuild(store):
    store.write_recipe(RECIPE)
    for words in WORDS:
        write_segment(store, words)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_files, "INNER_CHUNK_BYTES", 16)
        patch.setattr("embedstore.store.files.sync_tree", lambda folder: None)
        patch.setattr("embedstore.store.files.sync_folder", lambda folder: None)
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture
def store(tmp_path):
    made = create_store(tmp_path / "s")
    rebuild(made)
    return made


def folder_of(store, number):
    """Folder of the segment of one list of words."""
    keys = {key_of(word) for word in WORDS[number]}
    for folder in store.segment_folders(RECIPE.name):
        packed = (folder / "keys/c/0/0").read_bytes()
        if {packed[at : at + 16].hex() for at in range(0, len(packed), 16)} == keys:
            return folder
    raise LookupError(number)


class Hung(BaseException):
    """Nothing takes it for an error of a file."""


@contextmanager
def seconds(count):
    """End what hangs."""

    def late(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(count)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_all(store):
    """Right numbers of every word, or our error; gives how many were read."""
    read = 0
    for word in (word for words in WORDS for word in words):
        try:
            reader = store.recipe(RECIPE.name)
            got = reader.get(key_of(word))
        except StoreError as error:
            assert not isinstance(error, MissingEmbedding), word
            assert "\n" not in str(error)
            continue
        np.testing.assert_array_equal(got, tokens_of(word))
        read += 1
    return read


def check(folder):
    """Open, verify and read a damaged store; its problems, or None where it is of a later one."""
    with seconds(10):
        try:
            problems = verify(open_damaged_store(folder)).problems
        except StoreError:
            return None
        for each in problems:
            assert "\n" not in str(each)
        try:
            read_all(open_store(folder))
        except NotAStore:
            assert any(each.kind == "store" for each in problems)
    return problems


def check_and_mend(folder):
    """The same, and then repair it and build again."""
    problems = check(folder)
    with seconds(10):
        if problems is not None:
            left = repair(open_damaged_store(folder)).left
            if all(each.code == DamagedSegment.code for each in problems):
                assert left == []
                store = open_store(folder)
                rebuild(store)
                assert verify(store).whole
                assert read_all(store) == 5
    return problems


FIXED = [b"", b"[" * 20_000, b"\xff" * 9, b"null", b"{}", b'{"format": 1e999}']


def damages(content, step):
    for at in range(0, len(content), step):
        changed = bytearray(content)
        changed[at] ^= 1 << (at * 5 % 8)
        yield bytes(changed)
    yield from (*FIXED, content[: len(content) // 2], content[:-1])


@pytest.mark.parametrize(
    "name, step, mended",
    [
        ("segment.json", 149, 20),
        ("zarr.json", 1499, 20),
        ("recipe.json", 23, 20),
        ("store.json", 9, 20),
    ],
)
def test_any_damage_of_a_document_is_named_and_mended(store, tmp_path, name, step, mended):
    path = {
        "store.json": store.folder,
        "recipe.json": store.recipe_folder(RECIPE.name),
    }.get(name, folder_of(store, 0)) / name
    kept, content, seen = tmp_path / "kept", path.read_bytes(), 0
    shutil.copytree(store.folder, kept)
    for number, damaged in enumerate(damages(content, step)):
        path.write_bytes(damaged)
        problems = check(store.folder)
        assert problems is None or problems, damaged[:80]
        seen += problems is not None
        if number % mended == 0:
            check_and_mend(store.folder)
            shutil.rmtree(store.folder)
            shutil.copytree(kept, store.folder)
        path.write_bytes(content)
    assert seen > 5


def test_every_flipped_bit_of_a_sealed_document_is_refused(store):
    content = (folder_of(store, 0) / "segment.json").read_bytes()
    assert parse_segment(content).keys == 2
    for at in range(len(content)):
        for bit in ({at % 8, 5}) if at % 3 else range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            try:
                document = parse_segment(bytes(changed))
            except BadDocument:
                continue
            # white space, or one escape for another: the same in every value
            assert document == parse_segment(content), (at, bit)


PLACES = ["store.json", "recipe.json", "segment.json", "zarr.json", "tokens/c/0/0", "segments", "."]


@pytest.mark.parametrize("kind", ["gone", "folder", "pipe", "link", "another's"])
@pytest.mark.parametrize("name", PLACES)
def test_whatever_stands_in_a_documents_place_is_named_and_mended(store, tmp_path, name, kind):
    segment = folder_of(store, 0)
    path = {
        "store.json": store.folder / name,
        "recipe.json": segment.parent.parent / name,
        "segments": segment.parent,
    }.get(name, segment / name)
    if name in ("segments", ".") and kind == "folder":
        kind = "file"
    aside = tmp_path / "aside"
    path.rename(aside)
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"x")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(aside)
    elif kind == "another's" and name in ("store.json", "recipe.json"):
        shutil.copy(folder_of(store, 1) / "segment.json", path)
    elif kind == "another's" and name != "segments":
        other = folder_of(store, 1) / name
        (shutil.copytree if other.is_dir() else shutil.copy)(other, path)
    if (kind == "gone" and name in ("segments", ".", "segment.json")) or (
        name == "segments" and kind in ("link", "another's")
    ):
        verify(store)
        repair(store)
        if kind == "link":
            return
        rebuild(store)  # it was never published, or nothing tells that it was there
        assert read_all(store) == 5
    else:
        problems = check_and_mend(store.folder)
        assert problems or (name, kind) == ("store.json", "another's")  # of a later format


def test_swapped_folders_of_two_segments_are_damage(store, tmp_path):
    one, two = folder_of(store, 0), folder_of(store, 2)
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    reader = store.recipe(RECIPE.name)
    assert len(reader.left_out) == 2
    with pytest.raises(DamagedSegment, match=r"2 segments are left out.* of another segment"):
        reader.get(key_of("MA"))
    np.testing.assert_array_equal(reader.get(key_of("MD")), tokens_of("MD"))
    assert len(check_and_mend(store.folder)) == 2


def change(folder, values=None, *, recount=True, **files):
    """Rewrite files of a segment, and its document so that every checksum holds."""
    path = folder / "segment.json"
    document = json.loads(path.read_bytes())
    for name, content in files.items():
        chunk = {"start": "start/c/0", "length": "length/c/0", "keys": "keys/c/0/0"}[name]
        (folder / chunk).write_bytes(content)
        document["files"][chunk] = {"bytes": len(content), "crc32c": f"{crc32c(content):08x}"}
    document |= values or {}
    if recount:
        document["bytes"] = sum(facts["bytes"] for facts in document["files"].values())
    del document["checksum"]
    path.write_text(json.dumps(seal(document)))


def hostile(case):
    def run(folder):
        document = json.loads((folder / "segment.json").read_bytes())
        files = document["files"]
        fact = {"bytes": 1, "crc32c": "00000000"}
        big = zarr_files.shard_bytes(4_000_000_000, 2, 2)
        many = files | {"tokens/c/0/0": files["tokens/c/0/0"] | {"bytes": big}}
        length = np.array([2_000_000_000] * 2, np.int64)
        {
            "a name that leads out": lambda: change(
                folder, {"files": files | {"../../../../../evilrc": fact}}
            ),
            "an absolute name": lambda: change(folder, {"files": files | {"/tmp/evilrc": fact}}),
            "a name with NUL": lambda: change(folder, {"files": files | {"a\0b": fact}}),
            "a file less": lambda: change(
                folder, {"files": {k: v for k, v in files.items() if k != "mean/c/0/0"}}
            ),
            "keys": lambda: change(folder, {"keys": 3}),
            "tokens": lambda: change(folder, {"tokens": 6}),
            "bytes": lambda: change(folder, {"bytes": 1}, recount=False),
            "width": lambda: change(folder, {"width": 4}),
            "width as text": lambda: change(folder, {"width": "2"}),
            "huge": lambda: change(folder, {"keys": 10**400}),
            "negative": lambda: change(folder, {"tokens": -5}),
            "a float": lambda: change(folder, {"keys": 1e30}),
            "dtype": lambda: change(folder, {"dtype": "object"}),
            "recipe": lambda: change(folder, {"recipe": "../../x-0123456789"}),
            "data": lambda: change(folder, {"data": "../../../x"}),
            "unknown field": lambda: change(folder, {"pickle": "x"}),
            "deep": lambda: change(
                folder, {"provenance": {"x": [[[[]]]] * 3}, "files": [[[]]]}, recount=False
            ),
            "lengths of 2e9": lambda: change(
                folder,
                {"tokens": 4_000_000_000, "files": many},
                length=length.tobytes(),
                start=(np.cumsum(length) - length).tobytes(),
            ),
            "negative lengths": lambda: change(folder, length=np.array([-1, 6]).tobytes()),
            "lengths beyond int32": lambda: change(folder, length=np.array([2**33, 1]).tobytes()),
            "other starts": lambda: change(folder, start=np.array([0, 1]).tobytes()),
            "other keys": lambda: change(folder, keys=bytes(32)),
        }[case]()

    return run


HOSTILE = [
    *("a name that leads out", "an absolute name", "a name with NUL", "a file less", "keys"),
    *("tokens", "bytes", "width", "width as text", "huge", "negative", "a float", "dtype"),
    *("recipe", "data", "unknown field", "deep", "lengths of 2e9", "negative lengths"),
    *("lengths beyond int32", "other starts", "other keys"),
]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_segment_is_damage_everywhere_and_nothing_is_written_outside(
    store, tmp_path, snapshot, case
):
    folder = folder_of(store, 0)
    hostile(case)(folder)
    before = {*tmp_path.rglob("*")}
    with pytest.raises(DamagedSegment, match=folder.name):
        store.recipe(RECIPE.name).batch([key_of("MA")])
    np.testing.assert_array_equal(store.recipe(RECIPE.name).get(key_of("MD")), tokens_of("MD"))
    (problem, *_) = verify(store).problems
    assert (problem.kind, problem.where.split("/")[-1]) == ("segment", folder.name)
    report = merge([store], tmp_path / "into" / "all.store")
    assert (report.segments, len(report.damaged)) == (2, 1)
    assert folder.name in report.damaged[0]
    assert verify(open_store(tmp_path / "into" / "all.store")).whole
    outside = {*tmp_path.rglob("*")} - before - {*(tmp_path / "into").rglob("*")}
    assert outside == {tmp_path / "into"}
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["all.store"]
    assert not Path("/tmp/evilrc").exists()
    bucket = f"memory://{tmp_path.name}"
    assert merge([store], bucket).damaged == report.damaged
    assert verify(open_store(bucket)).whole
    if "name" in case or case == "a file less":
        draft = shutil.copytree(folder, tmp_path / "draft")
        place = open_store(bucket).recipe_folder(RECIPE.name)
        objects = [path.path for path, _ in place.below()]
        with pytest.raises(DamagedSegment, match="its file"):
            publish_segment(draft, place, folder.name)
        assert [path.path for path, _ in place.below()] == objects
    assert repair(store).quarantined
    rebuild(store)
    assert read_all(store) == 5


RECIPES = [
    ("width", "4"),
    ("width", -4),
    ("width", 0),
    ("width", 1e30),
    ("width", 2**21),
    ("width", 10**400),
    ("width", [[[]]]),
    ("store_dtype", "object"),
    ("compute_dtype", "<f4"),
    ("view", "evil"),
    ("weights", "md5:00"),
    ("weights", {"sha256": 1}),
    ("long", "window:5:9"),
    ("long", "truncate:-1"),
    ("layer", 10**9),
    ("backbone", "../../evil"),
    ("backbone", ""),
]


def with_recipe(folder, field, value):
    """A store with a recipe whose folder is named after its damaged document."""
    store = create_store(folder)
    store.write_recipe(RECIPE)
    document = {**RECIPE.document, field: value}
    name = f"esm2-8m-{name_of(document)[-10:]}"
    (store.folder / "recipes" / name / "segments").mkdir(parents=True)
    (store.folder / "recipes" / name / "recipe.json").write_text(json.dumps(document))
    return store, name


@pytest.mark.parametrize("field, value", RECIPES)
def test_a_field_of_a_recipe_out_of_range_is_named(tmp_path, field, value):
    store, name = with_recipe(tmp_path / "s", field, value)
    with pytest.raises(DamagedSegment, match=rf"recipes/{name}/recipe.json .*'{field}'"):
        store.recipe(name)
    (problem,) = verify(store).problems
    assert problem.where == f"recipes/{name}/recipe.json"
    assert repair(store).left == [problem]


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "STORE"],
        ["info", "STORE"],
        ["verify", "STORE"],
        ["repair", "STORE"],
        ["missing", "STORE", "--backbone", "NAME"],
        ["get", "STORE", "0" * 32, "--backbone", "NAME", "-o", "STORE.npy"],
        ["merge", "STORE", "STORE.all"],
    ],
)
def test_every_command_says_in_one_line_what_is_wrong_with_a_recipe(tmp_path, words):
    store, name = with_recipe(tmp_path / "s", "width", -4)
    path = str(store.folder)
    words = [word.replace("STORE", path).replace("NAME", name) for word in words]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = [each for each in done.output.splitlines() if f"recipes/{name}/recipe.json" in each]
    assert "'width' is -4" in line
    assert not Path(f"{path}.all").exists()


@pytest.mark.parametrize("indexed", [False, True])
def test_a_bad_segment_never_hides_the_others_and_a_build_refuses(
    built, rebuild_genes, monkeypatch, snapshot, caplog, indexed
):
    name = built.recipes()[0]
    if indexed:
        monkeypatch.setattr(index_upkeep, "FEW_KEYS", 5)
    keys = built.recipe(name).keys()
    assert index_upkeep.index_path(built.recipe_folder(name)).exists() is indexed
    bad = built.segment_folders(name)[1]
    own = {key.tobytes().hex() for key in np.fromfile(bad / "keys/c/0/0", np.uint8).reshape(-1, 16)}
    (bad / "segment.json").write_text("{")
    reader = built.recipe(name)
    for key in keys:
        if key in own:
            with pytest.raises(DamagedSegment, match=bad.name):
                reader.get(key)
        else:
            assert reader.get(key).size
    run = CliRunner().invoke
    held = json.loads(run(app, ["info", str(built.folder), "--json"]).stdout)
    assert [bad.name in each["problem"] for each in held["left_out"]] == [True]
    if indexed:
        return
    assert not reader.has(sorted(own)).any() and reader.has(sorted({*keys} - own)).all()
    assert "Left out" in caplog.text and bad.name in caplog.text
    assert held["recipes"][0]["left_out"] == 1
    rows = json.loads(run(app, ["missing", str(built.folder), "--backbone", name, "--json"]).stdout)
    assert any(bad.name in row["why"] for row in rows)
    assert run(app, ["ls", str(built.folder)]).exit_code == 0
    before = snapshot(built.folder)
    with pytest.raises(DamagedSegment, match=r"embedstore repair"):
        rebuild_genes(built, "another")
    assert snapshot(built.folder) == before
    assert repair(built).quarantined
    assert rebuild_genes(built, "genes") == len(own)


@pytest.fixture
def rebuild_genes(genes):
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.build import BuildConfig, build

    def run(store, collection):
        config = BuildConfig(collection=collection, segment_bytes=1000, quiet=True)
        prepared = prepare(BackboneConfig(backbone="one-hot-protein"))
        return build(store, genes, prepared, config).embedded

    return run


def test_a_store_of_format_1_is_read_as_it_is_and_rewritten_by_the_first_write(tmp_path, snapshot):
    old = Path(__file__).parents[2] / "golden" / "store-format-1" / "store"
    shutil.copytree(old, tmp_path / "s")
    store = open_store(tmp_path / "s")
    before = snapshot(store.folder)
    store.find_recipe(store.recipes()[0])
    assert snapshot(store.folder) == before
    store.write_recipe(RECIPE)
    document = json.loads((store.folder / "store.json").read_text())
    assert document == seal({"format": 2})
    assert len(open_store(store.folder).recipes()) == 3
