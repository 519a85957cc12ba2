"""Coding regions and genetic codes of a file: columns, options, what is refused, the way back."""

import csv
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.cli import app
from embedstore.coding_regions import CodingOptions
from embedstore.dogma import Coding, Unreadable, translate
from embedstore.errors import BadInput
from embedstore.records import Record, read_records

CDS_COLUMNS = "cds_start,cds_end"
STOPS = ("TAA", "TAG", "TGA")
SENSE = [
    "".join((a, b, c)) for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in STOPS
]


def transcripts(count, seed=0):
    """id, sequence, 0-based start, half-open end and the coding sequence."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        cds = "ATG" + "".join(rng.choices(SENSE, k=12)) + rng.choice(STOPS)
        before, after = ("".join(rng.choices("ACGT", k=rng.randint(1, 40))) for _ in range(2))
        rows.append((f"tx{number}", before + cds + after, len(before), len(before + cds), cds))
    return rows


def table(rows, shift=0, cut=0, **columns):
    """One dictionary a row; `shift` 1 makes the start 1-based, `cut` 3 leaves the stop out."""
    return [
        {"id": id, "sequence": text, "cds_start": start + shift, "cds_end": stop - cut}
        | {name: values[at] for name, values in columns.items()}
        for at, (id, text, start, stop, _) in enumerate(rows)
    ]


def as_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, rows[0].keys(), delimiter="\t" if ".tsv" in path.name else ","
        )
        writer.writeheader()
        writer.writerows(rows)


def as_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_parquet(path, rows):
    parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {"csv": as_csv, "tsv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}


def write(folder, rows, kind="csv"):
    path = folder / f"t.{kind}"
    WRITERS[kind](path, rows)
    return path


def read(folder, rows, kind="csv", molecule="mrna", **options):
    return read_records(
        write(folder, rows, kind), molecule=molecule, coding=CodingOptions(**options)
    )


def codings(records):
    return [
        None if row.coding is None else (row.coding.start, row.coding.stop) for row in records.rows
    ]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("shift", "said"), [(0, "0-based"), (1, "1-based")])
@pytest.mark.parametrize("asked", ["auto", "said"])
def test_positions_are_read_as_the_sequences_bear_out(tmp_path, kind, shift, said, asked):
    made = transcripts(8)
    positions = said if asked == "said" else "auto"
    found = read(
        tmp_path, table(made, shift), kind, cds_columns=CDS_COLUMNS, cds_positions=positions
    )
    assert codings(found) == [(start, stop) for _, _, start, stop, _ in made]
    for row, (_, text, _, _, cds) in zip(found.rows, made, strict=True):
        mrna = cds.replace("T", "U")
        assert row.view("cds").text == mrna
        assert row.view("protein").text == translate(mrna)[:-1]
        assert row.view("mrna").text == text.replace("T", "U")
        assert row.view("dna").text == text
    assert any(f"are {said}" in note and "8 of 8" in note for note in found.notes)


@pytest.mark.parametrize(
    ("shift", "wrong", "right"), [(0, "1-based", "0-based"), (1, "0-based", "1-based")]
)
def test_the_wrong_convention_is_refused_and_the_other_named(tmp_path, shift, wrong, right):
    with pytest.raises(BadInput, match=f"in 0 rows; .* in 8. Say --cds-positions {right}"):
        read(tmp_path, table(transcripts(8), shift), cds_columns=CDS_COLUMNS, cds_positions=wrong)


def test_regions_without_their_stop_codon_are_told_from_others(tmp_path):
    with pytest.raises(BadInput, match=r"right before a stop codon, as those of GTF.*Add 3"):
        read(tmp_path, table(transcripts(8), 1, cut=3), cds_columns=CDS_COLUMNS)


def test_positions_that_fit_nothing_are_refused_with_what_stands_there(tmp_path):
    rows = table(transcripts(8), 7)
    with pytest.raises(BadInput, match=r"in 0 rows .*id 'tx0': .*--orf longest"):
        read(tmp_path, rows, cds_columns=CDS_COLUMNS)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (("", ""), "no-coding-region"),
        (("  ", 3), "no-coding-region"),
        (("NA", "NA"), "no-coding-region"),
        (("<NA>", 12), "no-coding-region"),
        (("a", 12), "bad-positions"),
        (("<3", 12), "bad-positions"),
        ((2.5, 12), "bad-positions"),
        ((1, 100000), "bad-positions"),
        ((-5, 12), "bad-positions"),
        ((30, 12), "bad-positions"),
        ((12, 12), "bad-positions"),
        ((10**30, 10**31), "bad-positions"),
        ((0, 13), "length-not-codons"),
    ],
)
def test_a_row_with_bad_positions_keeps_its_whole_views_alone(tmp_path, kind, cells, reason):
    rows = table(transcripts(8))
    for row in rows:  # a column of JSONL has one type
        row |= {"cds_start": str(row["cds_start"]), "cds_end": str(row["cds_end"])}
    rows[3] |= {"cds_start": str(cells[0]), "cds_end": str(cells[1])}
    found = read(tmp_path, rows, kind, cds_columns=CDS_COLUMNS)
    odd = found.rows[3]
    assert odd.view("mrna").text == odd.sequence and odd.view("dna").start == 0
    for view in ("protein", "cds"):
        with pytest.raises(Unreadable) as caught:
            odd.view(view)
        assert caught.value.reason == reason
    assert sum(row.codons() is not None for row in found.rows) == 7


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cds_columns": "cds_start"}, "does not name two columns"),
        ({"cds_columns": "a,a"}, "does not name two columns"),
        ({"cds_columns": "a,b,c"}, "does not name two columns"),
        ({"cds_columns": "x,cds_end"}, "has no column 'x' for --cds-columns"),
        ({"cds_columns": CDS_COLUMNS, "orf": "longest"}, "Give one"),
        ({"orf": "shortest"}, "Use --orf longest"),
        ({"cds_columns": CDS_COLUMNS, "cds_positions": "2-based"}, "END is the last letter"),
        ({"cds_positions": "0-based"}, "no columns hold any"),
        ({"genetic_code": 7}, "1 Standard, 2 Vertebrate Mitochondrial"),
        ({"selenocysteine_column": "cds_start"}, "cds_start holds"),
        ({"selenocysteine_column": "sec"}, "has no column 'sec'"),
        ({"orf": "longest", "genetic_code": 27}, "cannot be told"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, options, problem):
    with pytest.raises(BadInput, match=problem):
        read(tmp_path, table(transcripts(3)), **options)


def test_fasta_and_proteins_have_no_columns_and_no_regions(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(">a\nATGTAA\n")
    with pytest.raises(BadInput, match="no column 'cds_start'"):
        read_records(path, coding=CodingOptions(cds_columns=CDS_COLUMNS))
    path.write_text(">a\nMKVLY\n")
    with pytest.raises(BadInput, match="proteins, which have no coding region"):
        read_records(path, coding=CodingOptions(genetic_code=11))


def test_repeated_rows_with_other_regions_are_a_conflict(tmp_path):
    rows = table(transcripts(4))
    rows.append(rows[0] | {"cds_start": rows[0]["cds_start"] + 3})
    with pytest.raises(BadInput, match="different coding regions or genetic codes"):
        read(tmp_path, rows, cds_columns=CDS_COLUMNS)


@pytest.mark.parametrize("missing", ["NA", "nan", "<NA>", ""])
@pytest.mark.parametrize("kind", WRITERS)
def test_columns_as_r_and_pandas_write_them_beside_missing_values(tmp_path, kind, missing):
    rows = table(transcripts(6))
    for row in rows:
        row |= {"cds_start": f"{row['cds_start']}.0", "cds_end": f"{row['cds_end']}.0"}
        row |= {"transl_table": "12.0", "sec": "1.0"}
    rows[2] |= dict.fromkeys(("cds_start", "cds_end", "transl_table", "sec"), missing)
    found = read(tmp_path, rows, kind, cds_columns=CDS_COLUMNS, selenocysteine_column="sec")
    assert [row.coding and row.coding.absent for row in found.rows] == (
        [None, None, "no-coding-region", None, None, None]
    )
    assert [row.coding and row.coding.code for row in found.rows] == [12, 12, None, 12, 12, 12]
    assert [row.coding and row.coding.selenocysteine for row in found.rows] == (
        [True, True, False, True, True, True]
    )


@pytest.mark.parametrize("kind", WRITERS)
def test_a_column_gives_each_row_its_code(tmp_path, kind):
    rows = [
        {"id": str(at), "sequence": "ATGCTGTGGTAA", "transl_table": code}
        for at, code in enumerate([None, 1, 12, 11])
    ]
    found = read(tmp_path, rows, kind)
    assert [row.view("protein").text for row in found.rows] == ["MLW", "MLW", "MSW", "MLW"]
    assert [row.coding and row.coding.code for row in found.rows] == [None, 1, 12, 11]
    assert "The column 'transl_table' gives the genetic code of 3 rows." in found.notes
    assert found.labels.column_names == ["transl_table"]


def test_an_option_fills_blank_cells_and_contradicts_no_other(tmp_path):
    rows = [
        {"id": str(at), "sequence": "ATGCTGTAA", "transl_table": c}
        for at, c in enumerate([None, 12])
    ]
    found = read(tmp_path, rows, genetic_code=12)
    assert [row.view("protein").text for row in found.rows] == ["MS", "MS"]
    with pytest.raises(BadInput, match="id '1': transl_table is 12, and --genetic-code says 11"):
        read(tmp_path, rows, genetic_code=11)
    for cell in (7, "Standard"):
        with pytest.raises(BadInput, match="id 'x': transl_table"):
            read(tmp_path, [rows[0] | {"id": "x", "transl_table": cell}])


@pytest.mark.parametrize("kind", WRITERS)
def test_selenocysteine_is_read_where_a_column_says_so(tmp_path, kind):
    cells = ["true", "false", "YES", "0", ""]
    rows = [{"id": str(at), "sequence": "ATGTGATAA", "sec": cell} for at, cell in enumerate(cells)]
    found = read(tmp_path, rows, kind, selenocysteine_column="sec", allow_inner_stop=True)
    assert [row.view("protein").text for row in found.rows] == ["MU", "MX", "MU", "MX", "MX"]
    as_bools = [row | {"sec": row["id"] in "02"} for row in rows]
    found = read(tmp_path, as_bools, kind, selenocysteine_column="sec", allow_inner_stop=True)
    assert [row.view("protein").text for row in found.rows] == ["MU", "MX", "MU", "MX", "MX"]


@settings(deadline=None)
@given(
    st.text("ACGUN", max_size=50),
    st.lists(st.sampled_from([codon.replace("T", "U") for codon in SENSE]), max_size=20),
    st.text("ACGUN", max_size=50),
    st.sampled_from(["mrna", "dna"]),
    st.data(),
)
def test_view_positions_map_back_to_their_nucleotides_whatever_the_utrs(
    before, sense, after, molecule, data
):
    cds = "AUG" + "".join(sense) + "UGA"
    text = before + cds + after
    sequence = text if molecule == "mrna" else text.replace("U", "T")
    record = Record("t", sequence, molecule, Coding(len(before), len(before + cds)))
    for name in ("mrna", "dna", "cds", "protein"):
        view = record.view(name)
        start = data.draw(st.integers(0, len(view.text)))
        stop = data.draw(st.integers(start, len(view.text)))
        first, last = view.to_record(start, stop)
        letters = text[first:last]
        if name == "protein":
            assert translate(letters) == view.text[start:stop]
        else:
            assert letters.replace("U", "T") == view.text[start:stop].replace("U", "T")
    assert record.codons() == (len(before), len(before + cds))


# the command itself, on the inputs of the issue made here


def build(path, store, *options, backbone="one-hot-protein"):
    asked = ["build", path, "--store", store, "--backbone", backbone, "--json", *options]
    done = CliRunner().invoke(app, [str(each) for each in asked])
    report = json.loads(done.stdout) if done.stdout else {}
    return done.exit_code, report, done.stderr


@pytest.mark.parametrize("backbone", ["one-hot-protein", "codon-mini", "one-hot-mrna"])
@pytest.mark.parametrize("options", [["--cds-columns", CDS_COLUMNS], ["--orf", "longest"]])
def test_all_transcripts_with_utrs_are_embedded(tmp_path, backbone, options):
    path = write(tmp_path, table(transcripts(60)))
    code, report, _ = build(path, tmp_path / "s", *options, backbone=backbone)
    assert (code, report["embedded"], report["failures"]) == (0, 60, {})


def test_a_transcript_without_a_frame_says_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,sequence\na,CCATGGCTTAACC\nb,CCCCCC\n")
    code, report, _ = build(path, tmp_path / "s", "--orf", "longest")
    assert (code, report["embedded"], report["failures"]) == (3, 1, {"no-orf": 1})
    done = CliRunner().invoke(
        app, ["missing", str(tmp_path / "s"), "--backbone", "one-hot-protein"]
    )
    assert "b   no-orf: no frame of it leads from a start codon" in done.stdout


ALTERNATIVE = ">b1\nGTGGCTTAA\n>b2\nTTGGCTTAA\n>b3\nATGGCTTAA\n"
MITO = ">mt1\nATGGCCTGAGCCTAA\n>mt2\nATAGCCTAA\n"


@pytest.mark.parametrize(
    ("text", "options", "proteins"),
    [
        (">ca1\nATGCTGCTGTAA\n", [], ["MLL"]),
        (">ca1\nATGCTGCTGTAA\n", ["--genetic-code", "12"], ["MSS"]),
        (ALTERNATIVE, ["--genetic-code", "11"], ["MA", "MA", "MA"]),
        (MITO, ["--genetic-code", "2"], ["MAWA", "MA"]),
        (MITO, ["--genetic-code", "5"], ["MAWA", "MA"]),
        (">sel\nATGGCCTGAGCCTAA\n", ["--allow-inner-stop"], ["MAXA"]),
    ],
)
def test_codes_reach_the_store_from_the_command_line(tmp_path, text, options, proteins):
    path = tmp_path / "x.fasta"
    path.write_text(text)
    code, _, _ = build(path, tmp_path / "s", *options)
    store = open_store(tmp_path / "s")
    assert code == 0
    assert [row.view("protein").text for row in store.collection("x").records()] == proteins
    reader = store.recipe("one-hot-protein")
    keys = store.collection("x").keys("protein")
    assert reader.lengths(keys).tolist() == [len(each) for each in proteins]


def test_the_bacterial_code_brings_in_the_genes_that_are_lost_without_it(tmp_path, data_folder):
    path = data_folder / "ecoli_abundance" / "protein_abundance.csv.gz"
    with gzip.open(path, "rt") as file:
        genes = [row["cds"] for row in csv.DictReader(file) if len(row["cds"]) <= 600]
    lost = [gene for gene in genes if gene[:3] != "ATG"]
    assert (len(genes), len(lost)) == (1129, 125)  # counts of issue 11
    options = ["--sequence-column", "cds", "--max-nt", "600"]
    _, before, said = build(path, tmp_path / "a", *options)
    _, after, _ = build(path, tmp_path / "b", *options, "--genetic-code", "11")
    assert before["failures"] == {"no-start-codon": 125, "no-stop-codon": 1}
    assert after["failures"] == {"no-stop-codon": 3}  # two of the 125 have no stop codon either
    assert sum(gene[-3:] not in STOPS for gene in genes) == 3
    assert "--genetic-code 11" in said
