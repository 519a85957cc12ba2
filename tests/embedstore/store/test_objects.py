"""Stores in a bucket: what a store on disk does, with an S3 server on loopback and in memory."""

from __future__ import annotations

import json
import logging
import pickle
import urllib.request
import uuid

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedstore import Recipe, create_store, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.cli import app
from embedstore.errors import BadInput, DamagedSegment, NotAStore, Unreachable, WriteFailed
from embedstore.store import drafts
from embedstore.store import gc as gc_module
from embedstore.store.drafts import DOOMED, publish_segment
from embedstore.store.gc import collect_garbage
from embedstore.store.inventory import inventory
from embedstore.store.merge import merge
from embedstore.store.objects import ObjectPath, locate
from embedstore.store.repair import repair
from embedstore.store.segment import SegmentWriter
from embedstore.store.segment_document import DOCUMENT, write_document
from embedstore.store.verify import verify

CONFIG = BuildConfig(collection="genes", segment_bytes=8000, batch_tokens=100, quiet=True)
BUCKET = "embeddings"


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback with one bucket; the environment points at it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT", endpoint)
        patch.setenv("AWS_ALLOW_HTTP", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def url(request) -> str:
    """Where no store is yet."""
    name = uuid.uuid4().hex
    if request.param == "memory":
        return f"memory://{name}/a b/gènes.store"
    return f"{request.getfixturevalue('s3')}/{name}/a b/gènes.store"


in_memory = pytest.mark.parametrize("url", ["memory"], indirect=True)
"""For what asks nothing of the server that other tests do not ask; S3 takes seconds a test."""


def test_an_object_is_swapped_only_for_what_was_seen(url):
    place = locate(url) / "x"
    assert place.create(b"1") and not place.create(b"2")
    content, first = place.read_version()
    assert (content, place.swap(b"2", first)) == (b"1", True)
    assert place.swap(b"3", first) is False
    _, second = place.read_version()
    place.unlink()
    assert place.swap(b"3", second) is False
    assert place.swap(b"3", {}) is None  # a bucket that tells contents not apart
    assert not place.is_file()


@pytest.fixture
def prepared(tiny_esm):
    return prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))


@pytest.fixture
def on_disk(tmp_path, genes, prepared):
    store = create_store(tmp_path / "disk.store")
    build(store, genes, prepared, CONFIG)
    return store.recipe("esm2-8m")


@pytest.fixture
def built(url, genes, prepared):
    store = create_store(url)
    build(store, genes, prepared, CONFIG)
    return store


def make_draft(tmp_path, **said):
    """A finished draft; its document says so, too: a published one that was moved back."""
    recipe = Recipe(backbone="esm2-8m", view="protein", width=1, weights=None)
    at = tmp_path / uuid.uuid4().hex / "recipes" / recipe.name
    embedded = Embedded(
        np.ones((1, 1), np.float16),
        np.ones(1, np.int64),
        np.ones((1, 1), np.float32),
        None,
        np.ones(1, np.bool_),
    )
    with SegmentWriter(at, recipe) as writer:
        writer.append(["1" * 32], embedded)
        name = writer.publish({})
    draft = (at / "segments" / name).rename(tmp_path / "draft")
    said = {"segment": "0" * 32, **said}
    values = json.loads((draft / DOCUMENT).read_bytes()) | said
    for sealed in ("format", "checksum"):
        del values[sealed]
    (draft / DOCUMENT).write_bytes(write_document(values))
    return draft


def objects(store) -> list[str]:
    return sorted(path.path for path, _ in store.folder.below())


