"""Every file of a run and of its probe, damaged in every way: named by our errors, or read right.

One tiny run is made; nothing is trained again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from embedstore.documents import CHECKSUM, MOST_BYTES, seal
from embedstore.errors import BadInput, NewerFormat, NotFinite, StoreError
from probe import runs
from probe.grid import Grid
from probe.heads import HEADS
from probe.plan import plan_run
from probe.predict import find_probe
from probe.predictions import MOST, MOST_LINE, read_test_rows
from probe.probe_document import MOST_VALUES, head_shapes
from probe.report.entries import find_runs
from probe.run_documents import read_results, read_run_document
from probe.runs import run_grid
from probe.saved import load_probe, read_probe_info
from probe.splits import Split, load_split
from probe.tasks import Task

TASK = Task(collection="genes", label="label", kind="regression")
OLD = {"probe": 1, "run": 1, "results": 1, "split": 1}
PROBE = "probes/one-hot-mrna"
DOCUMENTS = (f"{PROBE}/probe.json", "run.json", "results.json", "split.json")
TABLES = ("predictions/one-hot-mrna.csv", "test_groups.csv")


@pytest.fixture(scope="session")
def plan(store):
    grid = Grid(batch_sizes=(16,), learning_rates=(9e-4,), epochs=1)
    return plan_run(store, TASK, ["one-hot-mrna"], grid)


@pytest.fixture(scope="session")
def made(plan, tmp_path_factory):
    """A finished run; its head is made small, which no reader minds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_grid(plan, folder)
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def readings(folder, plan):
    """What every reader of a run makes of it: by reader, a value to compare."""
    tokens, lengths = np.eye(4, dtype=np.float16)[np.arange(40) % 4], np.array([15, 25])
    run, _ = find_runs([folder])
    entry = run[0].entries[0]
    return {
        "info": read_probe_info(folder / PROBE).as_json(),
        "predicted": load_probe(find_probe(folder)).predict(tokens, lengths).tolist(),
        "score": (entry.score, entry.interval, run[0].groups),
        "rows": (entry.predictions.ids, entry.predictions.predicted.tolist()),
        "split": load_split(folder / "split.json", plan.split.ids).digest,
        "resumed": run_grid(plan, folder),
    }


@pytest.mark.parametrize(("name", "step"), [*zip(DOCUMENTS, (2, 4, 8, 8), strict=True)])
def test_any_flipped_bit_or_cut_of_a_document_is_named(run, plan, name, step):
    """Of a sample of bytes; `1e-05` and `1E-05` are one number, so some flips change nothing."""
    path = run / name
    content, whole = path.read_bytes(), readings(run, plan)
    right = read_alone(path, plan)
    rng = np.random.default_rng(0)
    for at in range(int(rng.integers(step)), len(content), step):
        bad = bytearray(content)
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            assert read_alone(path, plan) == right
        except (BadInput, NewerFormat) as error:
            assert path.name in str(error)
    for cut in (0, 1, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:cut])
        with pytest.raises(BadInput) as caught:
            readings(run, plan)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(content)
    assert readings(run, plan) == whole


def read_alone(path, plan):
    """Plain values of one document."""
    match path.name:
        case "run.json":
            return read_run_document(path.parent).values()
        case "results.json":
            return read_results(path.parent).values()
        case "split.json":
            return load_split(path, plan.split.ids).digest
    return read_probe_info(path.parent).as_json()


