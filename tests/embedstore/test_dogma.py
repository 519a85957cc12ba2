"""The central dogma: translation, the coding rule, views, and the way back to the record."""

import re
from itertools import pairwise, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from embedstore import key_of
from embedstore.dogma import (
    GENETIC_CODE,
    MOLECULES,
    VIEWS,
    Unreadable,
    check_coding,
    translate,
    view_of,
)

# NCBI, The Genetic Codes, transl_table=1, as printed there: amino acids, starts left out, bases.
NCBI = """
  AAs  = FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG
Base1  = TTTTTTTTTTTTTTTTCCCCCCCCCCCCCCCCAAAAAAAAAAAAAAAAGGGGGGGGGGGGGGGG
Base2  = TTTTCCCCAAAAGGGGTTTTCCCCAAAAGGGGTTTTCCCCAAAAGGGGTTTTCCCCAAAAGGGG
Base3  = TCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAGTCAG
"""
RESIDUES, *BASES = (line.split()[-1] for line in NCBI.strip().splitlines())
SLOW_TABLE = {
    "".join(bases).replace("T", "U"): residue
    for *bases, residue in zip(*BASES, RESIDUES, strict=True)
}
STOPS = ("UAA", "UAG", "UGA")

calm = settings(deadline=None)  # a busy machine is no failure
rna = st.text("ACGUN", max_size=60)
codons = st.sampled_from([codon for codon in SLOW_TABLE if codon not in STOPS])


@st.composite
def coding(draw):
    """A coding sequence: AUG, sense codons, one stop."""
    return "AUG" + "".join(draw(st.lists(codons, max_size=20))) + draw(st.sampled_from(STOPS))


@st.composite
def nearly_coding(draw):
    """A coding sequence with up to three letters changed, put in or left out."""
    letters = list(draw(coding()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(letters) - 1, 0)))
        letters[at : at + draw(st.integers(0, 1))] = draw(st.text("ACGUN", max_size=1))
    return "".join(letters)


def slow_residue(codon):
    readings = {
        SLOW_TABLE["".join(bases)]
        for bases in product(*("ACGU" if base == "N" else base for base in codon))
    }
    return readings.pop() if len(readings) == 1 else "X"


def slow_is_coding(text):
    triplets = [text[at : at + 3] for at in range(0, len(text), 3)]
    return (
        all(letter in "AUGCN" for letter in text)
        and len(text) % 3 == 0
        and triplets[:1] == ["AUG"]
        and [at for at, codon in enumerate(triplets) if codon in STOPS] == [len(triplets) - 1]
    )


def is_coding(text):
    try:
        check_coding(text)
    except Unreadable:
        return False
    return True


def view_or_none(sequence, molecule, view):
    try:
        return view_of(sequence, molecule, view)
    except Unreadable:
        return None


def test_the_code_is_the_standard_one_of_ncbi():
    assert len(SLOW_TABLE) == 64
    assert GENETIC_CODE == SLOW_TABLE


@pytest.mark.parametrize("codon", [*map("".join, product("ACGUN", repeat=3))])
def test_every_codon_with_unknown_bases_reads_as_all_its_readings_agree(codon):
    assert translate(codon) == slow_residue(codon)


@calm
@given(st.lists(st.text("ACGUN", min_size=3, max_size=3), max_size=40))
def test_translation_goes_codon_by_codon(triplets):
    assert translate("".join(triplets)) == "".join(map(slow_residue, triplets))


@calm
@given(st.text("ACGUNTX*é", min_size=1, max_size=12))
def test_what_is_no_codons_is_never_translated(text):
    assume(len(text.encode()) % 3 or not set(text) <= set("ACGUN"))
    with pytest.raises(ValueError):
        translate(text)


@calm
@given(st.one_of(rna, coding(), nearly_coding(), st.text("ACGUNTXé\ud800", max_size=12)))
def test_the_coding_rule_is_what_brute_force_says(text):
    assert is_coding(text) == slow_is_coding(text)


@calm
@given(coding())
def test_coding_sequences_pass(text):
    check_coding(text)


