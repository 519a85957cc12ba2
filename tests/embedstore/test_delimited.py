"""Tables as spreadsheets write them: separators, empty rows, encodings, and what cells become."""

import pyarrow as pa
import pytest

from embedstore.errors import BadInput
from embedstore.records import read_records

GENE = "ATGGCTAAATAA"
COMMAS = f"id,sequence,y\na,{GENE},1\nb,ATGTAA,2\n"


def read(folder, content, name="x.csv", **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_records(path, **options)


@pytest.mark.parametrize(("word", "comma"), [("semicolon", ";"), ("tab", "\t"), ("pipe", "|")])
def test_another_separator_is_named_with_its_option_which_then_reads(word, comma, tmp_path):
    content = COMMAS.replace(",", comma)
    with pytest.raises(BadInput, match=r"x\.csv: the header .* separated by") as caught:
        read(tmp_path, content)
    assert (comma if comma != "\t" else "tab") in caught.value.problem
    assert "--delimiter" in caught.value.fix
    for said in (word, comma):
        found = read(tmp_path, content, delimiter=said)
        assert [row.id for row in found.rows] == ["a", "b"]
        assert found.labels.to_pydict() == {"y": [1, 2]}


def test_commas_in_a_tsv_and_a_wrong_option_are_named_too(tmp_path):
    with pytest.raises(BadInput, match=r"separated by commas ',', not by tabs.*--delimiter ','"):
        read(tmp_path, COMMAS, "x.tsv")
    with pytest.raises(BadInput, match="separated by commas ',', not by semicolons"):
        read(tmp_path, COMMAS, delimiter=";")


def test_a_comma_inside_a_name_does_not_hide_the_semicolons(tmp_path):
    content = f"id;sequence;dose, mM\na;{GENE};1,5\n"
    with pytest.raises(BadInput, match="separated by semicolons"):
        read(tmp_path, content)
    assert read(tmp_path, content, delimiter=";").labels.to_pydict() == {"dose, mM": ["1,5"]}


def test_one_column_needs_no_separator(tmp_path):
    assert len(read(tmp_path, "sequence\nATG\nGGC\n").rows) == 2
    assert len(read(tmp_path, "a|b\nATG\n", sequence_column="a|b").rows) == 1


@pytest.mark.parametrize("first", ["sep=;", "sep=;\r", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_the_separator_line_of_excel_is_understood(first, tmp_path):
    found = read(tmp_path, f"{first}\nid;sequence;y\na;{GENE};1,5\n\nb;AT!;2\n", bad_records="skip")
    assert [row.id for row in found.rows] == ["a"]
    assert "row 2 below the header, id 'b'" in found.notes[-1]


def test_rows_of_separators_alone_are_skipped_but_counted(tmp_path):
    content = f"id,sequence,y\n,,\na,{GENE},1\n , ,\t\n,,,,,\n\nb,ATGTAA,2\n,,\n"
    found = read(tmp_path, content)
    assert [row.id for row in found.rows] == ["a", "b"]
    assert found.labels.to_pydict() == {"y": [1, 2]}
    with pytest.raises(BadInput, match="row 5 below the header, id 'b'"):
        read(tmp_path, content.replace("ATGTAA", "ATGT!!"))
    with pytest.raises(BadInput, match="row 5 below the header: 2 columns"):
        read(tmp_path, content.replace("b,ATGTAA,2", "b,2"))
    with pytest.raises(BadInput, match="rows 2 and 5 below the header share the id 'a'"):
        read(tmp_path, content.replace("b,", "a,"))
    ids = read(tmp_path, f"sequence,y\n,\n{GENE},1\n,\nATGTAA,2\n").rows
    assert [row.id for row in ids] == ["row-2", "row-4"]
    with pytest.raises(BadInput, match="no rows"):
        read(tmp_path, "id,sequence\n,\n,\n")


def test_empty_columns_of_a_spreadsheet_are_no_columns(tmp_path):
    found = read(tmp_path, f"\n,,,,\nid,sequence,y,,\na,{GENE},1,,\nb,ATGTAA,2,,\n")
    assert found.labels.to_pydict() == {"y": [1, 2]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (COMMAS.encode("utf-16"), "UTF-16.*'CSV UTF-8'.*iconv -f UTF-16"),
        (COMMAS.encode("utf-16-be"), "UTF-16"),
        (COMMAS.encode("utf-32"), "UTF-32"),
        (b"PK\x03\x04" + bytes(40), "a workbook or a zip file"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.fasta", "x.jsonl"])
def test_what_is_no_utf8_is_named(content, said, name, tmp_path):
    with pytest.raises(BadInput, match=f"line 1 of the file: not UTF-8 text but {said}"):
        read(tmp_path, content, name)


def test_a_header_may_be_long_and_quoted(tmp_path):
    names = [f"gene {n}\n" + 500 * "x" for n in range(3_000)]  # more than is looked at first
    header = ",".join(["id", "sequence", *(f'"{name}"' for name in names)])
    row = ",".join(["a", GENE, *(str(n) for n in range(len(names)))])
    labels = read(tmp_path, f"{header}\n{row}\n").labels
    assert labels.column_names == names
    assert labels.column(2_999).to_pylist() == [2_999]


# what a column of cells becomes; an empty string is an empty cell
CELLS = {
    "whole": (["1", "", "-20", " 3 "], [1, None, -20, 3]),
    "int64": (["9223372036854775807", "0"], [2**63 - 1, 0]),
    "numbers": (["1", ".5", "-2.", "1e-05", "+1.5", "1.5E5"], [1.0, 0.5, -2.0, 1e-5, 1.5, 1.5e5]),
    "large": (["1e16", "0.5"], [1e16, 0.5]),
    "infinite": (["inf", "-Infinity", "0.5"], [float("inf"), float("-inf"), 0.5]),
    "truth": (["true", "", "FALSE", "True"], [True, None, False, True]),
    "blank": (["", "  "], [None, None]),
    "leading zeros": (["007", "1"], ["007", "1"]),
    "negative zeros": (["-01.5", "1"], ["-01.5", "1"]),
    "long": (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
    "rounded": (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
    "overflown": (["1e999", "1"], ["1e999", "1"]),
    "ids": (["1e5", "2310009E13", "7"], ["1e5", "2310009E13", "7"]),
    "detection limit": (["1", "ND", "2.50"], ["1", "ND", "2.50"]),
    "NA": (["1", "NA", "nan", "N/A", "-", "#N/A", "NULL"],) * 2,
    "decimal commas": (["1", "two"], ["1", "two"]),
    "dates": (["2020-01-01", "2020-01-02"],) * 2,
    "times": (["2020-01-01 10:00:00", "12:30"],) * 2,
    "hexadecimal": (["0x1A", "1_000"],) * 2,
    "text": ([" neg", "pos\t", "NA", "nan", ""], ["neg", "pos", "NA", "nan", None]),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_cells_become_what_loses_nothing(name, kind, tmp_path):
    cells, expected = CELLS[name]
    comma = {"csv": ",", "tsv": "\t"}[kind]
    rows = [[f"g{n}", GENE, f'"{cell}"'] for n, cell in enumerate(cells)]
    lines = [comma.join(row) + "\n" for row in [["id", "sequence", "y"], *rows]]
    column = read(tmp_path, "".join(lines), f"x.{kind}").labels.column("y")
    assert column.to_pylist() == expected
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    first = next((value for value in expected if value is not None), "")
    assert column.type == kinds[type(first)]


@pytest.mark.parametrize(
    "tail",
    [
        'a,ATGTAA,"5 inch\nb,ATGGCATAA,z\n',
        'a,ATGTAA,"5 inch\nb,ATGGCATAA,"z"\nc,ATGTAA,z\n',
        'a,ATGTAA,"5 inch\r\nb,ATGGCATAA,z\r\n',
        'a,ATGTAA,"alpha ""2""\rb,ATGGCATAA,z\r',
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_a_stray_quotation_mark_takes_no_rows_into_its_cell(tail, name, tmp_path):
    content = 'id,sequence,note\nfirst,ATGCTGTAA,"two\nlines"\n' + tail
    if name == "x.tsv":
        content = content.replace(",", "\t")
    with pytest.raises(BadInput, match=rf"{name}, line 4 of the file: the quotation mark at"):
        read(tmp_path, content, name)


def test_quoted_cells_keep_their_lines_separators_and_quotation_marks(tmp_path):
    notes = ["two\nlines", 'said ""x"", y', "a\r\nb", '""', "plain"]
    rows = "".join(f'{at},{"ATG" * (at + 1)},"{note}"\n' for at, note in enumerate(notes))
    found = read(tmp_path, f"id,sequence,note\n{rows}")
    assert found.labels.column("note").to_pylist() == [note.replace('""', '"') for note in notes]


def test_names_in_the_header_lose_the_spaces_around_them(tmp_path):
    found = read(tmp_path, "sequence, id , y\nATGTAA, a, 1\nATGGCATAA, b, 2\n")
    assert [row.id for row in found.rows] == ["a", "b"]
    assert found.labels.to_pydict() == {"y": [1, 2]}
    with pytest.raises(BadInput, match="two columns 'y'"):
        read(tmp_path, "id,sequence,y, y\na,ATGTAA,1,2\n")
    with pytest.raises(BadInput, match="2 columns without a name"):
        read(tmp_path, "id,sequence,,\na,ATGTAA,1,2\n")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_white_space_around_a_column_s_name_is_no_part_of_it(tmp_path, name):
    separator = "," if name == "x.csv" else "\t"
    lines = (["id ", " sequence", " y "], ["a", GENE, "1"])
    found = read(tmp_path, "".join(separator.join(line) + "\n" for line in lines), name)
    assert [row.id for row in found.rows] == ["a"] and found.labels.column_names == ["y"]


def test_two_columns_of_one_name_but_for_white_space_are_refused(tmp_path):
    with pytest.raises(BadInput, match="two columns 'y'"):
        read(tmp_path, f"id,sequence,y,y \na,{GENE},1,2\n")
