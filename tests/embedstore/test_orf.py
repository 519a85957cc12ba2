"""The longest open reading frame is what brute force finds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.dogma import Coding, check_coding
from embedstore.genetic_codes import genetic_code
from embedstore.orf import longest_orf

calm = settings(deadline=None, max_examples=300)


def brute_force(mrna, coding):
    """Every start codon in turn, read until the first stop in its frame."""
    code = genetic_code(coding.code)
    stops = set(code.stop_codons) - ({"UGA"} if coding.selenocysteine else set())
    found = []
    for start in range(len(mrna) - 2):
        if mrna[start : start + 3] not in code.start_codons:
            continue
        for at in range(start + 3, len(mrna) - 2, 3):
            if mrna[at : at + 3] in stops:
                found.append((start, at + 3))
                break
    return min(found, key=lambda each: (each[0] - each[1], each[0]), default=None)


@calm
@given(
    st.text("ACGUN", max_size=200)
    | st.lists(st.sampled_from(["AUG", "UAA", "UGA", "G"])).map("".join),
    st.sampled_from([None, 1, 2, 11, 12]),
    st.booleans(),
)
def test_it_is_what_brute_force_finds(mrna, number, selenocysteine):
    coding = Coding(code=number, selenocysteine=selenocysteine)
    found = longest_orf(mrna, coding)
    assert found == brute_force(mrna, coding)
    if found is not None:
        check_coding(mrna, Coding(*found, code=number, selenocysteine=selenocysteine))


def test_of_two_as_long_the_first_and_of_nested_the_outer():
    assert longest_orf("CAUGGCUUAACCAUGGCUUAA") == (1, 10)
    assert longest_orf("AUGAUGAUGUAA") == (0, 12)
    assert longest_orf("AUGGCUGCU") is None and longest_orf("") is None