@pytest.mark.parametrize(
    ("mrna", "reason", "detail"),
    [
        ("AUGGCUUAAG", "length-not-codons", "10 nt is not divisible by 3"),
        ("GUGGCUUAA", "no-start-codon", "starts with GUG, not AUG"),
        ("", "no-start-codon", "starts with , not AUG"),
        ("AUGGCUGCU", "no-stop-codon", "ends with GCU, which is no stop codon"),
        ("AUG", "no-stop-codon", "ends with AUG, which is no stop codon"),
        ("AUGUAGGCUUAA", "inner-stop-codon", "stop UAG at nt 3, inside"),
        ("AUGUAAUAA", "inner-stop-codon", "stop UAA at nt 3, inside"),
        ("AUGUAN", "no-stop-codon", "ends with UAN, which is no stop codon"),
        ("AUGGCTUAA", "unknown-letter", "'T' at nt 5 is not one of ACGUN"),
    ],
)
def test_the_first_broken_rule_is_named_with_its_place(mrna, reason, detail):
    with pytest.raises(Unreadable) as caught:
        check_coding(mrna)
    assert (caught.value.reason, caught.value.detail) == (reason, detail)


def test_a_stop_in_another_frame_is_no_stop():
    check_coding("AUGCUAACUUAA")  # UAA at nt 4, in frame 1


@calm
@given(coding())
def test_views_of_a_coding_sequence_follow_the_central_dogma(mrna):
    dna = mrna.replace("U", "T")
    for sequence, molecule in ((mrna, "mrna"), (dna, "dna")):
        assert view_of(sequence, molecule, "mrna").text == mrna
        assert view_of(sequence, molecule, "dna").text == dna
        assert view_of(sequence, molecule, "cds").text == mrna
        residues = [SLOW_TABLE[mrna[at : at + 3]] for at in range(0, len(mrna) - 3, 3)]
        assert view_of(sequence, molecule, "protein").text == "".join(residues)


@calm
@given(rna)
def test_dna_and_mrna_views_change_t_and_u_and_nothing_else(mrna):
    dna = view_of(mrna, "mrna", "dna").text
    assert view_of(dna, "dna", "mrna").text == mrna
    assert re.sub("[TU]", "", dna) == re.sub("[TU]", "", mrna)


@calm
@given(st.text("ACDEFGHIKLMNPQRSTVWYX", min_size=1, max_size=30))
def test_a_protein_is_read_by_protein_backbones_alone(sequence):
    assert view_of(sequence, "protein", "protein").text == sequence
    for view in set(VIEWS) - {"protein"}:
        with pytest.raises(Unreadable, match="no-nucleotides"):
            view_of(sequence, "protein", view)


@calm
@given(coding(), st.sampled_from(VIEWS), st.data())
def test_view_positions_map_back_to_the_letters_they_stand_for(mrna, name, data):
    view = view_of(mrna, "mrna", name)
    start = data.draw(st.integers(0, len(view.text)))
    stop = data.draw(st.integers(start, len(view.text)))
    first, last = view.to_record(start, stop)
    letters = mrna[first:last]
    part = view.text[start:stop]
    if name == "protein":
        assert translate(letters) == part
    else:
        assert letters.replace("U", "T") == part.replace("U", "T")


@calm
@given(coding(), st.sampled_from(VIEWS))
def test_neighbouring_view_positions_share_no_letter_and_leave_none_out(mrna, name):
    view = view_of(mrna, "mrna", name)
    covered = [view.to_record(at, at + 1) for at in range(len(view.text))]
    assert all(before[1] == after[0] for before, after in pairwise(covered))
    whole = len(mrna) - (3 if name == "protein" else 0)  # the stop stands for no residue
    assert covered[0][0] == 0 and covered[-1][1] == whole


@calm
@given(coding(), coding(), st.sampled_from(MOLECULES[:2]), st.sampled_from(VIEWS))
def test_keys_are_equal_exactly_where_views_are(one, other, molecule, name):
    if molecule == "dna":
        one, other = one.replace("U", "T"), other.replace("U", "T")
    left, right = view_of(one, molecule, name).text, view_of(other, molecule, name).text
    assert (key_of(left) == key_of(right)) == (left == right)


@calm
@given(st.lists(codons, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_synonymous_sequences_share_their_protein_key_and_no_nucleotide_key(sense, random):
    other = [
        random.choice([codon for codon in SLOW_TABLE if SLOW_TABLE[codon] == SLOW_TABLE[each]])
        for each in sense
    ]
    assume(other != sense)
    one, two = ("AUG" + "".join(each) + "UAA" for each in (sense, other))
    keys = {
        name: [key_of(view_of(each, "mrna", name).text) for each in (one, two)] for name in VIEWS
    }
    assert keys["protein"][0] == keys["protein"][1]
    for name in set(VIEWS) - {"protein"}:
        assert keys[name][0] != keys[name][1]


@calm
@given(nearly_coding(), st.sampled_from(("protein", "cds")))
def test_a_view_that_needs_a_coding_sequence_is_had_exactly_where_the_rule_holds(mrna, name):
    assert (view_or_none(mrna, "mrna", name) is not None) == slow_is_coding(mrna)
