"""What many failures look like together is said once, with the option that brings them in."""

import random

import pytest
from typer.testing import CliRunner

from embedstore.build.hints import hints
from embedstore.cli import app
from embedstore.dogma import Coding, Unreadable
from embedstore.records import Record

STOPS = ("UAA", "UAG", "UGA")


def genes(count, start="AUG", inside="", before=0, after=0, seed=0):
    """Coding sequences of 20 codons and more, with random UTRs of these lengths."""
    rng = random.Random(seed)
    sense = [a + b + c for a in "ACGU" for b in "ACGU" for c in "ACGU" if a + b + c not in STOPS]
    found = []
    for number in range(count):
        cds = start + "".join(rng.choices(sense, k=20)) + inside + "GCUUAA"
        utrs = ["".join(rng.choices("ACGU", k=size)) for size in (before, after)]
        found.append(Record(f"{start}{before}-{number}", utrs[0] + cds + utrs[1], "mrna"))
    return found


def said(records):
    failed = []
    for row in records:
        try:
            row.view("protein")
        except Unreadable:
            failed.append(row.id)
    return " ".join(hints(records, failed))


def test_transcripts_with_utrs_are_recognised_and_both_options_named():
    text = said(genes(20, before=31, after=40))
    assert text.startswith("These look like transcripts with UTRs")
    assert "--cds-columns START,END" in text and "--orf longest" in text
    assert "--genetic-code" not in text


def test_a_few_among_many_are_no_such_set():
    assert "UTRs" in said(genes(20) + genes(5, before=31))  # 5 of 25 are 20 %
    assert said(genes(21) + genes(5, before=31)) == ""
    assert said(genes(5) + genes(4, before=31)) == ""


def test_random_sequences_without_frames_are_no_transcripts():
    rows = [Record(str(at), "CCCG" * 20 + "C" * at, "mrna") for at in range(20)]
    assert said(rows) == ""


def test_transcripts_whose_regions_are_known_get_no_such_hint():
    rows = [Record(row.id, row.sequence, "mrna", Coding(0, 30)) for row in genes(20, before=31)]
    assert said(rows) == ""


@pytest.mark.parametrize("start", ["GUG", "UUG", "CUG", "AUA"])
def test_alternative_starts_name_the_bacterial_code(start):
    text = said(genes(10, start) + genes(30))
    assert f"10 of 10 records left out are reading frames from {start} on" in text
    assert "--genetic-code 11" in text and "UTRs" not in text


def test_inner_uga_names_codes_and_selenocysteine():
    text = said(genes(3, inside="UGA"))
    assert "3 of 3 records left out have inner stops that are all UGA" in text
    for option in ("--genetic-code 4", "--selenocysteine-column", "--allow-inner-stop"):
        assert option in text
    assert said(genes(3, inside="UGAUAG")) == ""


def test_only_failures_of_frames_are_looked_at():
    assert hints(genes(20), []) == []
    proteins = [Record(str(at), "MKV", "protein") for at in range(9)]
    assert hints(proteins, [row.id for row in proteins]) == []


def call(*asked):
    return CliRunner().invoke(app, [str(each) for each in asked])


def test_a_build_a_dry_run_and_missing_say_it_and_a_build_that_needs_no_frame_does_not(tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{row.id},{row.sequence}" for row in genes(20, before=31)]
    path.write_text("\n".join(["id,sequence", *lines]))
    asked = ["build", path, "--store", tmp_path / "s", "--backbone"]
    for done in (
        call(*asked, "one-hot-protein", "--dry-run"),
        call(*asked, "one-hot-protein,codon-composition"),
        call("missing", tmp_path / "s", "--backbone", "one-hot-protein"),
    ):
        assert done.stderr.count("These look like transcripts with UTRs") == 1
        assert "transcripts" not in done.stdout
    assert "transcripts" not in call(*asked, "one-hot-mrna").stderr
    assert call(*asked, "one-hot-protein", "--orf", "longest").exit_code == 0
