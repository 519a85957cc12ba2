"""A neighbour index that somebody wrote to do harm, under checksums of its own, is made anew."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from google_crc32c import value as crc32c

from embedstore import Recipe, Store, create_store, key_of
from embedstore.backbones.backbone import Embedded
from embedstore.documents import seal
from embedstore.neighbors import open_neighbors
from embedstore.neighbors.build import build_index
from embedstore.neighbors.saved import UnusableIndex, load_index, save_index
from embedstore.store import files
from embedstore.store.segment import SegmentWriter

WIDTH = 4
RECIPE = Recipe(backbone="one-hot-mrna", view="mrna", width=WIDTH, weights=None)
ASK = np.linspace(-1, 1, 2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Store:
    """Sixty vectors with one exact index, and one of lists."""
    store = create_store(tmp_path_factory.mktemp("hostile") / "s")
    store.write_recipe(RECIPE)
    vectors = np.random.default_rng(0).normal(size=(60, WIDTH)).astype(np.float32)
    ones = np.ones(60, np.int64)
    embedded = Embedded(vectors.astype(np.float16), ones, vectors, None, ones.astype(bool))
    with SegmentWriter(store.recipe_folder(RECIPE.name), RECIPE) as writer:
        writer.append([key_of(str(number)) for number in range(60)], embedded)
        writer.publish({})
    for exact_max in (10, 100):
        index = build_index(store, RECIPE, "cosine", exact_max=exact_max)
        save_index(index, store.recipe_folder(RECIPE.name))
    return store


@pytest.fixture
def store(made, tmp_path) -> Store:
    shutil.copytree(made.folder, tmp_path / "s")
    return Store(tmp_path / "s")


def folder_of(store: Store, kind: str) -> Path:
    (folder,) = (store.recipe_folder(RECIPE.name) / "neighbors").glob(f"cosine-{kind}-*")
    return folder


def rewrite(folder: Path, change) -> None:
    """Change the document, and seal it again."""
    document = json.loads((folder / "index.json").read_bytes())
    del document["checksum"]
    change(document)
    (folder / "index.json").write_text(json.dumps(seal(document)))


def put(folder: Path, name: str, array: np.ndarray, **named) -> None:
    """Put another array in the place of one, with a right checksum."""
    np.save(folder / name, array, **named)
    content = (folder / name).read_bytes()
    facts = {"bytes": len(content), "crc32c": crc32c(content)}
    rewrite(folder, lambda document: document["files"].update({name: facts}))


def header_of(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


DOCUMENTS = {
    "more vectors": lambda d: d["info"].update(vectors=2**31 - 1),
    "too many vectors": lambda d: d["info"].update(vectors=2**62),
    "no vectors": lambda d: d["info"].update(vectors=0),
    "negative": lambda d: d["info"].update(width=-4),
    "text": lambda d: d["info"].update(width="4"),
    "true": lambda d: d["info"].update(vectors=True),
    "metric": lambda d: d["info"].update(metric="evil"),
    "recall": lambda d: d["info"].update(recall=7.0),
    "no lists": lambda d: d.update(lists=None),
    "many lists": lambda d: d.update(lists=2**31 - 1),
    "more probed": lambda d: d["info"].update(probed_lists=2**30),
    "exact": lambda d: d["info"].update(kind="exact"),
    "a path": lambda d: d["files"].update({"../../../store.json": d["files"]["keys.npy"]}),
    "fewer files": lambda d: d["files"].pop("rows.npy"),
    "huge file": lambda d: d["files"]["vectors.npy"].update(bytes=2**50),
    "unknown": lambda d: d.update(more=1),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_that_lies_is_refused_before_anything_is_allocated(store, what):
    folder = folder_of(store, "ivf")
    expected = load_index(folder).search(ASK, 5)
    rewrite(folder, DOCUMENTS[what])
    with pytest.raises(UnusableIndex):
        load_index(folder)
    found = open_neighbors(store, RECIPE.name, exact_max=10)
    assert found.search(ASK, 5) == expected
    assert load_index(folder).search(ASK, 5) == expected  # made anew


ARRAYS = {
    "objects": ("vectors.npy", np.array([{"a": 1}] * 60, object)),
    "wider": ("vectors.npy", np.zeros((60, WIDTH + 1), np.float32)),
    "doubles": ("vectors.npy", np.zeros((60, WIDTH), np.float64)),
    "columns first": ("vectors.npy", np.asfortranarray(np.zeros((60, WIDTH), np.float32))),
    "fewer keys": ("keys.npy", np.zeros((59, 16), np.uint8)),
    "a row twice": ("rows.npy", np.zeros(60, np.int64)),
    "a row beyond": ("rows.npy", np.arange(60) + 1),
    "a row before": ("rows.npy", np.arange(60) - 1),
    "one list too long": ("lists.npy", np.array([2**62])),
    "a list of less than nothing": ("lists.npy", np.array([-1])),
    "lists that are too short": ("lists.npy", np.array([59])),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_an_array_of_another_kind_is_refused(store, what):
    folder = folder_of(store, "ivf")
    name, array = ARRAYS[what]
    assert len(np.load(folder / "lists.npy")) == 1  # 60 vectors are too few for two
    put(folder, name, array)
    with pytest.raises(UnusableIndex, match=name):
        load_index(folder)


@pytest.mark.parametrize(
    "header",
    [
        header_of("(4000000000000, 4)"),
        header_of("(60, 4)", "'|O'"),
        header_of("(" * 3000 + ")" * 3000),
        header_of("(60, 4)", "[('a', '<f4')] * 10**9"),
        b"",
        b"\x93NUMPY\x03\x00" + b"\xff" * 200,
    ],
    ids=["absurd", "objects", "deep", "code", "empty", "no header"],
)
def test_a_header_of_numpy_that_is_not_ours_is_never_parsed(store, header):
    folder = folder_of(store, "exact")
    content = (header + (folder / "vectors.npy").read_bytes()[128:])[: 128 + 60 * 4 * WIDTH]
    for whole in (content, header):
        (folder / "vectors.npy").write_bytes(whole)
        facts = {"bytes": len(whole), "crc32c": crc32c(whole)}
        rewrite(folder, lambda d, facts=facts: d["files"].update({"vectors.npy": facts}))
        with pytest.raises(UnusableIndex, match=r"vectors\.npy"):
            load_index(folder)


def stand_in(path: Path, what: str, outside: Path) -> None:
    """Put something that is no file of the store in the place of one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        here = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": Path("/dev/zero"), "link out": outside, "loop": path}[what])


