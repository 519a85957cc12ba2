"""Bad records: all named at once, or left out by name while the good ones are embedded."""

import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import open_store
from embedstore.cli import app
from embedstore.errors import BadInput
from embedstore.records import LeftOut, read_records

GENE = "ATGGCTAAATAA"
# id, sequence, and the reason against it
ROWS = [
    ("good-1", GENE, None),
    ("letter", "ATG!CT", "bad-letter"),
    ("code", "ATGRYN", "bad-letter"),
    ("", GENE, "empty-id"),
    ("none", "", "empty-sequence"),
    ("space", "  ", "empty-sequence"),
    ("protein", "ATGEFP", "bad-letter"),
    ("gap", "ATG---", "bad-letter"),
    ("good-2", "ATGTAA", None),
]
BAD = [(number, *row) for number, row in enumerate(ROWS, start=1) if row[2]]


def write_csv(path, comma=","):
    path.write_text("".join(comma.join(row) + "\n" for row in [("id", "sequence", "y"), *table()]))


def table():
    return [(name, text, str(at)) for at, (name, text, _) in enumerate(ROWS)]


def write_jsonl(path):
    rows = [{"id": name, "sequence": text, "y": int(y)} for name, text, y in table()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path):
    ids, texts, values = zip(*table(), strict=True)
    columns = {"id": ids, "sequence": texts, "y": [int(y) for y in values]}
    parquet.write_table(pa.table({name: list(column) for name, column in columns.items()}), path)


WRITERS = {
    "csv": write_csv,
    "tsv": lambda path: write_csv(path, "\t"),
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "fasta": lambda path: path.write_text("".join(f">{a}\n{b}\n" for a, b, _ in table())),
}


def build(*words, **more):
    words = ["build", *words, "--backbone", "one-hot-mrna"]
    return CliRunner().invoke(app, [str(word) for word in words], **more)


@pytest.fixture(params=WRITERS)
def bad_file(request, tmp_path):
    path = tmp_path / f"x.{request.param}"
    WRITERS[request.param](path)
    return path


def test_all_bad_records_are_counted_and_the_first_five_are_named(bad_file):
    with pytest.raises(BadInput) as caught:
        read_records(bad_file, molecule="dna")
    line = str(caught.value)
    assert "\n" not in line
    assert f"{len(BAD)} of {len(ROWS)} " in line
    for number, name, _, _ in BAD[:5]:
        assert f" {number}" in line
        assert not name or f"id {name!r}" in line
    assert "'protein'" not in line and "and 2 more" in line
    assert "--bad-records skip" in line and "--ambiguous N" in line


def test_skipped_records_are_failures_and_the_good_ones_are_embedded(bad_file, tmp_path):
    store = tmp_path / "s"
    for _ in range(2):  # a second build says the same
        done = build(
            bad_file, "--store", store, "--molecule", "dna", "--bad-records", "skip", "--json"
        )
        assert done.exit_code == 3, done.output
        report = json.loads(done.stdout)
        assert report["records"] == 2
        assert report["failures"] == {"bad-letter": 4, "empty-id": 1, "empty-sequence": 2}
        (file,) = store.glob(f"recipes/*/failures/{report['failures_file']}")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(row["id"], row["reason"]) for row in rows] == [
            (name or f"row-{number}", reason) for number, name, _, reason in BAD
        ]
        assert {row["view"] for row in rows} == {"mrna"}
    opened = open_store(store)
    assert opened.collection("x").ids == ["good-1", "good-2"]
    assert opened.recipe("one-hot-mrna").get("good-2").shape[0] == 6
    if bad_file.suffix != ".fasta":
        assert opened.collection("x").table.column("y").to_pylist() == [0, 8]


