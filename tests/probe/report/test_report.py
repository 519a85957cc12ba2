"""Reports: one self-contained page, the same bytes each time, and no claim that was not tested."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from embedstore.documents import seal
from embedstore.errors import BadInput
from probe import cli
from probe.report import write_report

BOTH = ["one-hot-mrna", "one-hot-protein"]
VOID = {"meta", "br", "link", "img", "input", "hr"}
SHAPES = {"path", "rect", "text", "svg", "g"}


class Page(HTMLParser):
    """What a browser sees: tags with attributes, and text; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def svgs_of(text):
    return [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def rename():
    """Give a backbone of a copied run another name, everywhere."""

    def do(folder, results, old, new):
        results["backbones"][new] = results["backbones"].pop(old)
        found = results["comparisons"]
        found["intervals"][new] = found["intervals"].pop(old)
        for pair in found["pairs"]:
            for side in ("first", "second"):
                pair[side] = new if pair[side] == old else pair[side]
        old_path = folder / "predictions" / f"{old}.csv"
        old_path.rename(old_path.with_name(f"{new}.csv"))

    return do


@pytest.fixture
def esm(made, copy, rename, tmp_path):
    """The run `whole` as if one-hot-mrna had been ESM-2 8M."""
    folder = copy("whole", "esm")
    results = json.loads((folder / "results.json").read_text())
    rename(folder, results, "one-hot-mrna", "esm2-8m")
    results["backbones"]["esm2-8m"] |= {"view": "protein", "width": 320}
    (folder / "results.json").write_text(json.dumps(seal(results)))
    return folder


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(made, tmp_path):
    write_report([made / "whole", made / "classes"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert {tag for tag, _ in page.tags} >= {"html", "table", "svg", "details"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert names.isdisjoint({"src", "href", "srcset", "xlink:href", "onload", "onclick"})
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert "url(" not in text and "@import" not in text
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_runs_give_the_same_bytes(made, tmp_path):
    runs = [made / "whole", made / "other-split"]
    for name in ("a", "b"):
        write_report(runs, tmp_path / f"{name}.html")
    for ending in ("html", "md", "json"):
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("a", "b"))
        assert first == second


def test_scores_intervals_and_digests_are_those_of_the_run(made, tmp_path):
    document = write_report([made / "whole"], tmp_path / "report.html")
    assert json.loads((tmp_path / "report.json").read_text()) == document
    results = json.loads((made / "whole" / "results.json").read_text())
    run = json.loads((made / "whole" / "run.json").read_text())
    (column,) = document["columns"]
    html, markdown = ((tmp_path / f"report.{end}").read_text() for end in ("html", "md"))
    for row in column["rows"]:
        one = results["backbones"][row["name"]]
        assert row["score"] == one["test_score"]
        assert [row["low"], row["high"]] == results["comparisons"]["intervals"][row["name"]]
        assert row["features"]["bytes"] == row["features"]["tokens"] * one["width"] * 2
        shown = f"{row['low']:.3f} to {row['high']:.3f}"
        assert shown in html and shown in markdown
    for text in (html, markdown):
        assert run["split"]["digest"] in text and run["rows"]["digest"] in text
        assert "1 no protein view for one-hot-protein" in text
        assert "probe grid genes.store -o whole" in text
        assert f"torch {run['versions']['torch']}" in text


def test_every_text_of_a_user_stays_text(copy, tmp_path):
    evil = "<script>alert(1)</script>"

    def edit(run, results):
        run["unit"] = results["unit"] = evil
        run["task"]["collection"] = '"><img src=x onerror=alert(1)>'
        run["classes"] = [evil, "low"]
        run["command"] = f"probe grid {evil}"
        run["rows"]["dropped"] = {evil: 3}
        results["audit"]["warnings"] = [f"{evil} & so on"]
        results["constant"]["prediction"] = evil

    folder = copy("classes", "evil", edit)
    for path in (folder / "predictions").iterdir():
        path.write_text(path.read_text().replace("high", evil))
    write_report([folder], tmp_path / "report.html", title=evil)
    page = Page((tmp_path / "report.html").read_text())
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "img"})
    assert sum(evil in text for text in page.texts) >= 5
    markdown = (tmp_path / "report.md").read_text()
    assert all(line.startswith("    ") for line in markdown.splitlines() if "<script" in line)


def test_audits_stand_at_the_top_with_each_sentence_once(made, copy, tmp_path):
    def edit(run, results):
        results["audit"]["refusals"] = ["this cannot work."]
        results["audit"]["warnings"] = ["look at this."]

    folders = [copy("whole", name, edit) for name in ("one", "two")]
    document = write_report(folders, tmp_path / "report.html")
    assert [(each["level"], each["runs"]) for each in document["audit"]] == [
        ("refused", ["one", "two"]),
        ("warning", ["one", "two"]),
    ]
    for ending in ("html", "md"):
        text = (tmp_path / f"report.{ending}").read_text()
        assert text.count("this cannot work.") == 1
        assert text.index("this cannot work.") < text.index("look at this.") < text.index("Table 1")


def test_the_first_table_groups_by_view_and_compares_with_its_one_hot(esm, tmp_path):
    document = write_report([esm], tmp_path / "report.html")
    assert [(row["view"], row["name"]) for row in document["table1"]] == [
        ("protein", "one-hot-protein"),
        ("protein", "esm2-8m"),
    ]
    one_hot, model = document["columns"][0]["rows"]
    assert one_hot["compared"] is None and model["against"] == "one-hot-protein"
    assert (one_hot["parameters"], model["parameters"]) == (0, 7_408_960)
    results = json.loads((esm / "results.json").read_text())["comparisons"]["pairs"][0]
    assert {results["first"], results["second"]} == {"esm2-8m", "one-hot-protein"}
    compared = model["compared"]
    assert abs(compared["difference"]) == abs(results["difference"])
    assert compared["difference"] == pytest.approx(model["score"] - one_hot["score"])
    # one comparison here, three in the run: its p is not adjusted, and it detects more
    assert compared["family"] == 1 and compared["p_holm"] == results["p"]
    assert compared["smallest_detectable"] < results["smallest_detectable"]


def test_holm_adjusts_over_the_pairs_of_the_column_alone(made, copy, rename, tmp_path):
    folder = copy("whole", "two-models")
    results = json.loads((folder / "results.json").read_text())
    results["backbones"]["esm2-8m"] = dict(results["backbones"]["one-hot-mrna"], view="protein")
    rename(folder, results, "one-hot-mrna", "esm2-35m")
    results["backbones"]["esm2-35m"] = dict(results["backbones"]["esm2-35m"], view="protein")
    low, high = results["comparisons"]["intervals"]["esm2-35m"]
    results["comparisons"]["intervals"]["esm2-8m"] = [low, high]
    pair = dict(results["comparisons"]["pairs"][0], first="esm2-35m", second="one-hot-protein")
    results["comparisons"]["pairs"] = [
        dict(pair, p=0.03), dict(pair, first="esm2-8m", p=0.02), dict(pair, second="x", p=0.001)
    ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps(seal(results)))
    rows = write_report([folder], tmp_path / "report.html")["columns"][0]["rows"]
    adjusted = {row["name"]: row["compared"]["p_holm"] for row in rows if row["compared"]}
    assert adjusted == {"esm2-8m": pytest.approx(0.04), "esm2-35m": pytest.approx(0.04)}


def test_the_smallest_is_never_one_that_scores_detectably_lower(esm, tmp_path):
    path = esm / "results.json"
    results = json.loads(path.read_text())
    better, worse = results["backbones"]["esm2-8m"], results["backbones"]["one-hot-protein"]
    better["test_score"], worse["test_score"] = 0.7, 0.5
    pair = results["comparisons"]["pairs"][0]
    pair |= {"first": "esm2-8m", "second": "one-hot-protein", "low": 0.1, "high": 0.3}
    for p, name, parameters in ((0.001, "esm2-8m", 7_408_960), (0.4, "one-hot-protein", 0)):
        pair |= {"difference": 0.2, "p": p}
        path.write_text(json.dumps(seal(results)))
        document = write_report([esm], tmp_path / "report.html")
        found = document["columns"][0]["smallest"]
        assert (found["best"], found["name"]) == ("esm2-8m", name)
        assert found["parameters"] == parameters
    assert found["compared"]["difference"] == -0.2  # as the smallest against the best
    text = (tmp_path / "report.md").read_text()
    assert "not detectably worse is one-hot-protein (no learnt parameters" in text
    assert "no proof of equality" in text


def test_weights_of_another_width_have_no_known_size(esm, tmp_path):
    path = esm / "results.json"
    results = json.loads(path.read_text())
    results["backbones"]["esm2-8m"]["width"] = 16
    path.write_text(json.dumps(seal(results)))
    document = write_report([esm], tmp_path / "report.html")
    assert document["columns"][0]["rows"][1]["parameters"] is None
    assert document["columns"][0]["smallest"]["unsized"] == ["esm2-8m"]


def test_runs_of_one_split_are_paired_and_others_only_stand_side_by_side(made, copy, tmp_path):
    lstm = copy("whole", "lstm", lambda run, results: run.update(head="lstm"))
    runs = [made / "whole", lstm, made / "other-split"]
    document = write_report(runs, tmp_path / "report.html")
    assert [column["runs"] for column in document["columns"]] == [
        ["whole"], ["lstm"], ["other-split"]
    ]  # fmt: skip
    (table,) = document["table2"]
    assert table["trainings"] == ["TextCNN probe", "LSTM probe"]
    for row in table["rows"]:  # the same predictions: no difference at all
        first, second = row["cells"]
        assert first["compared"] is None and second["against"] == "TextCNN probe"
        assert second["compared"]["difference"] == 0 and second["compared"]["p_holm"] == 1
    (note,) = document["notes"]
    assert "different rows" in note and "other-split" in note and "whole, lstm" in note


def test_a_difference_across_runs_is_that_within_one(made, copy, tmp_path):
    """The pair of `whole`, split over two runs, gives the same difference and interval."""

    def keep(name):
        def edit(run, results):
            results["backbones"] = {name: results["backbones"][name]}

        return edit

    halves = [copy("whole", name, keep(name)) for name in BOTH]
    esm = halves[0]
    results = json.loads((esm / "results.json").read_text())
    results["backbones"]["one-hot-mrna"]["view"] = "protein"
    shutil.move(esm / "predictions/one-hot-mrna.csv", esm / "predictions/esm2-8m.csv")
    results["backbones"]["esm2-8m"] = results["backbones"].pop("one-hot-mrna")
    (esm / "results.json").write_text(json.dumps(seal(results)))
    document = write_report(halves, tmp_path / "report.html")
    rows = {row["name"]: row for row in document["columns"][0]["rows"]}
    found = rows["esm2-8m"]["compared"]
    pair = json.loads((made / "whole/results.json").read_text())["comparisons"]["pairs"][0]
    assert (pair["first"], pair["second"]) == tuple(BOTH)
    for name in ("difference", "low", "high"):
        assert found[name] == pytest.approx(pair[name])
    assert found["p_holm"] == pytest.approx(pair["p"])


def test_runs_whose_labels_differ_are_not_paired(made, copy, tmp_path):
    other = copy("whole", "relabelled", lambda run, results: run.update(head="lstm"))
    path = other / "predictions" / "one-hot-mrna.csv"
    rows = rows_of(path)
    rows[0]["true"] = "9.5"
    write_rows(path, rows)
    document = write_report([made / "whole", other], tmp_path / "report.html")
    assert "differ in test rows or labels" in document["notes"][0]
    for row in document["table2"][0]["rows"]:
        assert row["cells"][1]["compared"]["verdict"] == "undefined"


def test_fine_tuned_runs_stand_beside_probes(made, copy, tmp_path):
    def tune(method, parameters):
        def edit(run, results):
            one = results["backbones"].pop("one-hot-mrna")
            one |= {"method": method, "parameters_trained": parameters, "peak_bytes": 3 * 10**9}
            results["backbones"] = {f"one-hot-mrna-{method}": one}

        return edit

    runs = [made / "whole", copy("whole", "full", tune("full", 8_000_000)),
            copy("whole", "lora", tune("lora", 250_000))]  # fmt: skip
    for folder in runs[1:]:
        old = folder / "predictions" / "one-hot-mrna.csv"
        old.rename(old.with_name(f"one-hot-mrna-{folder.name}.csv"))
    document = write_report(runs, tmp_path / "report.html")
    assert len(document["columns"]) == 1  # Table 1 is of frozen embeddings
    (table,) = document["table2"]
    assert table["trainings"] == ["TextCNN probe", "LoRA", "full fine-tuning"]
    assert [cell["parameters_trained"] for cell in table["rows"][0]["cells"][1:]] == [
        250_000, 8_000_000
    ]  # fmt: skip
    assert "3 GB" in (tmp_path / "report.html").read_text()

    alone = write_report([tmp_path / "lora"], tmp_path / "alone.html")
    assert alone["columns"] == [] and alone["table2"][0]["trainings"] == ["LoRA"]
    text = (tmp_path / "alone.html").read_text()
    assert "Table 1" not in text and text.count("<figcaption>one-hot-mrna-lora: ") == 3


def test_several_seeds_are_read_as_one_mean_with_their_range(made, copy, tmp_path):
    def edit(run, results):
        one = results["backbones"]["one-hot-mrna"]
        one["seeds"] = [
            {"seed": seed, "best_epoch": 1, "validation_score": 0.1, "test_score": score}
            for seed, score in enumerate((0.11, 0.33))
        ]
        one["configurations"] = [
            {**each, "seed": seed} for each in one["configurations"] for seed in (0, 1)
        ]
        run["head"] = "lstm"

    folder = copy("whole", "seeds", edit)
    for path in (folder / "predictions").iterdir():
        rows = rows_of(path)
        write_rows(path, [
            {"id": row["id"], "true": row["true"], "predicted_0": row["predicted"],
             "predicted_1": -float(row["predicted"])} for row in rows
        ])  # fmt: skip
    document = write_report([made / "whole", folder], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "2 seeds, 0.110 to 0.330" in text
    # against itself with the sign of half of the seeds turned: the mean of s and -s
    score = document["columns"][0]["rows"][0]["score"]
    compared = document["table2"][0]["rows"][0]["cells"][1]["compared"]
    assert compared["difference"] == pytest.approx(0 - score)


def test_positions_of_one_row_are_drawn_together(made, copy, tmp_path):
    folders = [copy("whole", "p1"), copy("whole", "p2", lambda run, _: run.update(head="lstm"))]
    for folder in folders:
        for path in (folder / "predictions").iterdir():
            write_rows(path, [
                {"id": row["id"], "position": at, "true": float(row["true"]) + at,
                 "predicted": float(row["predicted"]) + at}
                for row in rows_of(path) for at in range(3)
            ])  # fmt: skip
    document = write_report(folders, tmp_path / "report.html")
    assert document["notes"] == []
    assert document["table2"][0]["rows"][0]["cells"][1]["compared"]["difference"] == 0


def test_files_of_a_form_that_is_not_known_leave_gaps_not_errors(made, copy, tmp_path):
    def edit(run, results):
        one = results["backbones"]["one-hot-mrna"]
        one["configurations"] = [{"penalty": 0.1, "validation_score": None}]
        one["chosen"] = {"penalty": 0.1}
        one["best_epoch"] = one["test_score"] = None
        for name in ("baselines", "comparisons", "audit"):
            results.pop(name)
        run.pop("head"), run.pop("search"), run.pop("command")

    folder = copy("whole", "odd", edit)
    (folder / "predictions" / "one-hot-mrna.csv").write_text("id,true_0,guess_0\na,1,2\n")
    (folder / "test_groups.csv").unlink()
    document = write_report([folder, made / "whole"], tmp_path / "report.html")
    assert "odd does not say which of its test rows share an input" in document["notes"][0]
    text = (tmp_path / "report.html").read_text()
    assert "The command was not recorded." in text and "penalty 0.1" in text
    Page(text)


def test_plots_show_every_test_row_and_the_chosen_cell(made, tmp_path):
    write_report([made / "whole"], tmp_path / "report.html")
    pictures = svgs_of((tmp_path / "report.html").read_text())
    described = [each.get("aria-label") for each in pictures]
    assert described.count("predicted against true label") == 2
    assert described.count("validation spearman by epoch") == 2
    assert described.count("batch size by learning rate") == 2
    for picture in pictures:
        _, _, width, height = map(float, picture.get("viewBox").split())
        if picture.get("aria-label") == "batch size by learning rate":
            kinds = [each.get("class") for each in picture.iter("rect")]
            assert kinds.count("cell chosen") == 1 and len(kinds) == 2
        if picture.get("aria-label").startswith("predicted"):
            (dots,) = (each for each in picture.iter("path") if each.get("class") == "dots s0")
            places = re.findall(r"M([\d.]+) ([\d.]+)h0", dots.get("d"))
            assert len(places) == len(rows_of(made / "whole/predictions/one-hot-mrna.csv"))
            assert all(0 < float(x) < width and 0 < float(y) < height for x, y in places)
        assert {each.tag for each in picture.iter()} <= SHAPES


def test_classes_are_shown_as_shares_of_the_true_class(made, tmp_path):
    write_report([made / "classes"], tmp_path / "report.html")
    picture = next(
        each for each in svgs_of((tmp_path / "report.html").read_text())
        if each.get("aria-label") == "predicted by true class"
    )  # fmt: skip
    texts = [each.text for each in picture.iter("text")]
    shares = np.array([float(text) for text in texts if re.fullmatch(r"[01]\.\d\d", text or "")])
    assert shares.reshape(2, 2).sum(axis=0) == pytest.approx([1, 1], abs=0.011)
    assert {"high", "low"} <= set(texts)


def test_score_against_size_draws_a_line_a_family(esm, copy, tmp_path):
    path = esm / "results.json"
    results = json.loads(path.read_text())
    results["backbones"]["esm2-35m"] = dict(results["backbones"]["esm2-8m"], width=480)
    results["comparisons"]["intervals"]["esm2-35m"] = results["comparisons"]["intervals"]["esm2-8m"]
    path.write_text(json.dumps(seal(results)))
    write_report([esm], tmp_path / "report.html")
    picture = next(
        each for each in svgs_of((tmp_path / "report.html").read_text())
        if each.get("aria-label") == "test spearman against parameters"
    )  # fmt: skip
    kinds = [each.get("class").split()[0] for each in picture.iter("path")]
    assert (kinds.count("band"), kinds.count("line")) == (1, 1)
    assert kinds.count("reference") == 2  # one-hot-protein and the composition baseline
    texts = [each.text for each in picture.iter("text")]
    assert {"8m", "esm2-35m", "one-hot-protein"} <= set(texts)


def test_what_is_no_run_is_refused_and_nothing_is_written(made, tmp_path):
    (tmp_path / "empty").mkdir()
    for paths, problem in (
        ([tmp_path / "empty"], "no run.json"),
        ([made / "whole", made / "whole"], "named twice"),
    ):
        with pytest.raises(BadInput, match=problem):
            write_report(paths, tmp_path / "report.html")
    with pytest.raises(BadInput, match=r"\.html"):
        write_report([made / "whole"], tmp_path / "report.pdf")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_command_writes_three_files_and_prints_json_on_demand(made, tmp_path):
    output = tmp_path / "out" / "report.html"
    words = ["report", str(made / "whole"), "-o", str(output), "--title", "Mine", "--json"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "report.html", "report.json", "report.md"
    ]  # fmt: skip
    assert json.loads(done.stdout) == json.loads((output.parent / "report.json").read_text())
    assert "<h1>Mine</h1>" in output.read_text()