def test_a_bucket_holds_what_a_disk_would(built, on_disk, genes, prepared):
    opened = open_store(str(built.folder))
    reader = opened.recipe("esm2-8m")
    keys = on_disk.keys()
    assert reader.keys() == keys and len(keys) == 38
    shuffled = [keys[at] for at in np.random.default_rng(0).permutation(len(keys))]
    ours, theirs = reader.batch(shuffled), on_disk.batch(shuffled)
    assert ours.tokens.tobytes() == theirs.tokens.tobytes()
    assert ours.lengths.tolist() == theirs.lengths.tolist()
    assert np.array_equal(reader.means(keys), on_disk.means(keys))
    assert reader.info(keys[3]) == on_disk.info(keys[3])
    assert reader.describe() == on_disk.describe()
    assert opened.collection("genes").table.equals(on_disk.store.collection("genes").table)
    assert reader.get(opened.collection("genes").ids[0]).shape[1] == 16
    before = objects(built)
    again = build(built, genes, prepared, CONFIG)
    assert (again.embedded, again.present) == (0, 38)
    assert [name for name in objects(built) if "/index/" not in name] == before
    report = verify(opened)
    assert report.whole and not report.leftovers and report.checked["sequences"] == 38
    assert verify(opened, sample=5).checked["sequences"] == 5
    assert inventory(opened)["coverage"] == inventory(on_disk.store)["coverage"]


def test_plain_zarr_reads_a_segment_from_the_bucket(built):
    reader = built.recipe("esm2-8m")
    segment = reader.segments[0]
    source = zarr.storage.ObjectStore(segment.data.client, read_only=True)
    group = zarr.open_group(source, path=segment.data.path, mode="r")
    rows = reader.batch([bytes(key).hex() for key in segment.keys]).tokens
    assert np.array_equal(group["tokens"][:], rows)
    assert np.array_equal(group["mean"][:], segment.mean)


def test_neighbours_share_a_request(s3, genes, prepared, caplog):
    store = create_store(f"{s3}/{uuid.uuid4().hex}")
    build(store, genes, prepared, BuildConfig(collection="genes", quiet=True))
    reader = open_store(str(store.folder)).recipe("esm2-8m")
    keys = reader.keys()
    reader.lengths(keys)
    caplog.clear()
    with caplog.at_level(logging.INFO, "werkzeug"):
        first = reader.batch(keys)
        cold = sum("GET" in record.getMessage() for record in caplog.records)
        caplog.clear()
        second = reader.batch(keys[::-1])
        warm = sum("GET" in record.getMessage() for record in caplog.records)
    assert first.tokens.nbytes == second.tokens.nbytes > 0
    assert (cold, warm) == (5, 1)  # document, start, length, crc32c, and one for all 38 sequences


def test_a_segment_published_by_another_is_kept(built, tmp_path):
    reader = built.recipe("esm2-8m")
    before = objects(built)
    folder = built.recipe_folder(reader.name)
    name = reader.segments[0].name
    draft = make_draft(tmp_path, segment=name)
    with pytest.MonkeyPatch.context() as patch:
        # as if the other came between our look and our request
        patch.setattr(ObjectPath, "is_file", lambda self: False)
        assert not publish_segment(draft, folder, name)
    assert objects(built) == before
    assert not publish_segment(draft, folder, name)
    assert objects(built) == before


@in_memory
def test_an_answer_that_was_lost_is_not_taken_for_a_rival(built, tmp_path, monkeypatch):
    folder = built.recipe_folder("other")
    draft = make_draft(tmp_path)
    create = ObjectPath.create

    def create_and_forget(self, content):
        return create(self, content) and False

    monkeypatch.setattr(ObjectPath, "create", create_and_forget)
    name = "0" * 32
    assert publish_segment(draft, folder, name)
    document = json.loads((folder / "segments" / name / "segment.json").read_bytes())
    assert (folder / "data" / document["data"] / "zarr.json").is_file()


