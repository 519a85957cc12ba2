"""The registry is complete and its entries are well formed."""

import re

import pytest

from embedstore.datasets import DATA_SETS, find_data_set
from embedstore.errors import UnknownDataSet

ENTRIES = list(DATA_SETS.values())
FORMS = [form for entry in ENTRIES for part in entry.parts for form in part.forms]
PINNED = re.compile(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/.+")


def test_the_papers_sets_and_those_with_free_licences_are_registered():
    assert set(DATA_SETS) == {
        "openvaccine",
        "openvaccine-train",
        "icodon-test",
        "icodon-train",
        "yeast-expression",
        "mrfp",
        "ecoli-abundance",
        "ecoli-six-classes",
        "fungal-expression",
        "mrna-stability",
        "ecoli-three-classes",
    }


def test_every_file_has_a_checksum_and_urls_are_pinned_to_a_commit():
    assert len(FORMS) > 10
    for form in FORMS:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|git-blob:[0-9a-f]{40}", form.checksum)
        if form.url and "springer" not in form.url:
            assert PINNED.fullmatch(form.url), form.url
            assert form.checksum.startswith("git-blob:")
    for values in zip(*((form.name, form.checksum) for form in FORMS), strict=True):
        assert len(set(values)) == len(FORMS)  # no name and no content twice


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_says_what_it_is_and_what_is_asked(entry):
    assert entry.title and entry.about.endswith(".") and entry.source.startswith("https://")
    assert entry.licence.url.startswith("https://") and entry.licence.asks.endswith(".")
    assert entry.target.metric == (
        "accuracy" if entry.target.kind == "classification" else "spearman"
    )
    assert entry.preset.max_nt in (None, 1000)
    assert len({part.name for part in entry.parts}) == len(entry.parts)


def test_only_the_non_commercial_sets_have_a_licence_to_accept():
    asked = {entry.name for entry in ENTRIES if entry.licence.must_accept}
    assert asked == {"fungal-expression", "mrna-stability", "ecoli-three-classes"}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownDataSet, match=r"no data set 'icodon'.*icodon-test, icodon-train"):
        find_data_set("icodon")
