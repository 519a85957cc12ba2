"""Labels as real tables write them, through the commands: audit, grid, sweep and fine-tuning."""

import json

import pytest
from typer.testing import CliRunner

from embedstore import create_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.records import read_records
from embedstore.synthetic import make_genes
from probe import cli

QUICK = ["--backbone", "one-hot-mrna", "--epochs", "1", "--batch-size", "16",
         "--learning-rate", "9e-4", "--threads", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """60 genes; columns of text that hold decimal commas, marks, a word, or five numbers."""
    made = make_genes(60, seed=4)
    folder = tmp_path_factory.mktemp("text")
    with (folder / "c.jsonl").open("w") as file:
        for row, (id, sequence) in enumerate(zip(made.ids, made.sequences, strict=True)):
            values = {
                "comma": f"{row / 4:.2f}".replace(".", ","),
                "marks": "NA" if row % 20 == 0 else "" if row == 1 else f"{row / 4}",
                "word": "ND" if row == 7 else str(row % 6),
                "five": [row % 2, 0, 1, 0, 1],
                "part": "train" if row < 40 else "dev" if row < 50 else "test",
                "last": "rare" if row >= 50 else "ab"[row % 2],
            }
            file.write(json.dumps({"id": id, "sequence": sequence, **values}) + "\n")
    opened = create_store(folder / "c.store")
    records = read_records(folder / "c.jsonl", molecule="mrna")
    config = BuildConfig(collection="c", quiet=True)
    build(opened, records, prepare(BackboneConfig(backbone="one-hot-mrna")), config)
    return opened


def call(command, store, *options):
    words = [command, store.folder, "--collection", "c", *options]
    return CliRunner().invoke(cli.app, [str(each) for each in words])


def test_a_decimal_comma_is_an_option_of_audit_and_grid(store, tmp_path):
    refused = call("audit", store, "--label", "comma")
    assert refused.exit_code == 1 and "--decimal ," in refused.output
    shown = call("audit", store, "--label", "comma", "--decimal", ",")
    assert shown.exit_code == 0 and "comma (regression)" in shown.stdout
    done = call("grid", store, "--label", "comma", "--decimal", ",", *QUICK, "-o", tmp_path / "r")
    assert done.exit_code == 0, done.output
    run = json.loads((tmp_path / "r/run.json").read_text())
    assert run["task"]["decimal"] == "," and "--decimal ," in run["command"]


@pytest.mark.parametrize("command", ["audit", "grid"])
@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("word", "word: 59 of 60 cells are numbers, "),
        ("five", "--kind per-position"),
    ],
)
def test_what_could_be_two_things_is_refused_in_a_line(store, tmp_path, command, label, said):
    more = [*QUICK, "-o", tmp_path / "none"] if command == "grid" else []
    done = call(command, store, "--label", label, *more)
    assert done.exit_code == 1 and said in done.output and not (tmp_path / "none").exists()


def test_marks_are_counted_by_name_beside_blanks(store):
    shown = call("audit", store, "--label", "marks")
    assert shown.exit_code == 0, shown.output
    assert "56 of 60 records used; left out: 1 no label, 3 'NA'" in shown.stdout
    assert "marks (regression)" in shown.stdout


def test_a_class_of_the_test_rows_alone_is_told_everywhere(store, tmp_path):
    options = ["--label", "last", "--split", "column:part"]
    shown = call("audit", store, *options)
    assert "'rare' (10 rows) is absent from train" in shown.stdout
    assert "nothing to warn of" not in shown.stdout and " 1.000 " not in shown.stdout
    done = call("grid", store, *options, *QUICK, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    warning = "the best accuracy there is 0.000"
    assert warning in done.output
    assert any(
        warning in each for each in json.loads((tmp_path / "run/run.json").read_text())["warnings"]
    )
    page = tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path / "run"), "-o", str(page)])
    assert done.exit_code == 0 and warning in page.read_text()


def test_a_sweep_has_the_same_options(store, tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        json.dumps(
            {
                "store": str(store.folder),
                "backbones": ["one-hot-mrna"],
                "tasks": [
                    {"collection": "c", "label": "comma", "decimal": ","},
                    {"collection": "c", "label": "word", "kind": "classification"},
                    {"collection": "c", "label": "word", "name": "bare"},
                ],
                "splits": ["random-plain"],
                "grid": {"batch_sizes": [16], "learning_rates": [9e-4], "epochs": 1},
            }
        )
    )
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--dry-run", "--json"]
    done = CliRunner().invoke(cli.app, words)
    states = [(each["state"], each["problem"] or "") for each in json.loads(done.stdout)]
    assert [state for state, _ in states] == ["to do", "to do", "cannot run"]
    assert "59 of 60 cells are numbers" in states[2][1]