@in_memory
def test_a_publication_that_fails_after_the_server_took_it_keeps_its_data(
    url, genes, prepared, monkeypatch
):
    """The answer and every repeat are lost: what stands must still be whole."""
    store = create_store(url)
    create = ObjectPath.create

    def create_and_lose(self, content):
        create(self, content)
        raise WriteFailed("the connection broke.", "Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "create", create_and_lose)
        with pytest.raises(WriteFailed, match="connection broke"):
            build(store, genes, prepared, CONFIG)
    reader = store.recipe("esm2-8m")
    assert len(reader) > 0 and len(reader.batch(reader.keys()).lengths) == len(reader)
    assert verify(store).whole
    build(store, genes, prepared, CONFIG)
    assert len(store.recipe("esm2-8m")) == 38


@pytest.fixture
def draft(tmp_path):
    """A finished draft."""
    return make_draft(tmp_path)


def test_a_document_that_may_stand_keeps_its_data(draft, monkeypatch, tmp_path):
    folder = locate(f"memory://{uuid.uuid4().hex}/r")
    create, read = ObjectPath.create, ObjectPath.read_bytes

    def created_without_an_answer(self, content):
        create(self, content)
        raise WriteFailed("no answer came", "")

    def created_and_refused(self, content):
        return create(self, content) and False

    def unreachable(self, most=None):
        raise Unreachable("no answer came", "") if self.name == "segment.json" else read(self)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "create", created_without_an_answer)
        with pytest.raises(WriteFailed):
            publish_segment(draft, folder, "0" * 32)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "create", created_and_refused)
        patch.setattr(ObjectPath, "read_bytes", unreachable)
        with pytest.raises(Unreachable):
            publish_segment(make_draft(tmp_path / "other", segment="1" * 32), folder, "1" * 32)
    for name in ("0" * 32, "1" * 32):
        document = json.loads((folder / "segments" / name / "segment.json").read_bytes())
        assert (folder / "data" / document["data"] / "zarr.json").is_file()


def test_what_gc_took_from_a_sleeping_writer_is_not_shown(draft, monkeypatch):
    folder = locate(f"memory://{uuid.uuid4().hex}/r")
    write = ObjectPath.write

    def write_then_lose(self, content):
        write(self, content)
        self.unlink()

    monkeypatch.setattr(ObjectPath, "write", write_then_lose)
    with pytest.raises(WriteFailed, match="as it was sent"):
        publish_segment(draft, folder, "0" * 32)
    assert list(folder.below()) == []


@pytest.mark.parametrize("moment", ["sent", "listed", "marked", "looked", "created"])
def test_gc_beside_a_writer_leaves_whole_segments_alone(draft, monkeypatch, moment):
    """Publishing goes on at every step of a gc that takes whatever is not published."""
    store = create_store(f"memory://{uuid.uuid4().hex}")
    folder = store.recipe_folder("r")
    (folder / "recipe.json").write(b"{}")
    create, find, write = ObjectPath.create, gc_module.find_unpublished, ObjectPath.write

    def collect():
        return [each.kind for each in collect_garbage(store, older_than=-1.0)]

    class Writer:
        """What is left to do of publishing, done at a moment of the other."""

        def __init__(self, path, content):
            self.act = lambda: create(path, content)

        def __call__(self):
            act, self.act = self.act, lambda: None
            act()

    def create_at(self, content):
        publish = Writer(self, content)
        with monkeypatch.context() as patch:
            if moment == "listed":
                patch.setattr(gc_module, "find_unpublished", lambda at: (find(at), publish())[0])
            if moment == "marked":
                patch.setattr(
                    ObjectPath,
                    "write",
                    lambda at, text: (write(at, text), at.name == DOOMED and publish())[0],
                )
            if moment == "looked":
                patch.setattr(drafts, "find_unpublished", lambda at: (find(at), publish())[0])
            if moment == "created":
                publish()
            collect()
            publish()
        return True

    monkeypatch.setattr(ObjectPath, "create", create_at)
    try:
        publish_segment(draft, folder, "0" * 32)
    except WriteFailed:
        assert moment in ("sent", "looked")
    documents = list(folder.glob("segments/*/segment.json"))
    for document in documents:
        attempt = json.loads(document.read_bytes())["data"]
        assert len(list((folder / "data" / attempt).below())) == 13
    assert len(documents) == (moment not in ("sent", "looked"))


