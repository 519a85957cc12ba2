"""The command line: examples run, stdout is data, exit codes mean what they say."""

import csv
import io
import json
import re
import shlex
import shutil

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.documents import seal
from embedstore.records import Record
from embedstore.store.collection import make_table
from probe import cli

GENES, NO_PROTEIN = 60, "synthetic-3"  # as in conftest.py
QUICK = ["--batch-size", "16", "--learning-rate", "9e-4", "--epochs", "1", "--threads", "1"]


@pytest.fixture
def work(store, tmp_path, monkeypatch):
    """A working folder with genes.store in it."""
    shutil.copytree(store.folder, tmp_path / "genes.store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def grid(*more, label="label", backbone="one-hot-protein", output="run"):
    options = ["--collection", "genes", "--label", label, "--backbone", backbone, "-o", output]
    return call("grid", "genes.store", *options, *QUICK, *more)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def example_of(command):
    (example,) = re.findall(r"^\s*Example: probe (.*)$", command.__doc__, re.MULTILINE)
    assert command.__doc__.strip().endswith(example)
    return shlex.split(example)


def test_the_examples_in_the_help_run(work):
    done = call(*example_of(cli.train.grid), *QUICK)
    assert done.exit_code == 0, done.output
    done = call(*example_of(cli.use.audit))
    assert done.exit_code == 0, done.output
    done = call(*example_of(cli.use.predict))
    assert done.exit_code == 0, done.output
    assert len((work / "predictions.csv").read_text().splitlines()) == GENES + 1


@pytest.mark.parametrize("command", ["grid", "audit", "predict"])
def test_help_shows_the_example(command):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert f"Example: probe {command}" in done.output


def test_grid_prints_the_table_on_stdout_and_progress_on_stderr(work):
    done = grid(backbone="one-hot-mrna,one-hot-protein")
    assert done.exit_code == 0, done.output
    assert done.stdout == (work / "run" / "results.md").read_text()
    assert "batch size 16, learning rate 0.0009" in done.stderr


def test_json_is_all_that_stands_on_stdout(work):
    done = grid("--json")
    assert seal(json.loads(done.stdout)) == json.loads((work / "run/results.json").read_text())


def test_options_reach_the_run(work):
    done = grid("--transform", "log2", "--min-label", "0.3", "--max-nt", "370", "--seed", "3",
                "--patience", "2", label="expression")  # fmt: skip
    assert done.exit_code == 0, done.output
    run = json.loads((work / "run" / "run.json").read_text())
    assert run["unit"] == "log2(expression)"
    assert (run["task"]["min_label"], run["task"]["max_letters"]) == (0.3, 370)
    assert run["grid"] == {
        "batch_sizes": [16],
        "learning_rates": [9e-4],
        "epochs": 1,
        "patience": 2,
        "seed": 3,
        "seeds": 1,
        "dropout": 0.2,
    }
    assert run["split"]["seed"] == 3


def test_an_lstm_is_trained_saved_and_used_again(work):
    done = grid("--head", "lstm")
    assert done.exit_code == 0, done.output
    assert "LSTM heads" in done.stdout
    assert json.loads((work / "run" / "run.json").read_text())["head"] == "lstm"
    saved = json.loads((work / "run/probes/one-hot-protein/probe.json").read_text())
    assert (saved["head"]["kind"], saved["head"]["hidden"]) == ("lstm", 640)
    done = call("predict", "run", "genes.store", "--collection", "genes")
    assert len(rows_of(done.stdout)) == GENES - 1
    assert grid().exit_code == 1  # another kind of head is another run


def test_halving_is_told_in_the_run_and_its_table(work):
    done = grid("--search", "halving")
    assert done.exit_code == 0, done.output
    assert "successive halving" in done.stdout
    assert json.loads((work / "run" / "run.json").read_text())["search"] == "halving"


def test_a_split_made_by_one_run_serves_the_next(work):
    assert grid("--split", "group:view", "--folds", "4", "--fold", "1").exit_code == 0
    first = json.loads((work / "run" / "run.json").read_text())["split"]
    assert first["rule"] == "identical view fold 1 of 4"
    done = grid("--split", "run/split.json", backbone="one-hot-mrna,one-hot-protein", output="two")
    assert done.exit_code == 0, done.output
    second = json.loads((work / "two" / "run.json").read_text())["split"]
    assert second == first


def test_an_audit_is_text_or_json(work):
    options = ["--collection", "genes", "--label", "expression", "--transform", "log2",
               "--min-label", "0.3", "--max-nt", "370", "--split", "group:protein"]  # fmt: skip
    shown = call("audit", "genes.store", *options)
    assert shown.exit_code == 0 and shown.stderr == ""
    assert "genes: log2(expression) (regression)" in shown.stdout
    document = json.loads(call("audit", "genes.store", *options, "--json").stdout)
    assert document["split"]["rule"].startswith(
        "identical protein (1 row without protein is a group of its own) in"
    )
    assert document["rows"] == sum(document["parts"].values())
    assert f"{document['rows']} of 60 records used" in shown.stdout
    classes = json.loads(
        call("audit", "genes.store", "--collection", "genes", "--label", "side", "--json").stdout
    )
    assert classes["outliers"] is None and 0.5 <= classes["majority"] < 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--label", "halflife"], "no label column 'halflife'"),
        (["--label", "label", "--split", "column:side"], "The column side says"),
        (["--label", "label", "--folds", "5", "--split", "nowhere.json"], "no folds"),
    ],
)
def test_an_audit_that_cannot_be_made_is_one_line(work, options, problem):
    done = call("audit", "genes.store", "--collection", "genes", *options)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1 and problem in done.stderr


