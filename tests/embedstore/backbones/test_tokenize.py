"""Tokenizers equal transformers' own on the published vocabularies, and refuse what those blur.

"Trap n" is the numbered trap of the project's notes on the backbones.
"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.backbones.tokenize import (
    ESM_VOCABULARY,
    RNA_FM_VOCABULARY,
    SPLICEBERT_VOCABULARY,
    esm_tokenizer,
    nt_v1_tokenizer,
    nt_v2_tokenizer,
    rna_fm_tokenizer,
    splicebert_tokenizer,
)
from embedstore.errors import BadInput

from .conftest import FAMILIES, VIEWS, open_backbone

WORDS = ["".join(word) for word in product("ATCG", repeat=6)]
VOCABULARIES = {
    "esm2": ESM_VOCABULARY,
    "nt-v1": ("<unk>", "<pad>", "<mask>", "<cls>", *WORDS, *"ATCGN"),
    "nt-v2": ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *WORDS, *"ATCGN"),
    "rna-fm": RNA_FM_VOCABULARY,
    "splicebert": SPLICEBERT_VOCABULARY,
}
OURS = {
    "esm2": esm_tokenizer(),
    "nt-v1": nt_v1_tokenizer(),
    "nt-v2": nt_v2_tokenizer(),
    "rna-fm": rna_fm_tokenizer(),
    "splicebert": splicebert_tokenizer(),
}
LETTERS = {"esm2": "ACDEFGHIKLMNPQRSTVWYXBZUO.-", "rna-fm": "ACGUN"}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' tokenizers on vocabulary files; each a function from text to ids."""
    from transformers import BertTokenizer, EsmTokenizer

    folder = tmp_path_factory.mktemp("vocabularies")
    made = {}
    for family, vocabulary in VOCABULARIES.items():
        file = folder / f"{family}.txt"
        file.write_text("\n".join(vocabulary))
        if family == "splicebert":
            bert = BertTokenizer(str(file), do_lower_case=False)
            made[family] = lambda text, own=bert: own(" ".join(text)).input_ids
        else:
            ends = {"eos_token": None} if family.startswith("nt") else {}
            esm = EsmTokenizer(str(file), **ends)
            made[family] = lambda text, own=esm: own(text).input_ids
    return made


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_ids_are_those_of_transformers(theirs, family, data):
    letters = LETTERS.get(family, "ACGTN")
    letters = data.draw(st.sampled_from([letters, letters.replace("N", "")]))
    text = data.draw(st.text(letters, min_size=1, max_size=80))
    ours = OURS[family]
    assert [*ours.prefix, *ours.encode(text).tolist(), *ours.suffix] == theirs[family](text)
    assert ours.count(text) == len(ours.encode(text))


@pytest.mark.parametrize("tokenizer", OURS.values(), ids=OURS)
@given(data=st.data())
def test_spans_tile_the_view(tokenizer, data):
    text = data.draw(st.text("ACGN", max_size=80))
    offset, width = tokenizer.spans(text)
    assert offset.dtype == width.dtype == np.int32
    assert offset.tolist() == [0, *width.cumsum()[:-1].tolist()][: len(offset)]
    assert width.sum() == len(text)


@pytest.mark.parametrize("tokenizer", OURS.values(), ids=OURS)
@given(text=st.text("ACGN", max_size=30), more=st.text("ACGN", max_size=30))
def test_a_letter_it_does_not_know_gets_no_id_wherever_it_stands(tokenizer, text, more):
    assert (tokenizer.encode(text + more) >= 0).all()
    for unknown in "a!J":
        assert (tokenizer.encode(text + unknown + more) == -1).sum() == 1


@pytest.mark.parametrize("version", ["nt-v1", "nt-v2"])
@given(data=st.data())
def test_a_stretch_gives_whole_words_then_single_bases(version, data):
    lengths = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=5))
    text = "N".join("A" * length for length in lengths)
    counts = [length // 6 + length % 6 for length in lengths]
    assert OURS[version].count(text) == sum(counts) + len(lengths) - 1


def test_published_ids():
    assert nt_v2_tokenizer().encode("ATGATG").tolist() == [461]
    assert nt_v1_tokenizer().encode("ATGATG").tolist() == [459]
    assert nt_v1_tokenizer().encode("NATCG").tolist() == [4104, 4100, 4101, 4102, 4103]
    assert rna_fm_tokenizer().encode("ACGUN").tolist() == [4, 5, 6, 7, 18]
    assert splicebert_tokenizer().encode("NACGT").tolist() == [5, 6, 7, 8, 9]
    assert {len(vocabulary) for vocabulary in VOCABULARIES.values()} == {33, 4105, 4107, 25, 10}


def test_transformers_blurs_what_we_refuse(theirs, published):
    # Trap 1: seven residues and three, by length; transformers joins runs that it does not know
    assert len(theirs["esm2"]("MKJJJKT")) - 2 == 5 and len(theirs["esm2"]("mkt")) - 2 == 1
    backbone = open_backbone(published["esm2"])
    for text, unknown in (("MKJJJKT", "'J'"), ("mkt", "'k', 'm', 't'")):
        with pytest.raises(BadInput, match=f"cannot read {unknown} in a protein view"):
            backbone.tokenize(["MKT", text])


@pytest.mark.parametrize(
    ("family", "text"), [("nt-v1", "ACGUAC"), ("nt-v2", "AU"), ("splicebert", "ACGU")]
)
def test_u_is_refused_where_the_model_reads_t(published, family, text):
    # Trap 2: transformers would give <unk>
    with pytest.raises(BadInput, match="cannot read 'U' in a dna view"):
        open_backbone(published[family]).tokenize([text])


def test_t_is_refused_where_the_model_reads_u(published):
    # Trap 2
    with pytest.raises(BadInput, match="cannot read 'T' in a mrna view"):
        open_backbone(published["rna-fm"]).tokenize(["AUGT"])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_view_is_refused(published, family):
    with pytest.raises(BadInput, match="gives no token"):
        open_backbone(published[family]).embed([VIEWS[family][0], ""])


def test_letters_are_those_of_the_view(published):
    from embedstore.dogma import ALPHABETS

    for family in FAMILIES:
        backbone = open_backbone(published[family])
        assert set(ALPHABETS[backbone.spec.view]) <= set(backbone.tokenizer.letters)