def test_a_document_refused_for_one_that_went_is_created_again(draft, monkeypatch):
    folder = locate(f"memory://{uuid.uuid4().hex}/r")
    create, refused = ObjectPath.create, iter([True, False])
    monkeypatch.setattr(
        ObjectPath, "create", lambda self, content: not next(refused) and create(self, content)
    )
    assert publish_segment(draft, folder, "0" * 32)
    assert (folder / "segments" / ("0" * 32) / "segment.json").is_file()


def test_a_segment_from_a_disk_is_set_aside_with_its_data(url, on_disk, genes, prepared):
    source, target = on_disk.store.folder, locate(url)
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source).as_posix()).write(path)
    store = open_store(url)
    assert verify(store).whole
    segment = store.recipe("esm2-8m").segments[0]
    (segment.folder / "mean/c/0/0").write(b"rotten")
    assert len(repair(store).quarantined) == 1
    report = verify(store)
    assert report.whole and report.checked["segments"] == len(on_disk.segments) - 1
    aside = segment.folder.parent.parent / "quarantine" / segment.name
    assert (aside / "tokens/c/0/0").is_file() and (aside / "segment.json").is_file()
    assert build(store, genes, prepared, CONFIG).embedded == len(segment.keys)
    assert verify(store).whole


@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_shard_that_ends_too_early_is_damage(url, built, left):
    reader = built.recipe("esm2-8m")
    shard = reader.segments[0].data / "tokens/c/0/0"
    shard.write(shard.read_bytes()[:left])
    with pytest.raises(DamagedSegment, match="ends too early"):
        built.recipe("esm2-8m").batch(reader.keys())