@pytest.mark.parametrize("name", [*DOCUMENTS, *TABLES, f"{PROBE}/head.safetensors"])
@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "link out", "another", "loop"])
def test_whatever_stands_in_the_place_of_a_file_is_named(run, plan, tmp_path, name, what):
    path, whole = run / name, readings(run, plan)
    shutil.copy(path, tmp_path / "elsewhere")
    path.unlink()
    match what:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link out":
            path.symlink_to(tmp_path / "elsewhere")
        case "another":
            shutil.copy(run / ("run.json" if name != "run.json" else "results.json"), path)
        case "loop":
            path.symlink_to(path.name)
    optional = what == "nothing" and name in TABLES  # runs of earlier versions have none
    if optional:
        with pytest.raises((AttributeError, AssertionError)):
            assert readings(run, plan) == whole
    elif name == "split.json" and what == "link out":
        assert load_split(path, plan.split.ids).digest == plan.split.digest  # as a user may give it
    else:
        with pytest.raises(StoreError) as caught:
            readings(run, plan)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def edited(path, change, *, old):
    """Change a document: sealed anew, or as it was before there was a checksum."""
    document = json.loads(path.read_text())
    del document[CHECKSUM]
    for dotted, value in change.items():
        *outer, last = dotted.split(".")
        inner = document
        for each in outer:
            inner = inner[each]
        inner[last] = value
    if old:
        path.write_text(json.dumps(document | {"format": OLD[document["kind"]]}))
    else:
        path.write_text(json.dumps(seal(document)))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("probe.json", "scale.std", "1"),
        ("probe.json", "scale.std", -1),
        ("probe.json", "scale.mean", True),
        ("probe.json", "scale", [1, 2]),
        ("probe.json", "metrics", "x"),
        ("probe.json", "metrics.test", [0.5]),
        ("probe.json", "metrics.test", {"spearman": True}),
        ("probe.json", "head.width", -4),
        ("probe.json", "head.width", 10**9),
        ("probe.json", "head.projection", 1 << 24),
        ("probe.json", "head.outputs", 2),
        ("probe.json", "head.kernels", [3] * 1000),
        ("probe.json", "head.kernels", []),
        ("probe.json", "head.dropout", 1),
        ("probe.json", "head.kind", "transformer"),
        ("probe.json", "head", None),
        ("probe.json", "head.depth", 3),
        ("probe.json", "classes", [1, 2]),
        ("probe.json", "classes", ["a", "b"]),
        ("probe.json", "recipe.width", "4"),
        ("probe.json", "recipe.store_dtype", ["object"]),
        ("probe.json", "recipe_name", "../x"),
        ("probe.json", "task.kind", "x"),
        ("probe.json", "task.metric", "accuracy"),
        ("probe.json", "task.max_letters", 0),
        ("probe.json", "training.epochs", 0),
        ("probe.json", "training.batch_size", "16"),
        ("probe.json", "weights_digest", "zz"),
        ("probe.json", "positions", 3),
        ("probe.json", "surprise", 1),
        ("run.json", "backbones", {"../../evil": "x"}),
        ("run.json", "backbones", {}),
        ("run.json", "rows.used", 10**6),
        ("run.json", "grid.seeds", True),
        ("run.json", "head", "x"),
        ("run.json", "task", "x"),
        ("run.json", "classes", ["a"]),
        ("results.json", "backbones", {"a/b": {}}),
        ("results.json", "backbones", []),
        ("results.json", "metric", "pearson"),
        ("results.json", "comparisons.level", 2),
        ("results.json", "comparisons.intervals", {"one-hot-mrna": [0.5, 0.1]}),
        ("results.json", "comparisons.intervals", {"one-hot-mrna": [0.5]}),
        ("results.json", "constant", 1),
        ("split.json", "train", "abc"),
        ("split.json", "train", [1, 2]),
        ("split.json", "seed", -1),
        ("split.json", "test", []),
    ],
)
def test_a_field_of_another_type_or_range_is_named(run, plan, name, field, value, old):
    path = run / PROBE / name if name == "probe.json" else run / name
    edited(path, {field: value}, old=old)
    with pytest.raises(BadInput) as caught:
        if name == "probe.json":
            load_probe(path.parent)
        elif name == "split.json":
            load_split(path, plan.split.ids)
        else:
            find_runs([run])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"kind": "probe", "format": 1, "scale": NaN}',
        b'{"kind": "probe", "format": 1, "scale": {"mean": 1e999, "std": 1}}',
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": true}',
    ],
)
def test_what_is_no_document_is_one_line(run, content):
    (run / PROBE / "probe.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"probe\.json.* is damaged: ") as caught:
        read_probe_info(run / PROBE)
    assert len(str(caught.value)) < 600


def test_documents_of_earlier_formats_are_still_read(run, plan):
    whole = readings(run, plan)
    for name in DOCUMENTS:
        edited(run / name, {}, old=True)
    document = json.loads((run / PROBE / "probe.json").read_text())
    for name in ("positions", "by_token"):  # absent in the oldest
        del document[name]
    (run / PROBE / "probe.json").write_text(json.dumps(document))
    now = readings(run, plan)
    assert now.pop("resumed") | {"format": 2} == whole.pop("resumed")
    for document in (now["info"], whole["info"]):
        document.pop("positions"), document.pop("by_token")
    assert now == whole


def test_a_run_that_goes_on_has_its_split_and_groups_whole(plan, made, tmp_path):
    draft = shutil.copytree(made, tmp_path / ".run.draft")
    for name in ("split.json", "test_groups.csv"):
        (draft / name).write_bytes(b"x")
    run_grid(plan, tmp_path / "run")
    assert load_split(tmp_path / "run" / "split.json", plan.split.ids).digest == plan.split.digest
    groups = "test_groups.csv"
    assert (tmp_path / "run" / groups).read_bytes() == (made / groups).read_bytes()


def test_a_run_that_an_earlier_version_began_is_finished(plan, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_compare", stop)
        with pytest.raises(KeyboardInterrupt):
            run_grid(plan, tmp_path / "run")
    for name in ("run.json", "results.json", "split.json"):
        edited(tmp_path / ".run.draft" / name, {}, old=True)
    run_grid(plan, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["format"] == 2
    find_runs([tmp_path / "run"])


@pytest.mark.parametrize("kind", HEADS)
def test_shapes_of_a_document_are_those_of_the_head(kind):
    outputs = 3
    with torch.device("meta"):
        head = HEADS[kind](6, outputs)
    shapes = {name: tuple(values.shape) for name, values in head.state_dict().items()}
    assert head_shapes(json.loads(json.dumps({"kind": kind, **head.sizes}))) == shapes


def spoil(folder, change):
    """Change the tensors of a probe, with a digest that fits."""
    path = folder / "head.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    edited(folder / "probe.json", {"weights_digest": digest}, old=False)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda t: t.pop("fc.bias"), BadInput, "fc.bias is absent"),
        (lambda t: t.update(more=t["fc.bias"]), BadInput, "more is float32"),
        (lambda t: t.update({"fc.bias": t["fc.bias"][:0]}), BadInput, r"fc.bias is .*\(0,\)"),
        (lambda t: t.update({"fc.bias": t["fc.bias"].astype(np.float16)}), BadInput, "float16"),
        (lambda t: t["fc.bias"].fill(np.inf), NotFinite, "fc.bias is not finite"),
    ],
)
def test_tensors_that_are_not_those_of_the_document_are_refused(run, change, error, said):
    spoil(run / PROBE, change)
    with pytest.raises(error, match=rf"head\.safetensors.*{said}"):
        load_probe(run / PROBE)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, (1 << 60).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0[]",
     b"\x10\x27\0\0\0\0\0\0" + b"[" * 10_000],
)  # fmt: skip
def test_a_header_of_tensors_that_is_none_is_refused(run, content):
    path = run / PROBE / "head.safetensors"
    path.write_bytes(content)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    edited(run / PROBE / "probe.json", {"weights_digest": digest}, old=False)
    with pytest.raises(BadInput, match=r"head\.safetensors"):
        load_probe(run / PROBE)