def test_an_input_of_bad_records_alone_is_a_build_without_records(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nAT!\n")
    done = build(tmp_path / "x.fa", "--store", tmp_path / "s", "--bad-records", "skip", "--json")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["failures"] == {"bad-letter": 1}
    assert len(open_store(tmp_path / "s").collection("x")) == 0


def test_reasons_are_words_that_say_what_is_wrong(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "id,sequence,molecule\nstop,MK*KV,protein\nend,MKV*,protein\n"
        'x,ATG,rna\n"a\tb",ATG,dna\nfine,ATG, dna \n'
    )
    found = read_records(path, bad_records="skip")
    assert [(each.id, each.reason) for each in found.left_out] == [
        ("stop", "inner-stop"),
        ("x", "unknown-molecule"),
        ("row-4", "unprintable-id"),
    ]
    assert isinstance(found.left_out[0], LeftOut)
    assert "a stop inside the protein" in found.left_out[0].detail
    assert [row.id for row in found.rows] == ["end", "fine"]


# NC-IUB 1984, as every nucleotide alphabet has it, without A C G T U N
CODES = "RYKMSWBDHV"


@pytest.mark.parametrize("molecule", ["dna", "mrna"])
def test_ambiguous_letters_become_n_and_are_counted_by_record(molecule, tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(f">a\nATG{CODES}\n>b\nATG\n>c\natg{CODES.lower()}r ATG\n")
    found = read_records(path, molecule=molecule, ambiguous="N")
    start = "AUG" if molecule == "mrna" else "ATG"
    assert [row.sequence for row in found.rows] == [
        start + "N" * 10,
        start,
        start + "N" * 11 + start,
    ]
    assert found.ambiguous == {"a": 10, "c": 11}
    (note,) = (note for note in found.notes if "ambiguous" in note)
    assert "21 ambiguous letters" in note and "R 3" in note and "'a' 10, 'c' 11" in note


def test_other_foreign_letters_stay_bad_beside_ambiguous_ones(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(">a\nATGRX\n")
    with pytest.raises(BadInput, match="'X' at position 4") as caught:
        read_records(path, molecule="dna", ambiguous="N")
    assert "--ambiguous" not in str(caught.value)


def test_ambiguous_codes_in_a_protein_are_residues(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(f">a\n{CODES}\n")
    assert read_records(path, molecule="protein", ambiguous="N").rows[0].sequence == CODES


HEADERS = ">hCoV-19/South Africa/A-1|EPI_1\nAUG\n>hCoV-19/South Africa/A-2|EPI_2\nAUGUAA\n"


def test_headers_that_share_their_first_word_have_a_way_in(tmp_path):
    path = tmp_path / "x.fasta"
    path.write_text(HEADERS)
    with pytest.raises(BadInput, match="share the id 'hCoV-19/South'") as caught:
        read_records(path)
    assert "--id-from header" in caught.value.fix and "--id-from number" in caught.value.fix
    assert "column" not in caught.value.fix
    for way, ids in (
        ("header", ["hCoV-19/South Africa/A-1|EPI_1", "hCoV-19/South Africa/A-2|EPI_2"]),
        ("number", ["row-1", "row-2"]),
    ):
        assert [row.id for row in read_records(path, id_from=way).rows] == ids


def test_a_header_without_an_id_may_be_named_by_number(tmp_path):
    path = tmp_path / "x.fasta"
    path.write_text(">\nAUG\n>\nAUGUAA\n")
    assert [row.id for row in read_records(path, id_from="number").rows] == ["row-1", "row-2"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_of_tables_are_named_by_number_and_keep_their_column_of_ids(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        path.write_text(f"id,sequence\na,{GENE}\na,ATG\n")
    elif kind == "jsonl":
        path.write_text(f'{{"id": "a", "sequence": "{GENE}"}}\n{{"id": "a", "sequence": "ATG"}}\n')
    else:
        parquet.write_table(pa.table({"id": ["a", "a"], "sequence": [GENE, "ATG"]}), path)
    with pytest.raises(BadInput, match="--id-from number"):
        read_records(path)
    found = read_records(path, id_from="number")
    assert [row.id for row in found.rows] == ["row-1", "row-2"]
    assert found.labels.to_pydict() == {"source_id": ["a", "a"]}
    for way in ("header", "first-word"):
        with pytest.raises(BadInput, match=rf"--id-from {way} is of FASTA, and x\.{kind}"):
            read_records(path, id_from=way)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bad_records": "drop"}, "--bad-records 'drop' .* 'error', 'skip'"),
        ({"ambiguous": "X"}, "--ambiguous 'X' .* 'error', 'N'"),
        ({"id_from": "name"}, "--id-from 'name' .* 'first-word', 'header', 'number'"),
        ({"delimiter": "."}, "--delimiter '.' .* semicolon"),
        ({"format": "xlsx"}, "--format 'xlsx' .* parquet"),
        ({"id_from": "number", "id_column": "id"}, "exclude each other"),
    ],
)
def test_options_that_are_none_are_refused_with_those_that_are(options, said, tmp_path):
    (tmp_path / "x.csv").write_text(f"id,sequence\na,{GENE}\n")
    with pytest.raises(BadInput, match=said):
        read_records(tmp_path / "x.csv", **options)