@in_memory
@given(
    size=st.integers(1, 400_000),
    wanted=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_ranges_are_those_of_the_bytes(url, size, wanted):
    content = np.random.default_rng(size).bytes(size)
    place = locate(url) / "x"
    place.write(content)
    starts = [int(start * (size - 1)) for start, _ in wanted]
    sizes = [
        1 + int(part * (size - start - 1)) for start, (_, part) in zip(starts, wanted, strict=True)
    ]
    got = place.read_ranges(starts, sizes)
    for part, start, count in zip(got, starts, sizes, strict=True):
        assert part.tobytes() == content[start : start + count]


def test_places_of_a_store_share_a_connection(s3):
    place = locate(f"{s3}/x")
    assert (place / "y" / "z").client is place.client is (place / "y").parent.client


def test_what_a_killed_writer_left_is_seen_by_gc_alone(built, genes, prepared):
    folder = built.recipe_folder(built.recipe("esm2-8m").name)
    before = objects(built)
    (folder / "data" / ("a" * 32) / "tokens/c/0/0").write(b"half")
    assert len(open_store(str(built.folder)).recipe("esm2-8m")) == 38
    assert verify(built).leftovers == [f"recipes/{prepared.recipe.name}/data/{'a' * 32}"]
    assert collect_garbage(built) == []  # it may still be at work
    (removed,) = collect_garbage(built, older_than=-1.0)
    assert (removed.kind, removed.bytes) == ("draft", 4)
    assert objects(built) == before


@in_memory
def test_damage_is_found_set_aside_and_embedded_anew(built, genes, prepared, on_disk):
    reader = built.recipe("esm2-8m")
    segment = reader.segments[0]
    shard = segment.data / "tokens/c/0/0"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write(bytes(content))
    keys = reader.keys()
    with pytest.raises(DamagedSegment, match=segment.name):
        reader.batch(keys)
    found = verify(built)
    assert not found.whole and {problem.kind for problem in found.problems} == {"segment"}
    report = repair(built, found)
    assert report.quarantined == [f"recipes/{reader.name}/quarantine/{segment.name}"]
    assert len(built.recipe("esm2-8m")) == 38 - len(segment.keys)
    assert collect_garbage(built, older_than=-1.0) == []  # what was set aside is kept
    assert build(built, genes, prepared, CONFIG).embedded == len(segment.keys)
    healed = built.recipe("esm2-8m")
    assert healed.batch(keys).tokens.tobytes() == on_disk.batch(keys).tokens.tobytes()
    removed = collect_garbage(built, older_than=-1.0, quarantine=True)
    assert {each.kind for each in removed} == {"quarantine"}
    assert min(each.bytes for each in removed) > 0
    assert not [name for name in objects(built) if "/quarantine/" in name]
    assert verify(built).whole


@in_memory
def test_a_lost_object_is_damage_and_a_lost_network_is_not(built, monkeypatch):
    reader = built.recipe("esm2-8m")
    keys = reader.keys()
    (reader.segments[0].data / "tokens/c/0/0").unlink()
    with pytest.raises(DamagedSegment, match="cannot be read"):
        reader.batch(keys)
    before = objects(built)

    def fail(*arguments, **named):
        raise OSError("connection reset")

    monkeypatch.setattr("obstore.get", fail)
    with pytest.raises(Unreachable, match="connection reset"):
        open_store_again(built).recipe("esm2-8m")
    report = verify(open_store_again(built))
    assert report.problems and {each.code for each in report.problems} == {"unreachable"}
    assert all("connection reset" in each.what for each in report.problems)
    mended = repair(open_store_again(built))
    assert len(mended.left) == len(report.problems) and not mended.quarantined
    assert objects(built) == before


def open_store_again(store):
    return type(store)(locate(str(store.folder)))


@in_memory
def test_stores_are_merged_from_a_bucket_and_into_one(url, built, on_disk, tmp_path):
    merge([open_store(str(built.folder))], tmp_path / "copy.store")
    copy = open_store(tmp_path / "copy.store")
    assert verify(copy).whole
    for segment in copy.recipe("esm2-8m").segments:
        assert segment.data == segment.folder and segment.document.format == 3
    merge([copy], f"{url}-2")
    there = open_store(f"{url}-2").recipe("esm2-8m")
    keys = on_disk.keys()
    assert there.batch(keys).tokens.tobytes() == on_disk.batch(keys).tokens.tobytes()


def test_the_command_line_takes_a_url(s3, tmp_path):
    table = tmp_path / "genes.csv"
    table.write_text("id,sequence\na,AUGGCUUAA\nb,AUGGCCGCCUAA\n")
    url = f"{s3}/{uuid.uuid4().hex}/genes.store"

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    common = ("build", table, "--store", url, "--molecule", "mrna", "--backbone", "one-hot-mrna")
    planned = invoke(*common, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert not (locate(url)).is_dir()
    done = invoke(*common)
    assert done.exit_code == 0, done.output
    assert "collection" in invoke("ls", url).stdout
    assert invoke("verify", url).exit_code == 0
    out = tmp_path / "a.npy"
    assert invoke("get", url, "a", "--backbone", "one-hot-mrna", "-o", out).exit_code == 0
    assert np.load(out).shape == (9, 4)
    assert invoke("info", url).exit_code == 0
    absent = invoke("ls", f"{url}-other")
    assert absent.exit_code == 1 and "is not a store" in absent.output


def test_a_folder_of_others_is_left_alone(url):
    (locate(url) / "notes.txt").write(b"mine")
    with pytest.raises(NotAStore, match="is not a store"):
        create_store(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/x", "scheme"),
        ("s3://", "bucket"),
        ("s3://bucket/x?versionId=1", "bucket"),
        ("file://elsewhere/x", "this machine"),
        ("s3://bucket/x//y", "BUCKET/FOLDER"),
    ],
)
def test_urls_that_no_store_can_have_are_refused(text, said):
    with pytest.raises(BadInput, match=said):
        open_store(text)


def test_a_file_url_is_a_path(tmp_path):
    folder = tmp_path / "a b"
    assert locate(folder.as_uri()) == folder


def test_a_place_survives_pickling_without_its_connection(s3):
    place = ObjectPath(f"{s3}/x", "y/z")
    assert place.client is not None
    again = pickle.loads(pickle.dumps(place))
    assert again == place and "client" not in vars(again)
    assert (again.name, again.parent.path, str(again.with_name("w"))) == ("z", "y", f"{s3}/x/y/w")