def test_a_huge_file_of_tensors_is_not_read(run):
    path = run / PROBE / "head.safetensors"
    with path.open("r+b") as file:
        file.truncate(4 * MOST_VALUES)  # sparse
    with pytest.raises(BadInput, match=r"head\.safetensors.*bytes, more than"):
        load_probe(run / PROBE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,1", "line 3 has 2 cells of 3"),
        ("x,1,2,3", "line 3 has 4 cells of 3"),
        ("x,1,abc", "line 3 has 'abc'"),
        ("x,1,1_0", "line 3 has '1_0'"),
        ("x,nan,1", "line 3 says 'nan' is true"),
        ("", "line 3 has 0 cells"),
        ('"x,1,2', "after line"),
    ],
)
def test_a_row_of_predictions_that_is_none_is_named_with_its_line(run, plan, line, said):
    path = run / "predictions" / "one-hot-mrna.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(BadInput, match=said) as caught:
        readings(run, plan)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"id,true,predicted\n"])
def test_a_table_without_lines_is_not_read_to_its_end(run, content):
    path = run / "predictions" / "one-hot-mrna.csv"
    path.write_bytes(content)
    os.truncate(path, MOST)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=f"a line has more than {MOST_LINE} letters") as caught:
            read_test_rows(path, (), within=run)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert most < 64 * MOST_LINE


def test_a_byte_of_a_table_that_is_no_utf_8_is_named_with_its_line(run):
    path = run / "predictions" / "one-hot-mrna.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\xff,1,2\n"]))
    with pytest.raises(BadInput, match="no UTF-8") as caught:
        read_test_rows(path, (), within=run)
    assert str(path) in str(caught.value)


def test_a_document_larger_than_most_is_read_back(tmp_path):
    count = 1 + MOST_BYTES // 60
    ids = tuple(f"{at:060d}" for at in range(count))
    rows = np.arange(count)
    split = Split(
        ids=ids, train=rows[6:], validation=rows[:3], test=rows[3:6], seed=0, rule="random"
    )
    path = tmp_path / "split.json"
    split.save(path)
    assert path.stat().st_size > MOST_BYTES
    assert load_split(path, ids).digest == split.digest


@pytest.mark.parametrize("line", ["x", "x,y", "x,-1", "x,1,2"])
def test_a_row_of_groups_that_is_none_is_named(run, plan, line):
    path = run / "test_groups.csv"
    path.write_text("\n".join(["id,group", line]) + "\n")
    with pytest.raises(BadInput, match="line 2") as caught:
        readings(run, plan)
    assert str(path) in str(caught.value)


def test_a_split_of_old_groups_is_told_which_split_to_give(run, plan):
    edited(run / "run.json", {"split.digest": "0" * 32}, old=False)
    with pytest.raises(BadInput, match=r"differs in split.*--split .*run/split\.json"):
        run_grid(plan, run)
