"""Bad input is refused in one line that names the place and the fix, and nothing is written."""

import gzip
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import input_files, open_store
from embedstore.cli import app
from embedstore.errors import BadInput
from embedstore.records import read_records

GENE = "ATGGCTAAATAA"
GOOD = f"id,sequence,label\ngene-1,{GENE},1.5\ngene-2,ATGGCTGCTTAA,2.5\n"
ZIPPED = gzip.compress((GOOD + "".join(f"g{n},{GENE},{n}\n" for n in range(9_000))).encode())


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet_bytes(**columns):
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def rows_of(count, *more, header="id,sequence"):
    return "\n".join([header, *(f"g{n},{GENE}" for n in range(1, count + 1)), *more]) + "\n"


# name: (file name, content, options, what the message says)
CASES = {
    # rows
    "an empty sequence": (
        "x.csv",
        rows_of(1, "g2,"),
        [],
        ["x.csv, row 2 below the header, id 'g2'", "sequence is empty", "Remove the row"],
    ),
    "an empty sequence among proteins": (
        "x.fasta",
        ">a\nMKLV\n>b\n>c\nMKLI\n",
        [],
        ["record 2, id 'b'", "sequence is empty"],
    ),
    "a sequence of white space": ("x.csv", rows_of(1, "g2,   "), [], ["row 2", "is empty"]),
    "a sequence that is a stop alone": (
        "x.fa",
        ">a\nMK*\n>b\n*\n",
        ["--molecule", "protein"],
        ["record 2, id 'b'", "sequence is empty"],
    ),
    "a null sequence": (
        "x.parquet",
        parquet_bytes(id=["a", "b"], sequence=[GENE, None]),
        [],
        ["row 2 (from 1), id 'b'", "sequence is empty"],
    ),
    "a row of JSONL without a sequence": (
        "x.jsonl",
        jsonl({"id": "a", "sequence": GENE}, {"id": "b"}),
        [],
        ["x.jsonl, row 2, id 'b'", "sequence is empty"],
    ),
    "a foreign letter": (
        "x.csv",
        rows_of(2, "g3,ATGGC!AAATAA"),
        [],
        ["row 3 below the header, id 'g3'", "'!' at position 5 (0-based", "dna (ACGTN)", "Correct"],
    ),
    "a foreign letter behind white space": (
        "x.csv",
        rows_of(1, "g2,ATG GCX AAA TAA"),
        [],
        ["row 2", "'X' at position 5 (0-based, without white space)"],
    ),
    "an ambiguity code of nucleotides": (
        "x.fa",
        f">a\n{GENE}\n{GENE}R\n",
        [],
        ["record 1, id 'a'", "'R' at position 24", "dna"],
    ),
    "a gap among nucleotides": ("x.fa", ">a\nATG---AAA\n", [], ["'-' at position 3"]),
    "a stop inside a protein": (
        "x.fa",
        ">a\nMKV\n>b\nMK*KV\n",
        [],
        ["record 2, id 'b'", "'*' at position 2", "protein"],
    ),
    "a letter whose upper case is a residue": (
        "x.csv",
        "id,sequence\na,MKLVEß\n",
        [],
        ["row 1", "'ß' at position 5"],
    ),
    "a letter that cannot be seen": (
        "x.csv",
        "id,sequence\na,ATGG\u200bCT\n",
        [],
        ["row 1", r"'\u200b' at position 4"],
    ),
    "U in DNA": (
        "x.csv",
        "id,sequence\na,ATGU\n",
        ["--molecule", "dna"],
        ["'U' at position 3", "another --molecule"],
    ),
    "one id with two sequences": (
        "x.csv",
        rows_of(2, "g1,ATGGCTTAA"),
        [],
        ["rows 1 and 3 below the header share the id 'g1'", "different sequences", "its own id"],
    ),
    "one id with two sequences in FASTA": (
        "x.fa",
        ">a\nATG\n>b\nATG\n>b\nATC\n",
        [],
        ["records 2 and 3 share the id 'b'"],
    ),
    "one id with two labels": (
        "x.csv",
        GOOD + f"gene-1,{GENE},7\n",
        [],
        ["rows 1 and 3", "'gene-1'", "different labels"],
    ),
    "ids that differ in white space alone": (
        "x.csv",
        rows_of(1, " g1,ATGGCTTAA"),
        [],
        ["rows 1 and 2", "'g1'"],
    ),
    "an empty id": ("x.csv", rows_of(1, f",{GENE}"), [], ["row 2", "id is empty", "an id"]),
    "an id of white space": ("x.csv", rows_of(1, f"  ,{GENE}"), [], ["row 2", "id is empty"]),
    "a null id": (
        "x.jsonl",
        jsonl({"id": "a", "sequence": GENE}, {"id": None, "sequence": GENE}),
        [],
        ["row 2", "id is empty"],
    ),
    "an id with a tab": ("x.csv", f"id,sequence\na\tb,{GENE}\n", [], ["row 1", r"'a\tb'"]),
    "an id on two lines": ("x.csv", f'id,sequence\n"a\nb",{GENE}\n', [], ["row 1", r"'a\nb'"]),
    "blank lines are no rows": ("x.csv", rows_of(1, "", "", "g2,"), [], ["row 2 below the header"]),
    # molecules
    "an unknown --molecule": ("x.csv", GOOD, ["--molecule", "rna"], ["'rna'", "'mrna', 'dna'"]),
    "an unknown word in the column molecule": (
        "x.csv",
        f"id,sequence,molecule\na,{GENE},dna\nb,{GENE},rna\n",
        [],
        ["row 2 below the header, id 'b'", "molecule 'rna'", "'mrna', 'dna', 'protein'"],
    ),
    "no word in the column molecule": (
        "x.csv",
        f"id,sequence,molecule\na,{GENE},\n",
        [],
        ["row 1", "molecule ''"],
    ),
    "nucleotides and proteins together": (
        "x.csv",
        rows_of(1, "g2,MKLVEPW"),
        [],
        ["rows 1 and 2", "nucleotides", "protein", "--molecule", "column 'molecule'"],
    ),
    # columns
    "no column of sequences": (
        "x.csv",
        "id,cds\na,ATG\n",
        [],
        ["no column 'sequence'", "--sequence-column", "'id', 'cds'"],
    ),
    "an unknown --sequence-column": (
        "x.csv",
        GOOD,
        ["--sequence-column", "cds"],
        ["no column 'cds'", "'id', 'sequence', 'label'"],
    ),
    "an unknown --id-column": ("x.csv", GOOD, ["--id-column", "gene"], ["no column 'gene'"]),
    "columns split at semicolons": ("x.csv", "id;sequence\na;ATG\n", [], ["'id;sequence'"]),
    "one column for ids and sequences": (
        "x.csv",
        GOOD,
        ["--id-column", "sequence"],
        ["'sequence'", "two columns"],
    ),
    "two columns of one name": (
        "x.csv",
        f"id,sequence,y,y\na,{GENE},1,2\n",
        [],
        ["two columns 'y'"],
    ),
    "two columns of sequences": ("x.tsv", "id\tsequence\tsequence\n1\tA\tC\n", [], ["'sequence'"]),
    "a column named like one of ours": (
        "x.csv",
        f"id,sequence,key_protein\na,{GENE},1\n",
        [],
        ["'key_protein'", "Rename"],
    ),
    "options of columns for FASTA": (
        "x.fa",
        f">a\n{GENE}\n",
        ["--id-column", "name"],
        ["FASTA, which has no columns", "Leave --id-column"],
    ),
    "ids that are no text": (
        "x.parquet",
        parquet_bytes(id=[1.5], sequence=[GENE]),
        [],
        ["'id' holds double", "as text"],
    ),
    "sequences that are bytes": (
        "x.parquet",
        parquet_bytes(id=["a"], sequence=[GENE.encode()]),
        [],
        ["'sequence' holds binary"],
    ),
    # tables
    "a header alone": ("x.csv", "id,sequence\n", [], ["no rows", "at least one row"]),
    "a Parquet table without rows": (
        "x.parquet",
        parquet_bytes(id=pa.array([], pa.string()), sequence=pa.array([], pa.string())),
        [],
        ["no rows"],
    ),
    "a row that is too short": (
        "x.csv",
        GOOD + f"gene-3,{GENE}\n",
        [],
        ["row 3 below the header: 2 columns, but the header has 3", "Give every row"],
    ),
    "a row that is too long": (
        "x.tsv",
        f"id\tsequence\na\t{GENE}\nb\t{GENE}\t1\n",
        [],
        ["row 2 below the header: 3 columns, but the header has 2"],
    ),
    "a quote that is not closed": (
        "x.csv",
        f'id,sequence,y\na,"{GENE},1\nb,{GENE},2\n',
        [],
        ["row 1 below the header", "quote"],
    ),
    "a line that is no JSON": (
        "x.jsonl",
        jsonl({"id": "a", "sequence": GENE}) + "\n" + '{"id": \n',
        [],
        ["line 3 of the file: not JSON", "one JSON object a line"],
    ),
    "JSON that is one array": (
        "x.jsonl",
        json.dumps([{"id": "a", "sequence": GENE}]),
        [],
        ["line 1 of the file: not a JSON object", "one object a line"],
    ),
    "an object with one name twice": (
        "x.jsonl",
        '{"id": "a", "sequence": "ATG", "sequence": "ATC"}\n',
        [],
        ["line 1 of the file", "one name twice"],
    ),
    "FASTA without a header": ("x.fa", "ATG\n", [], ["line 1 of the file", "'>id'"]),
    "a header without an id": ("x.fa", f">a\n{GENE}\n\n>\nATG\n", [], ["line 4 of the file"]),
    # files
    "Windows-1252 in CSV": (
        "x.csv",
        f"id,sequence\na,{GENE}\né,{GENE}\n".encode("cp1252"),
        [],
        ["x.csv, line 3 of the file: not UTF-8", "Save the file as UTF-8"],
    ),
    "Windows-1252 in a label": (
        "x.csv",
        f"id,sequence,who\na,{GENE},é\n".encode("cp1252"),
        [],
        ["line 2 of the file: not UTF-8"],
    ),
    "Windows-1252 in a header": (
        "x.csv",
        f"id,sequence,é\na,{GENE},b\n".encode("cp1252"),
        [],
        ["line 1 of the file: not UTF-8"],
    ),
    "Windows-1252 in FASTA": (
        "x.fa",
        f">a\n{GENE}\n>é\n{GENE}\n".encode("cp1252"),
        [],
        ["line 3 of the file: not UTF-8"],
    ),
    "Windows-1252 in JSONL": (
        "x.jsonl",
        b'{"id": "\xe9", "sequence": "ATG"}\n',
        [],
        ["line 1 of the file: not UTF-8"],
    ),
    "UTF-16": ("x.csv", GOOD.encode("utf-16"), [], ["line 1 of the file: not UTF-8"]),
    "gzip without .gz": ("x.fa", gzip.compress(b">a\nATG\n"), [], ["name it .gz"]),
    ".gz without gzip": ("x.csv.gz", GOOD, [], ["cannot be unzipped", "leave .gz out"]),
    "a gzip cut short": ("x.csv.gz", ZIPPED[: len(ZIPPED) // 2], [], ["unzipped", "Copy it again"]),
    "a gzip of FASTA cut short": (
        "x.fa.gz",
        gzip.compress(b">a\nATG\n" * 99)[:-9],
        [],
        ["cannot be unzipped"],
    ),
    "a gzip with damage inside": (
        "x.csv.gz",
        ZIPPED[:500] + bytes(20) + ZIPPED[520:],
        [],
        ["cannot be unzipped"],
    ),
    "no Parquet": ("x.parquet", b"PAR1 and no more", [], ["cannot be read as parquet", "Check"]),
    "an empty CSV": ("x.csv", b"", [], ["x.csv", "Empty", "Check the file"]),
    "an empty FASTA": ("x.fa", b"", [], ["x.fa has no records"]),
    "an empty JSONL": ("x.jsonl", b"", [], ["x.jsonl has no rows"]),
    "an empty Parquet": ("x.parquet", b"", [], ["x.parquet", "0 bytes"]),
    "an empty gzip": ("x.csv.gz", gzip.compress(b""), [], ["x.csv.gz", "Empty"]),
    "an unknown ending": ("x.txt", GOOD, [], ["'x.txt' is unknown", ".fasta", ".parquet"]),
    "no such file": ("x.csv", None, [], ["There is no file", "Check the path"]),
}


def build(input_file, store, *options):
    arguments = ["build", input_file, "--store", store, "--backbone", "one-hot-mrna", *options]
    return CliRunner().invoke(app, [str(each) for each in arguments])


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two genes in it."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "genes.csv").write_text(GOOD)
    done = build(folder / "genes.csv", folder / "genes.store", "--molecule", "dna")
    assert done.exit_code == 0, done.output
    return folder / "genes.store"


def refused(input_file, store, *options):
    """The one line that a refused build prints; neither this store nor a new one is touched."""
    before = contents(store)
    assert len(before) > 5
    new = input_file.parent / "new.store"
    lines = set()
    for folder in (store, new):
        done = build(input_file, folder, *options)
        assert done.exit_code == 1, done.output
        assert done.stdout == ""
        *notes, last = done.stderr.splitlines()
        assert not any(note.startswith(("error", "Traceback")) for note in notes)
        assert last.startswith("error: ") and last.endswith(".")
        lines.add(last)
    assert contents(store) == before
    assert not new.exists()
    (line,) = lines
    return line


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_by_place_and_fix_and_nothing_is_written(case, tmp_path, store):
    name, content, options, said = CASES[case]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(path, store, *options)
    for part in said:
        assert part in line


def test_a_folder_is_refused(tmp_path, store):
    (tmp_path / "x.csv").mkdir()
    assert "is a folder. Give one file." in refused(tmp_path / "x.csv", store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path, store):
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "x.csv").chmod(0)
    assert "Permission denied" in refused(tmp_path / "x.csv", store)


def test_a_record_that_cannot_be_translated_is_skipped_with_a_reason(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text(f"id,sequence\ngood,{GENE}\nshort,ATGGCTAAATA\ninner,ATGTAGTAA\n")
    store = tmp_path / "genes.store"
    done = build(path, store, "--backbone", "one-hot-protein", "--json")
    assert done.exit_code == 3, done.output
    report = json.loads(done.stdout)
    assert report["failures"] == {"inner-stop-codon": 1, "length-not-codons": 1}
    (file,) = store.glob("recipes/*/failures/*.jsonl")
    assert file.name == report["failures_file"]
    failures = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in failures] == [
        ("short", "length-not-codons"),
        ("inner", "inner-stop-codon"),
    ]
    assert open_store(store).recipe("one-hot-protein").get("good").shape[0] == 3


def test_strict_refuses_what_would_be_skipped_by_name_and_reason(tmp_path, store):
    path = tmp_path / "genes.csv"
    path.write_text(f"id,sequence\ngood,{GENE}\nshort,ATGGCTAAATA\n")
    line = refused(path, store, "--backbone", "one-hot-protein", "--strict", "--name", "x")
    for part in ("1 of 2 records", "'short'", "11 nt is not divisible by 3", "leave --strict out"):
        assert part in line


def test_a_parquet_file_that_declares_more_than_it_has_is_not_read(tmp_path, monkeypatch):
    # runs and dictionaries: each byte of the file stands for a hundred rows and more
    monkeypatch.setattr(input_files, "_FREE_ROWS", 1000)
    monkeypatch.setattr(input_files, "_MOST_PACKED", 100)
    count = 3_000_000
    same = pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), pa.array(["MKV"]))
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"id": same, "sequence": same}), path, compression="zstd")
    assert path.stat().st_size < 30_000
    with pytest.raises(BadInput, match="declares 3000000 rows") as caught:
        read_records(path, molecule="protein")
    assert "\n" not in str(caught.value)


def test_a_flipped_parquet_file_is_refused_or_read(tmp_path):
    content = parquet_bytes(id=["a", "b"], sequence=[GENE, GENE], y=[1.0, 2.0])
    path = tmp_path / "x.parquet"
    refused = 0
    for at in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[at] ^= 0x80
        path.write_bytes(flipped)
        try:
            read_records(path, molecule="mrna")
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 30