@pytest.mark.parametrize("what", ["pipe", "socket", "folder", "device", "link out", "loop"])
@pytest.mark.parametrize("name", ["index.json", "keys.npy", "vectors.npy", ""])
def test_what_is_no_file_of_the_store_is_not_read(store, tmp_path, what, name):
    folder = folder_of(store, "exact")
    expected = load_index(folder).search(ASK, 5)
    outside = tmp_path / "outside"
    shutil.copytree(folder, outside)
    stand_in(folder / name, what, outside / name)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(UnusableIndex):
        load_index(folder)
    assert open_neighbors(store, RECIPE.name).search(ASK, 5) == expected
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert load_index(folder).search(ASK, 5) == expected  # made anew, in the store


@pytest.mark.parametrize("name", ["neighbors", "drafts"])
def test_nothing_is_written_through_a_link_that_leads_out(store, tmp_path, name):
    recipe = store.recipe_folder(RECIPE.name)
    expected = load_index(folder_of(store, "exact")).search(ASK, 5)
    shutil.rmtree(recipe / "neighbors")
    shutil.rmtree(recipe / name, ignore_errors=True)
    (tmp_path / "outside").mkdir()
    (recipe / name).symlink_to(tmp_path / "outside")
    assert open_neighbors(store, RECIPE.name).search(ASK, 5) == expected
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_index_whose_publication_is_answered_wrongly_is_kept(store, monkeypatch):
    recipe = store.recipe_folder(RECIPE.name)
    shutil.rmtree(recipe / "neighbors")
    rename = os.rename

    def lose(old, new):
        rename(old, new)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "rename", lose)
        open_neighbors(store, RECIPE.name)
    assert load_index(folder_of(store, "exact")).info.vectors == 60
    assert list((recipe / "drafts").iterdir()) == []
