"""The TextCNN on packed tokens equals plain padded convolutions with a mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from probe.heads import TextCNN, max_over_windows, pad_short

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)
UNTIMED = settings(deadline=None, max_examples=40)
WIDTHS = st.sampled_from([4, 40])  # on either side of the two ways to convolve


class Folding(TextCNN):
    """A small head in float64 that folds when told, not when it pays."""

    def __init__(self, width, fold):
        super().__init__(width, 2, projection=7, channels=6)
        self.fold = fold
        self.double().eval()

    def folds(self, tokens):
        return self.fold


def packed(width, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(sum(lengths), width, dtype=torch.float64, generator=generator)
    return tokens, torch.tensor(lengths)


def plain(head, tokens, lengths):
    """Pad, project, convolve with torch's own Conv1d, mask, ReLU, max."""
    parts = tokens.split(lengths.tolist())
    # short sequences: zero tokens up to the widest kernel belong to the definition
    least = lengths.clamp(min=max(head.kernels))
    longest = int(least.max()) + 3  # padding that only the mask keeps from winning
    padded = torch.stack([functional.pad(part, (0, 0, 0, longest - len(part))) for part in parts])
    states = head.proj(padded).transpose(1, 2)  # (N, P, L)
    pooled = []
    for conv, k in zip(head.convs, head.kernels, strict=True):
        scores = conv(states)  # (N, C, windows)
        beyond = torch.arange(scores.shape[2]) > (least - k)[:, None]
        pooled.append(functional.relu(scores.masked_fill(beyond[:, None], -torch.inf)).amax(2))
    return head.fc(torch.cat(pooled, 1))


def gradients(head, outputs, tokens):
    weights = torch.arange(outputs.numel(), dtype=outputs.dtype).view_as(outputs) - 1.5
    return torch.autograd.grad((outputs * weights).sum(), [tokens, *head.parameters()])


@pytest.mark.parametrize("fold", [False, True])
@UNTIMED
@given(lengths=LENGTHS, width=WIDTHS)
def test_values_and_gradients_equal_padded_convolutions(fold, lengths, width):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        head = Folding(width, fold)
    tokens, counts = packed(width, lengths)
    tokens.requires_grad_()
    ours, reference = head(tokens, counts), plain(head, tokens, counts)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(
        gradients(head, ours, tokens), gradients(head, reference, tokens), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@UNTIMED
@given(lengths=LENGTHS, width=WIDTHS, fold=st.booleans())
def test_a_sequence_has_the_same_answer_alone_and_in_any_batch(lengths, width, fold):
    head = Folding(width, fold)
    tokens, counts = packed(width, lengths)
    together = head(tokens, counts)
    for row, part in enumerate(tokens.split(lengths)):
        alone = head(part, counts[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-12)


@UNTIMED
@given(lengths=LENGTHS)
def test_folding_changes_nothing_in_float32_but_the_last_digits(lengths):
    head = Folding(4, True).float()
    tokens, counts = packed(4, lengths)
    folded = head(tokens.float(), counts)
    head.fold = False
    torch.testing.assert_close(head(tokens.float(), counts), folded, rtol=1e-4, atol=1e-5)


def test_tokens_of_zeros_never_win_over_a_neighbour():
    # all scores of the real windows are negative: a padded window would win with the bias alone
    head = Folding(4, True)
    with torch.no_grad():
        for conv in head.convs:
            conv.bias.fill_(-1.0)
        head.proj.bias.zero_()
    tokens, counts = packed(4, [6, 40, 6])
    torch.testing.assert_close(head(tokens, counts), plain(head, tokens, counts))


def test_short_sequences_get_zero_tokens_on_their_right():
    tokens, counts = packed(3, [2, 6, 1])
    padded, lengths = pad_short(tokens, counts, 5)
    assert lengths.tolist() == [5, 6, 5]
    assert torch.equal(padded[:2], tokens[:2])
    assert torch.equal(padded[5:11], tokens[2:8])
    assert not padded[2:5].any()
    assert not padded[12:].any()


def test_batches_without_short_sequences_are_not_copied():
    tokens, counts = packed(3, [5, 6])
    assert pad_short(tokens, counts, 5)[0] is tokens


@pytest.mark.parametrize("width", [4, 40])
def test_the_gradient_of_the_window_maximum_is_its_derivative(width):
    tokens, _ = packed(width, [7, 5])
    taps = torch.randn(3, 4, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(
        lambda x, w: max_over_windows(x, w, [7, 5]),
        (tokens.requires_grad_(), taps.requires_grad_()),
    )


@pytest.mark.parametrize(("width", "crossing"), [(640, 1_800), (1_280, 3_390), (5_120, 10_000)])
def test_folding_starts_where_it_takes_fewer_operations(width, crossing):
    # ../shared/PROBING.md: "above about 1,800 tokens a batch at D=640, 3,390 at 1280, ..."
    with torch.device("meta"):
        head = TextCNN(width, 1)
    assert not head.folds(round(crossing * 0.9))
    assert head.folds(round(crossing * 1.1))


def test_narrow_tokens_always_fold():
    with torch.device("meta"):
        head = TextCNN(4, 1)
    assert head.folds(100)


def test_the_default_sizes_are_those_of_the_paper():
    head = TextCNN(640, 1)
    # Linear 640 -> 640; 3, 4 and 5 taps of 640 x 100 with biases; Linear 300 -> 1
    assert sum(each.numel() for each in head.parameters()) == 640 * 641 + 12 * 64_000 + 300 + 301
    assert head.dropout.p == 0.2
    assert {name.split(".")[0] for name in head.state_dict()} == {"proj", "convs", "fc"}


def test_the_sizes_make_the_same_head_again():
    head = TextCNN(20, 3, projection=8, channels=4, kernels=(2, 3), dropout=0.5)
    again = TextCNN(**head.sizes)
    assert again.sizes == head.sizes
    again.load_state_dict(head.state_dict())
