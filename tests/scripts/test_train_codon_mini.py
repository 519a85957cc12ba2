"""The training script on small synthetic tables, and what the shipped weights claim to be."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import embedstore.backbones
from embedstore.backbones.codons import CODONS, FIRST_CODON, MASK
from embedstore.dogma import GENETIC_CODE

ROOT = Path(__file__).parents[2]
FOLDER = Path(embedstore.backbones.__file__).parent / "codon_mini"
SENSE = [codon for codon in CODONS if GENETIC_CODE[codon] != "*"]


def _script() -> ModuleType:
    name = "train_codon_mini"
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = _script()


def random_text(rng: np.random.Generator, codons: int) -> str:
    return "AUG" + "".join(rng.choice(SENSE, codons)) + "UAA"


def cds(text: str, species: str = "yeast") -> Any:
    codons = script.CodonTokenizer().encode(text) - FIRST_CODON
    return script.Cds(codons, species)


def write_tables(folder: Path, per_table: int = 40) -> None:
    rng = np.random.default_rng(7)
    for source in script.SOURCES:
        file = folder / source.file
        file.parent.mkdir(parents=True)
        good = [random_text(rng, 40).replace("U", "T") for _ in range(per_table)]
        bad = ["ATGTAAGCTTAA", "ATGGCTT", "ATGGCNTAA", "GCTGCTTAA", "ATGGCTGCT", good[0]]
        with gzip.open(file, "wt", newline="") as out:
            writer = csv.writer(out)
            writer.writerow([source.column, "specie"])
            writer.writerows([text, "human" if i % 2 else "fish"] for i, text in enumerate(good))
            writer.writerows([text, "human"] for text in bad)


# ---- data


def test_only_whole_coding_sequences_are_read_and_each_once(tmp_path: Path) -> None:
    write_tables(tmp_path)
    genes = script.read_cds(tmp_path)
    assert len(genes) == 3 * 40
    assert {gene.text[:3] for gene in genes} == {"AUG"}
    assert {len(gene.text) for gene in genes} == {126}
    # the yeast and E. coli tables have no column for the species here, the third one has
    assert {gene.species for gene in genes[80:]} == {"human", "fish"}


def test_bacterial_starts_are_taken_in_the_bacterial_table_alone(tmp_path: Path) -> None:
    write_tables(tmp_path, per_table=2)
    for source in script.SOURCES:
        with gzip.open(tmp_path / source.file, "wt", newline="") as out:
            csv.writer(out).writerows([[source.column, "specie"], ["GTGGCTTAA", "human"]])
    assert [gene.species for gene in script.read_cds(tmp_path)] == ["ecoli"]


def _peptides(text: str) -> set[str]:
    protein = "".join(GENETIC_CODE[text[i : i + 3]] for i in range(0, len(text) - 3, 3))
    found = {protein[i : i + 6] for i in range(len(protein) - 5)}
    return {peptide for peptide in found if len(set(peptide)) >= 4}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 12))
def test_groups_are_what_shared_peptides_connect(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    stretches = [rng.choice(SENSE, int(n)) for n in rng.integers(6, 12, 4)]
    texts = []
    for _ in range(count):  # random proteins with some common stretches of 6 to 11 residues
        pieces = [rng.choice(SENSE, 10)]
        for stretch in stretches:
            if rng.random() < 0.3:
                pieces += [stretch, rng.choice(SENSE, 5)]
        texts.append("AUG" + "".join(np.concatenate(pieces)) + "UAG")
    expected = list(range(count))
    for a, b in itertools.combinations(range(count), 2):
        if len(_peptides(texts[a]) & _peptides(texts[b])) >= 4:
            old, new = expected[b], expected[a]
            expected = [new if label == old else label for label in expected]
    group = script.group_by_homology([cds(text) for text in texts]).tolist()
    assert len(set(zip(group, expected, strict=True))) == len(set(group)) == len(set(expected))


def test_synonymous_copies_and_nine_common_residues_are_one_group_repeats_are_not() -> None:
    rng = np.random.default_rng(0)
    common = "GCUUGUGAUGAAUUUGGUCAUAUUAAA"  # A C D E F G H I K
    other = "GCCUGCGACGAGUUCGGCCACAUCAAG"  # the same residues in other codons
    poly = "GCU" * 30
    texts = [
        f"AUG{part}{''.join(rng.choice(SENSE, 20))}UAA" for part in (common, other, poly, poly)
    ]
    group = script.group_by_homology([cds(text) for text in texts])
    assert group[0] == group[1]
    assert len(set(group.tolist())) == 3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_group_straddles_the_split_and_order_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    genes = [cds(random_text(rng, 12)) for _ in range(60)]
    group = rng.integers(0, 40, 60)
    parts = script.split_groups(genes, group, seed, largest_held_out=0.05)
    assert sorted(itertools.chain(*parts.values())) == list(range(60))
    members = {part: set(group[indices].tolist()) for part, indices in parts.items()}
    assert not members["train"] & (members["test"] | members["validation"])
    assert not members["test"] & members["validation"]
    turned = script.split_groups(genes[::-1], group[::-1], seed, largest_held_out=0.05)
    assert {59 - i for i in turned["test"]} == set(parts["test"])


def test_one_gene_in_ten_is_held_out() -> None:
    rng = np.random.default_rng(1)
    genes = [cds(random_text(rng, 12)) for _ in range(3000)]
    parts = script.split_groups(genes, rng.integers(0, 1000, 3000), seed=1)
    assert 0.07 < len(parts["test"]) / 3000 < 0.13
    assert 0.03 < len(parts["validation"]) / 3000 < 0.07


# ---- masks and windows


def test_masks_are_those_of_bert() -> None:
    ids = np.tile(np.arange(FIRST_CODON, FIRST_CODON + 64), 2000)
    maskable = np.arange(len(ids)) % 10 != 0
    read, chosen = script.corrupt(ids, maskable, np.random.default_rng(3))
    assert maskable[chosen].all()
    assert len(chosen) / maskable.sum() == pytest.approx(0.15, abs=0.01)
    untouched = np.delete(np.arange(len(ids)), chosen)
    assert np.array_equal(read[untouched], ids[untouched])
    assert np.mean(read[chosen] == MASK) == pytest.approx(0.8, abs=0.01)
    # 10 % left as they are, and one in 64 of the random ones
    assert np.mean(read[chosen] == ids[chosen]) == pytest.approx(0.1 + 0.1 / 64, abs=0.01)


@given(seed=st.integers(0, 1000), codons=st.integers(1, 30))
def test_windows_are_pieces_of_genes_longest_first(seed: int, codons: int) -> None:
    rng = np.random.default_rng(seed)
    genes = [cds(random_text(rng, int(n))) for n in rng.integers(1, 40, 5)]
    shares = np.cumsum([len(gene.codons) for gene in genes], dtype=float)
    windows = script.draw_windows(genes, shares / shares[-1], codons, 200, rng)
    assert sum(len(window) + 2 for window in windows) >= 200
    assert [len(w) for w in windows] == sorted((len(w) for w in windows), reverse=True)
    texts = [gene.codons.tobytes() for gene in genes]
    for window in windows:
        assert 0 < len(window) <= codons
        assert any(window.tobytes() in text for text in texts)


# ---- baselines


def _positions(genes: list[Any]) -> Any:
    return script.masked_positions(genes, ["ecoli", "yeast"], seed=1)


def test_scored_codons_are_inner_ones_and_neighbours_are_the_genes_own() -> None:
    rng = np.random.default_rng(2)
    genes = [cds(random_text(rng, int(n))) for n in rng.integers(1, 80, 30)]
    positions = _positions(genes)
    assert set(positions.gene.tolist()) == set(range(30))
    for number, at, left, codon, right in zip(
        positions.gene, positions.at, positions.left, positions.codon, positions.right, strict=True
    ):
        own = genes[number].codons
        assert 0 < at < len(own) - 1
        assert own[at - 1 : at + 2].tolist() == [left, codon, right]
    seen = positions.visible.sum(1) + np.bincount(positions.gene)
    assert seen.tolist() == [len(gene.codons) - 2 for gene in genes]


def test_every_baseline_is_a_distribution_over_sense_codons() -> None:
    rng = np.random.default_rng(4)
    genes = [cds(random_text(rng, 50), name) for name in ["ecoli", "yeast"] * 20]
    counts = script.CodonCounts(genes[:30], ["ecoli", "yeast"])
    positions = _positions(genes[30:])
    counts.tune(positions)
    for name in script.BASELINES:
        chances = np.exp(counts.predict(name, positions))
        np.testing.assert_allclose(chances.sum(1), 1)
        assert (chances[:, ~script.SENSE] == 0).all()
        assert (chances[:, script.SENSE] > 0).all()


def test_baselines_give_the_counts_of_a_hand_calculation() -> None:
    # inner codons of AUG GCU GCU AAA UAA, twice: GCU 4, AAA 2; after GCU: GCU 2, AAA 2
    genes = [cds("AUGGCUGCUAAAUAA", "yeast")] * 2
    counts = script.CodonCounts(genes, ["ecoli", "yeast"])
    counts.weights["bigram"] = 2.0
    positions = _positions([cds("AUGGCUAAAUAA")])
    gcu, aaa = CODONS.index("GCU"), CODONS.index("AAA")
    unigram = np.exp(counts.predict("unigram", positions))[0]
    assert unigram[gcu] == pytest.approx((4 + 0.5) / (6 + 61 / 2))
    assert unigram[aaa] == pytest.approx((2 + 0.5) / (6 + 61 / 2))
    bigram = counts._beside(after=True)
    assert bigram[gcu, aaa] == pytest.approx((2 + 2 * unigram[aaa]) / (4 + 2))
    before = counts._beside(after=False)
    # before AAA only GCU was seen, twice
    assert before[aaa, gcu] == pytest.approx((2 + 2 * unigram[gcu]) / (2 + 2))


def test_loss_is_amino_acid_plus_synonymous_part() -> None:
    rng = np.random.default_rng(6)
    positions = _positions([cds(random_text(rng, 200))])
    logs = np.log(rng.dirichlet(np.ones(64), len(positions.codon)))
    scores = script.score(logs, positions, ["ecoli", "yeast"])
    parts = scores["amino_acid_loss"] + scores["synonymous_loss"]
    assert scores["loss"] == pytest.approx(parts, abs=2e-4)
    assert scores["loss"] == scores["species"]["yeast"]["loss"]


# ---- the whole script


SMALL = ("--steps", "4", "--batch-tokens", "256", "--threads", "1")


def test_script_writes_a_checkpoint_that_the_backbone_loader_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedstore.backbones.load import BackboneConfig, prepare

    write_tables(tmp_path / "data")
    monkeypatch.setenv("EMBEDSTORE_DATA", str(tmp_path / "data"))
    out = tmp_path / "mini"
    done = CliRunner().invoke(script.app, ["--out", str(out), *SMALL], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads((out / "evaluation.json").read_text())
    assert record["plan"]["steps"] == 4
    assert record["parameters"]["encoder"] == 1_000_448
    assert set(record["scores"]) == {"codon-mini", *script.BASELINES}
    assert len((out / "held_out.txt").read_text().split()) == record["data"]["test"]["genes"] > 0
    config = BackboneConfig(backbone="codon-mini", weights=out, device="cpu", offline=True)
    embedded = prepare(config).load().embed(["AUGGCUUAA"])
    assert embedded.tokens.shape == (3, 128)
    assert embedded.finite.all()


def test_a_stopped_and_resumed_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(8)
    genes = [cds(random_text(rng, 30)) for _ in range(20)]
    plan = script.Plan(
        steps=4, seed=2, batch_tokens=128, learning_rate=1e-3, width=16, layers=1, feed_forward=16
    )
    whole, _, _ = script.train(genes, plan, tmp_path / "a.pt", minutes=5, resume=False)
    minutes = itertools.count(0, 60)  # every look at the clock finds a minute gone
    monkeypatch.setattr(script.time, "monotonic", lambda: float(next(minutes)))
    _, step, _ = script.train(genes, plan, tmp_path / "b.pt", minutes=4, resume=False)
    assert 0 < step < 4
    monkeypatch.undo()
    resumed, step, _ = script.train(genes, plan, tmp_path / "b.pt", minutes=5, resume=True)
    assert step == 4
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_resuming_with_another_plan_is_refused(tmp_path: Path) -> None:
    genes = [cds(random_text(np.random.default_rng(9), 30))]
    sizes = {"width": 16, "layers": 1, "feed_forward": 16}
    plan = script.Plan(steps=1, seed=2, batch_tokens=64, learning_rate=1e-3, **sizes)
    script.train(genes, plan, tmp_path / "a.pt", minutes=5, resume=False)
    other = script.Plan(steps=1, seed=3, batch_tokens=64, learning_rate=1e-3, **sizes)
    with pytest.raises(script.BadInput, match="another plan"):
        script.train(genes, other, tmp_path / "a.pt", minutes=5, resume=True)


def test_without_data_the_script_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBEDSTORE_DATA", raising=False)
    done = CliRunner().invoke(script.app, ["--out", str(tmp_path / "mini"), *SMALL])
    assert done.exit_code == 1
    assert "EMBEDSTORE_DATA" in done.output


# ---- the shipped weights


def test_record_is_of_the_shipped_weights_and_beats_unigram_and_bigram() -> None:
    record = json.loads((FOLDER / "evaluation.json").read_text())
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert record["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert record["part"] == "test"
    scores = record["scores"]
    for name in ("unigram", "bigram", "both_neighbours", "gene_unigram", "species_unigram"):
        assert scores["codon-mini"]["loss"] < scores[name]["loss"]
        assert record["loss_saved_95"][name][0] > 0  # the whole interval
    for name in ("unigram", "bigram"):
        assert scores["codon-mini"]["accuracy"] > scores[name]["accuracy"]


def test_card_gives_the_numbers_of_the_record() -> None:
    card = (ROOT / "docs" / "codon-mini.md").read_text()
    record = json.loads((FOLDER / "evaluation.json").read_text())
    for name, scores in record["scores"].items():
        low, high = record["loss_saved_95"].get(name, (None, None))
        row = next(line for line in card.splitlines() if line.startswith(f"| `{name}`"))
        assert f" {scores['loss']:.3f} " in row
        assert f" {100 * scores['accuracy']:.1f} % " in row
        assert low is None or f"{low:.3f} to {high:.3f}" in row


@pytest.fixture(scope="module")
def real_genes(data_folder: Path) -> tuple[list[Any], list[Any]]:
    """(known, held out) coding sequences of the real tables."""
    keys = set((FOLDER / "held_out.txt").read_text().split())
    genes = script.read_cds(data_folder)
    apart: tuple[list[Any], list[Any]] = ([], [])
    for gene in genes:
        apart[script.key_of(gene.text) in keys].append(gene)
    assert len(apart[1]) == len(keys)
    return apart


def test_shipped_weights_beat_unigram_and_bigram_on_held_out_codons(
    real_genes: tuple[list[Any], list[Any]],
) -> None:
    known, held_out = real_genes
    species = sorted({gene.species for gene in known})
    rng = np.random.default_rng(0)
    sample = [held_out[i] for i in rng.choice(len(held_out), 60, replace=False)]
    positions = script.masked_positions(sample, species, seed=99)  # masks never scored before
    counts = script.CodonCounts(known, species)
    counts.weights = json.loads((FOLDER / "evaluation.json").read_text())["back_off_weights"]
    logs = script.model_predictions(script.load_model(FOLDER), sample, positions)
    own = script.score(logs, positions, species)["loss"]
    for name in ("unigram", "bigram"):
        baseline = script.score(counts.predict(name, positions), positions, species)["loss"]
        assert own < baseline - 0.03


def test_held_out_proteins_share_no_four_peptides_with_known_ones(
    real_genes: tuple[list[Any], list[Any]],
) -> None:
    known, held_out = real_genes
    rng = np.random.default_rng(0)
    sample = [held_out[i] for i in rng.choice(len(held_out), 100, replace=False)]
    letters = "ACDEFGHIKLMNPQRSTVWY*"
    code = np.array([letters.index(GENETIC_CODE[codon]) for codon in CODONS])
    residues = code[np.concatenate([gene.codons for gene in known])]  # a stop ends each protein
    owner = np.repeat(np.arange(len(known)), [len(gene.codons) for gene in known])
    key = sum(residues[i : len(residues) - 5 + i] * 21**i for i in range(6))
    wanted: dict[int, set[int]] = {}
    for number, gene in enumerate(sample):
        for peptide in _peptides(gene.text):
            spelled = sum(letters.index(letter) * 21**i for i, letter in enumerate(peptide))
            wanted.setdefault(spelled, set()).add(number)
    met: dict[tuple[int, int], set[int]] = {}
    for at in np.flatnonzero(np.isin(key, list(wanted))).tolist():
        for number in wanted[int(key[at])]:
            met.setdefault((number, int(owner[at])), set()).add(int(key[at]))
    assert met  # unrelated proteins have a 6-mer in common now and then
    assert max(len(peptides) for peptides in met.values()) < 4