def test_text_labels_are_classified_without_being_told(work):
    assert grid(label="side").exit_code == 0
    assert json.loads((work / "run" / "run.json").read_text())["classes"] == ["high", "low"]


def test_a_recipe_name_serves_as_a_backbone(work, store):
    assert grid(backbone=store.recipe("one-hot-protein").name).exit_code == 0
    assert (work / "run" / "probes" / "one-hot-protein").is_dir()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--kind", "ranking"),
        ("--head", "transformer"),
        ("--search", "random"),
        ("--transform", "sqrt"),
        ("--batch-size", "16;32"),
        ("--learning-rate", "fast"),
        ("--epochs", "0"),
        ("--seed", "-1"),
    ],
)
def test_wrong_options_are_usage_errors(work, option, value):
    assert grid(option, value).exit_code == 2
    assert not (work / "run").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"label": "halflife"}, "no label column 'halflife'"),
        ({"backbone": "esm2-8m"}, "esm2-8m"),
    ],
)
def test_our_errors_are_one_line_and_exit_1(work, options, problem):
    done = grid(**options)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert problem in done.stderr
    assert not (work / "run").exists()


def test_an_interrupted_run_says_how_to_go_on(work, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("probe.runs.search", interrupt)
    done = grid()
    assert done.exit_code == 130
    assert "Run the same command to go on" in done.stderr


def test_a_bug_keeps_its_traceback(work, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("probe.runs.search", broken)
    assert isinstance(grid().exception, ZeroDivisionError)


def test_predictions_leave_gaps_where_nothing_is_stored(work):
    assert grid().exit_code == 0
    done = call("predict", "run", "genes.store", "--collection", "genes")
    assert done.exit_code == 3
    assert "1 records have no embedding under one-hot-protein-" in done.stderr
    assert NO_PROTEIN in done.stderr
    rows = rows_of(done.stdout)
    assert len(rows) == GENES - 1
    assert NO_PROTEIN not in {row["id"] for row in rows}


def test_where_nothing_is_stored_there_is_no_prediction(work):
    assert grid().exit_code == 0
    table = make_table([Record("new", "AUGUGGUGGUGGUAA", "mrna")], pa.table({}))
    open_store("genes.store").write_collection("new", table)
    done = call("predict", "run", "genes.store", "--collection", "new")
    assert (done.exit_code, done.stdout) == (3, "id,predicted\n")
    assert "1 records have no embedding" in done.stderr


def test_predictions_of_stored_rows_are_those_of_the_run(work):
    assert grid().exit_code == 0
    call("predict", "run/probes/one-hot-protein", "genes.store", "--collection", "genes",
         "-o", "out.csv")  # fmt: skip
    everything = {row["id"]: row for row in rows_of((work / "out.csv").read_text())}
    judged = rows_of((work / "run/predictions/one-hot-protein.csv").read_text())
    assert judged
    for row in judged:
        mine = float(everything[row["id"]]["predicted"])
        assert mine == pytest.approx(float(row["predicted"]), rel=1e-4)


def test_classes_come_with_their_probabilities(work):
    assert grid(label="side", backbone="one-hot-mrna").exit_code == 0
    done = call("predict", "run", "genes.store", "--collection", "genes")
    assert done.exit_code == 0
    for row in rows_of(done.stdout):
        shares = {name: float(row[f"probability_{name}"]) for name in ("high", "low")}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["predicted"] == max(shares, key=shares.get)


def test_a_run_of_several_probes_asks_which(work):
    assert grid(backbone="one-hot-mrna,one-hot-protein").exit_code == 0
    done = call("predict", "run", "genes.store", "--collection", "genes")
    assert done.exit_code == 1
    assert "run/probes/one-hot-mrna, run/probes/one-hot-protein" in done.stderr


def test_a_folder_without_a_probe_is_refused(work):
    done = call("predict", "genes.store", "genes.store", "--collection", "genes")
    assert done.exit_code == 1
    assert "holds no probe" in done.stderr
