"""Records from every format: the same table reads the same; real data sets read whole."""

import gzip
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore import delimited
from embedstore.dogma import Unreadable, check_coding
from embedstore.errors import BadInput
from embedstore.records import Record, read_records
from embedstore.store.collection import make_table

GENE = "ATGGCTAAATAA"
ROWS = [
    {"id": "007", "sequence": "ATGGCTAAATAA", "label": 1.5},
    {"id": "NA", "sequence": "ATGGCTGCTTAA", "label": None},
    {"id": "b/c d", "sequence": "ATGAAATAA", "label": 3.0},
]


def as_csv(rows, comma=","):
    lines = [comma.join(rows[0])]
    lines += [
        comma.join("" if value is None else str(value) for value in row.values()) for row in rows
    ]
    return ("\n".join(lines) + "\n").encode()


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows):
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {
    "csv": as_csv,
    "tsv": lambda rows: as_csv(rows, "\t"),
    "jsonl": as_jsonl,
    "ndjson": as_jsonl,
    "parquet": as_parquet,
}


def read(folder, name, content, **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_records(path, **options)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_table_format_gives_the_same_records_and_labels(kind, zipped, tmp_path):
    content = WRITERS[kind](ROWS)
    name = f"x.{kind.upper()}.GZ" if zipped else f"x.{kind}"
    records = read(tmp_path, name, gzip.compress(content) if zipped else content)
    assert records.rows == [Record(row["id"], row["sequence"], "dna") for row in ROWS]
    assert records.labels.to_pydict() == {"label": [1.5, None, 3.0]}
    assert records.repeated == 0


@pytest.mark.parametrize("ending", ["fa", "fasta", "faa", "fna", "ffn", "fas", "fa.gz"])
def test_fasta_has_many_names(ending, tmp_path):
    content = b">a one\nATG\n>b\nGGC\n"
    content = gzip.compress(content) if ending.endswith("gz") else content
    assert read(tmp_path, f"x.{ending}", content).rows == [
        Record("a", "ATG", "dna"),
        Record("b", "GGC", "dna"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        ">a\nATG\nGGC\n>b\nTTT\n",
        ">a\nATG\nGGC\n>b\nTTT",  # no new line at the end
        ">a\r\nATG\r\nGGC\r\n>b\r\nTTT\r\n",
        ">a\rATG\rGGC\r>b\rTTT\r",
        "\ufeff>a\nATG\nGGC\n>b\nTTT\n",  # byte order mark
        ";an old comment\n>a|x some words\n\natg\n;more\n  GgC  \n\n> b\nT T\tT\n".replace(
            "|x", ""
        ),
    ],
)
def test_fasta_reads_the_same_however_it_is_laid_out(content, tmp_path):
    rows = read(tmp_path, "x.fa", content).rows
    assert rows == [Record("a", "ATGGGC", "dna"), Record("b", "TTT", "dna")]


@pytest.mark.parametrize(
    "content",
    [
        "id,sequence,y\na,ATGGGC,1\nb,TTT,2\n",
        "id,sequence,y\r\na,ATGGGC,1\r\nb,TTT,2",
        "\ufeffid,sequence,y\na,ATGGGC,1\nb,TTT,2\n",
        '\nid,"sequence",y\n\n"a","ATG\nGGC",1\n\nb, ttt ,2\n\n',
    ],
)
def test_csv_reads_the_same_however_it_is_laid_out(content, tmp_path):
    records = read(tmp_path, "x.csv", content)
    assert records.rows == [Record("a", "ATGGGC", "dna"), Record("b", "TTT", "dna")]
    assert records.labels.to_pydict() == {"y": [1, 2]}


def test_jsonl_may_have_a_mark_blank_lines_nan_and_missing_names(tmp_path):
    content = '\ufeff{"id": 1, "sequence": "ATG", "y": NaN}\r\n\n{"id": "b", "sequence": "GGC"}'
    records = read(tmp_path, "x.jsonl", content)
    assert [record.id for record in records.rows] == ["1", "b"]
    first, second = records.labels.column("y").to_pylist()
    assert math.isnan(first) and second is None


def test_jsonl_keeps_lists_of_numbers_and_leaves_dates_text(tmp_path):
    tracks = [[n + at / 100 for at in range(68)] for n in range(3)]
    rows = [
        {"id": f"2020-01-0{n + 1}", "sequence": GENE, "track": track, "day": "2020-01-01"}
        for n, track in enumerate(tracks)
    ]
    records = read(tmp_path, "x.jsonl", as_jsonl(rows))
    assert [record.id for record in records.rows] == [row["id"] for row in rows]
    assert records.labels.to_pydict() == {"track": tracks, "day": ["2020-01-01"] * 3}


def test_jsonl_columns_may_turn_from_nothing_to_whole_to_broken_numbers_far_below(tmp_path):
    values = [None] * 10_000 + [1] * 10_000 + [2.5]
    rows = [{"id": n, "sequence": "ATG", "y": value} for n, value in enumerate(values)]
    labels = read(tmp_path, "x.jsonl", as_jsonl(rows)).labels
    assert labels.column("y").to_pylist() == values
    assert labels.schema.field("y").type == pa.float64()


def test_csv_columns_may_turn_from_nothing_to_whole_to_broken_numbers_far_below(tmp_path):
    values = [""] * 10_000 + ["1"] * 10_000 + ["2.5"]
    lines = "".join(f"{n},ATG,{value}\n" for n, value in enumerate(values))
    labels = read(tmp_path, "x.csv", "id,sequence,y\n" + lines).labels
    assert labels.column("y").to_pylist() == [None] * 10_000 + [1.0] * 10_000 + [2.5]


def test_a_sequence_of_millions_of_letters_is_one_field(tmp_path):
    long = "ATG" * 1_000_000
    for name, content in (
        ("x.csv", f"id,sequence\na,{long}\n"),
        ("x.jsonl", as_jsonl([{"id": "a", "sequence": long}])),
        ("x.fa", f">a\n{long}\n"),
    ):
        (row,) = read(tmp_path, name, content).rows
        assert row.sequence == long


def test_a_quoted_value_may_go_over_the_end_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_BLOCK", 1000)
    lines = "".join(f'g{n},"{"ATG" * 20}\n{"GGC" * 20}",{n}\n' for n in range(100))
    records = read(tmp_path, "x.csv", "id,sequence,y\n" + lines)
    assert {record.sequence for record in records.rows} == {"ATG" * 20 + "GGC" * 20}
    assert records.labels.column("y").to_pylist() == list(range(100))


def test_ids_may_be_whole_numbers_and_dictionaries_in_parquet(tmp_path):
    sequences = pa.array(["ATG", "GGC"])
    for ids, expected in (
        (pa.array([1, 2]), ["1", "2"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
    ):
        sink = io.BytesIO()
        parquet.write_table(pa.table({"id": ids, "sequence": sequences}), sink)
        records = read(tmp_path, "x.parquet", sink.getvalue())
        assert [record.id for record in records.rows] == expected


def test_the_folder_of_a_parquet_file_gives_no_columns(tmp_path):
    (tmp_path / "molecule=protein").mkdir()
    records = read(tmp_path / "molecule=protein", "x.parquet", as_parquet(ROWS))
    assert records.rows[0].molecule == "dna"


def test_rows_without_ids_are_named_by_number(tmp_path):
    records = read(tmp_path, "x.csv", "seq,y\nATG,1\nATG,2\n")
    assert [record.id for record in records.rows] == ["row-1", "row-2"]
    assert any("rows are named row-1" in note for note in records.notes)


def test_columns_are_chosen_by_option_and_the_others_are_labels(tmp_path):
    content = "gene,cds,y\nx,ATG,1\nz,GGC,2\n"
    records = read(tmp_path, "x.csv", content, id_column="gene", sequence_column="cds")
    assert [(record.id, record.sequence) for record in records.rows] == [("x", "ATG"), ("z", "GGC")]
    assert records.labels.column_names == ["y"]


def test_a_column_id_may_hold_the_sequences_if_so_asked(tmp_path):
    records = read(tmp_path, "x.csv", "id,y\nATG,1\n", sequence_column="id")
    assert records.rows == [Record("row-1", "ATG", "dna")]


def test_equal_rows_are_kept_once_and_counted(tmp_path):
    content = f"id,sequence,y\na,{GENE},1\nb,{GENE},2\na,{GENE.lower()},1\n"
    records = read(tmp_path, "x.csv", content)
    assert [record.id for record in records.rows] == ["a", "b"]
    assert records.labels.to_pydict() == {"y": [1, 2]}
    assert records.repeated == 1
    assert "1 repeated rows left out." in records.notes


def test_equal_rows_may_have_the_label_nan(tmp_path):
    row = {"id": "a", "sequence": GENE, "y": math.nan}
    assert read(tmp_path, "x.parquet", as_parquet([row, row])).repeated == 1


@pytest.mark.parametrize(
    ("sequences", "molecule"),
    [
        (["ATGGCT"], "dna"),
        (["AUGGCU"], "mrna"),
        (["augn"], "mrna"),
        (["GGC"], "dna"),  # no T and no U
        (["AUGT"], "mrna"),  # both: T is read as U
        (["ATG", "AUG"], "mrna"),
        (["MKLV", "MAGTCW"], "protein"),
        (["ATG GCT\u00a0AAA"], "dna"),
    ],
)
def test_the_molecule_is_told_from_the_letters_and_said(sequences, molecule, tmp_path):
    records = read(tmp_path, "x.csv", "sequence\n" + "\n".join(sequences) + "\n")
    assert {record.molecule for record in records.rows} == {molecule}
    assert any(note.startswith(f"Read as {molecule}") for note in records.notes)


def test_each_row_may_have_its_own_molecule(tmp_path):
    content = "id,sequence,molecule\na,ATG,dna\nb,AUG,mrna\nc,MKL*,protein\n"
    records = read(tmp_path, "x.csv", content)
    assert records.rows == [
        Record("a", "ATG", "dna"),
        Record("b", "AUG", "mrna"),
        Record("c", "MKL", "protein"),
    ]
    assert records.labels.num_columns == 0


def test_the_molecule_that_was_asked_for_goes_over_the_column(tmp_path):
    content = "id,sequence,molecule\na,ATG,dna\n"
    (row,) = read(tmp_path, "x.csv", content, molecule="mrna").rows
    assert row == Record("a", "AUG", "mrna")


# one folder for all examples, each of which writes its file anew
files = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sequences = st.text("ACGTUNacgtun \t", min_size=1, max_size=40).filter(str.strip)


@files
@given(texts=st.lists(sequences, min_size=1, max_size=6), kind=st.sampled_from(sorted(WRITERS)))
def test_an_mrna_is_kept_as_its_letters_in_upper_case_with_u(texts, kind, tmp_path):
    rows = [{"id": f"g{n}", "sequence": text.replace("\t", " ")} for n, text in enumerate(texts)]
    records = read(tmp_path, f"x.{kind}", WRITERS[kind](rows), molecule="mrna")
    for row, record in zip(rows, records.rows, strict=True):
        expected = [letter for letter in row["sequence"].upper() if letter != " "]
        assert record.sequence == "".join("U" if letter == "T" else letter for letter in expected)


@files
@given(
    values=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
            lambda name: name == name.strip() and name.isprintable()
        ),
        st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from(["jsonl", "parquet"]),
)
def test_any_printable_id_and_any_number_comes_through(values, kind, tmp_path):
    rows = [{"id": name, "sequence": GENE, "y": value} for name, value in values.items()]
    records = read(tmp_path, f"x.{kind}", WRITERS[kind](rows))
    assert [record.id for record in records.rows] == list(values)
    assert records.labels.column("y").to_pylist() == list(values.values())
    table = make_table(records.rows, records.labels)
    assert table.column("id").to_pylist() == list(values)


# Counts of the README beside the data.


def counted(path, **options):
    return read_records(path, **options).rows


def is_coding(record):
    try:
        check_coding(record.sequence.replace("T", "U"))
    except Unreadable:
        return False
    return True


def test_yeast_genes_read_whole(data_folder):
    records = read_records(data_folder / "yeast_expression/yeast_cds_fpkm_halflife.csv.gz")
    assert len(records.rows) == 6600
    assert {record.molecule for record in records.rows} == {"dna"}
    assert records.labels.column("fpkm").type == pa.float64()
    assert 6600 - records.labels.column("half_life").null_count == 3888


@pytest.mark.parametrize(("part", "count"), [("train", 1021), ("dev", 219), ("test", 219)])
def test_mrfp_variants_read_whole_and_make_one_protein(part, count, data_folder):
    rows = counted(data_folder / f"mrfp_expression/mrfp_{part}.csv.gz")
    assert len(rows) == count
    assert {len(row.sequence) for row in rows} == {678}
    keys = make_table(rows, pa.table({})).column("key_protein").to_pylist()
    assert len(set(keys)) == 1 and keys[0] is not None


def test_openvaccine_rnas_read_whole_and_none_is_a_coding_sequence(data_folder):
    records = read_records(data_folder / "sars_cov2_degradation/openvaccine_4082.jsonl.gz")
    assert len(records.rows) == 4082
    assert {record.molecule for record in records.rows} == {"mrna"}
    assert {len(record.sequence) for record in records.rows} == {107, 130}
    assert not any(map(is_coding, records.rows))
    tracks = records.labels.column("reactivity").to_pylist()
    assert {len(track) for track in tracks if track is not None} == {68}


def test_icodon_genes_read_whole(data_folder):
    path = data_folder / "icodon_stability/icodon_test.csv.gz"
    rows = counted(path, sequence_column="coding")
    assert len(rows) == 7576
    assert len({row.sequence for row in rows}) == 3444


def test_ecoli_genes_read_whole_but_not_by_gene_of_which_some_stand_there_twice(data_folder):
    path = data_folder / "ecoli_abundance/protein_abundance.csv.gz"
    assert len(counted(path, sequence_column="cds")) == 3627
    # row 208 and row 209 of the file are two sequences of b2592
    with pytest.raises(BadInput, match=r"rows 208 and 209 .* '511145\.b2592' .* sequences"):
        counted(path, id_column="gene_id", sequence_column="cds")
