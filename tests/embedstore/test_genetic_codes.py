"""Genetic codes: Biopython's own translation is the reference for every table of NCBI."""

import random
import subprocess
import sys
import warnings
from itertools import product

import pytest
from Bio.Data import CodonTable
from Bio.Seq import Seq

from embedstore.dogma import GENETIC_CODE, Coding, Unreadable, check_coding, translate, view_of
from embedstore.errors import BadInput
from embedstore.genetic_codes import genetic_code, known_codes
from embedstore.orf import longest_orf

TABLES = CodonTable.unambiguous_rna_by_id
CODONS = ["".join(each) for each in product("UCAG", repeat=3)]
BOTH = {27: {"UGA"}, 28: {"UAA", "UAG", "UGA"}, 31: {"UAA", "UAG"}}  # NCBI's notes on the tables


def reference(mrna, number):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of codons that are a stop and a residue
        return str(Seq(mrna).translate(table=number))


def test_the_default_is_biopythons_standard_table_with_one_start():
    assert {codon: reference(codon, 1) for codon in CODONS} == GENETIC_CODE
    assert genetic_code(None).start_codons == ("AUG",)


def test_every_table_of_biopython_is_known():
    assert len(TABLES) > 20 and known_codes().keys() == TABLES.keys()


@pytest.mark.parametrize("number", TABLES)
def test_random_sequences_read_as_biopython_reads_them(number):
    rng = random.Random(number)
    mrna = "".join(rng.choice("UCAG") for _ in range(3 * 2000))
    assert translate(mrna, number) == reference(mrna, number)


@pytest.mark.parametrize("number", TABLES)
def test_codons_with_n_read_as_all_their_readings_agree(number):
    for codon in map("".join, product("UCAGN", repeat=3)):
        bases = ("UCAG" if base == "N" else base for base in codon)
        readings = {reference("".join(each), number) for each in product(*bases)}
        assert translate(codon, number) == (readings.pop() if len(readings) == 1 else "X")


@pytest.mark.parametrize("number", TABLES)
def test_every_start_of_a_table_starts_a_gene_and_reads_m(number):
    table = TABLES[number]
    stop = table.stop_codons[0]
    for codon in CODONS:
        gene = f"{codon}GCU{stop}"
        if codon in table.start_codons:
            assert view_of(gene, "mrna", "protein", Coding(code=number)).text == "MA"
        else:
            with pytest.raises(Unreadable, match="no-start-codon"):
                check_coding(gene, Coding(code=number))


@pytest.mark.parametrize("number", TABLES)
def test_every_stop_of_a_table_ends_a_gene_and_what_is_none_does_not(number):
    for codon in CODONS:
        gene = f"AUGGCU{codon}"
        if codon in TABLES[number].stop_codons:
            assert view_of(gene, "mrna", "protein", Coding(code=number)).text == "MA"
        else:
            with pytest.raises(Unreadable, match="no-stop-codon"):
                check_coding(gene, Coding(code=number))


@pytest.mark.parametrize("number", TABLES)
def test_whole_genes_read_as_biopython_reads_a_complete_cds(number):
    table, rng = TABLES[number], random.Random(number)
    if number in BOTH:
        pytest.skip("Biopython refuses these tables for a complete CDS")
    sense = [codon for codon in CODONS if codon not in table.stop_codons]
    for start in table.start_codons:
        gene = start + "".join(rng.choices(sense, k=50)) + rng.choice(table.stop_codons)
        expected = str(Seq(gene).translate(table=number, cds=True))
        assert view_of(gene, "mrna", "protein", Coding(code=number)).text == expected


@pytest.mark.parametrize("number", BOTH)
def test_a_codon_that_is_both_is_a_residue_inside_and_a_stop_at_the_end(number):
    assert set(genetic_code(number).both) == BOTH[number]
    for codon in BOTH[number]:
        gene = f"AUG{codon}GCU{codon}"
        residue = TABLES[number].forward_table[codon]
        assert view_of(gene, "mrna", "protein", Coding(code=number)).text == f"M{residue}A"
    with pytest.raises(BadInput, match="cannot be told"):
        longest_orf("AUGGCUUAA", Coding(code=number))


def test_by_default_only_aug_starts_and_code_1_adds_its_two():
    for start in ("UUG", "CUG", "GUG"):
        with pytest.raises(Unreadable, match="not AUG"):
            check_coding(f"{start}GCUUAA")
    check_coding("UUGGCUUAA", Coding(code=1))
    check_coding("CUGGCUUAA", Coding(code=1))
    with pytest.raises(Unreadable, match=r"not a start codon of genetic code 1 \(UUG, CUG, AUG\)"):
        check_coding("GUGGCUUAA", Coding(code=1))


@pytest.mark.parametrize(
    ("coding", "protein"),
    [
        (Coding(inner_stops=True), "MXAXK"),
        (Coding(selenocysteine=True, inner_stops=True), "MUAXK"),
        (Coding(code=4, inner_stops=True), "MWAXK"),  # UGA is tryptophan in code 4
        (Coding(code=4, inner_stops=True, selenocysteine=True), "MWAXK"),
    ],
)
def test_inner_stops_read_x_and_selenocysteine_u(coding, protein):
    assert view_of("AUGUGAGCUUAAAAAUAG", "mrna", "protein", coding).text == protein


def test_selenocysteine_alone_allows_no_other_inner_stop():
    check_coding("AUGUGAGCUUAA", Coding(selenocysteine=True))
    with pytest.raises(Unreadable, match="stop UAG at nt 6, inside"):
        check_coding("AUGUGAUAGUAA", Coding(selenocysteine=True))


def test_an_unknown_code_lists_the_known():
    for number in (0, 7, 8, 17, 34, -1):
        with pytest.raises(BadInput, match=r"no genetic code .* 1 Standard, .* 11 Bacterial"):
            genetic_code(number)


def test_biopython_is_not_imported_for_the_standard_code():
    code = "import sys; from embedstore.dogma import check_coding; check_coding('AUGUAA'); "
    code += "sys.exit('Bio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
