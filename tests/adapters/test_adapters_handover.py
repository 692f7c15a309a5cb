"""What the LLM is fed: token-like vectors, one a CTC segment, whatever stands beside an utterance in its batch."""

import pytest
import torch

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.handover import HANDOVERS, Handover
from mooer_tk.errors import UserError

TOKENS = torch.arange(5, 25)


@pytest.fixture
def table():
    return torch.randn(60, 16, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture
def head(table):
    return EmbeddingCTCHead(TOKENS, table)


def say(head, paths, sure=20.0):
    """Make the head hear these classes, a list of them an utterance."""
    longest = max(map(len, paths))
    rows = [path + [0] * (longest - len(path)) for path in paths]
    logits = torch.nn.functional.one_hot(torch.tensor(rows), len(TOKENS) + 1).float() * sure
    head.log_probs = lambda _: logits.log_softmax(-1)
    return torch.zeros(len(paths), longest, 16), torch.tensor([len(path) for path in paths])


def test_blanks_are_dropped_and_repeats_merged_to_the_tokens_embeddings(table, head):
    inputs = say(head, [[0, 3, 3, 0, 3, 4, 4, 4, 0, 1]])
    vectors, lengths = Handover("posterior", table, head)(*inputs)
    assert lengths.tolist() == [4]
    # Class i is token i - 1 of those in use.
    torch.testing.assert_close(vectors[0], table[TOKENS[[2, 2, 3, 0]]], atol=1e-5, rtol=0)


def test_compression_gives_the_mean_output_of_each_segment(table, head):
    outputs, lengths = say(head, [[0, 3, 3, 0, 3, 4, 0, 1]])
    outputs = torch.arange(8.0)[None, :, None].expand(1, 8, 16)
    vectors, sizes = Handover("compress", table, head)(outputs, lengths)
    assert sizes.tolist() == [4]
    torch.testing.assert_close(vectors[0, :, 0], torch.tensor([1.5, 4.0, 5.0, 7.0]), atol=1e-4, rtol=0)


def test_an_utterance_of_blanks_alone_gives_one_finite_vector(table, head):
    inputs = say(head, [[0, 0, 0, 0], [0, 2, 0, 3]], sure=9.0)
    vectors, lengths = Handover("posterior", table, head)(*inputs)
    assert lengths.tolist() == [1, 2]
    assert torch.isfinite(vectors).all()
    assert vectors[0, 0].norm() <= head.rows.norm(dim=-1).max()


def test_every_vector_is_a_mean_of_token_embeddings(table, head):
    torch.manual_seed(1)
    outputs, lengths = torch.randn(4, 30, 16) * 3, torch.tensor([30, 12, 25, 1])
    vectors, sizes = Handover("posterior", table, head)(outputs, lengths)
    rows = head.rows
    for row, size in zip(vectors, sizes.tolist(), strict=True):
        assert 1 <= size <= 30
        # In a convex hull no coordinate is outside the corners' and no vector is longer than the longest.
        assert (row[:size] <= rows.max(0).values + 1e-5).all() and (row[:size] >= rows.min(0).values - 1e-5).all()
        assert (row[:size].norm(dim=-1) <= rows.norm(dim=-1).max() + 1e-5).all()


@pytest.mark.parametrize("kind", HANDOVERS)
def test_padding_never_changes_what_an_utterance_gives(table, head, kind):
    torch.manual_seed(2)
    handover = Handover(kind, table, head)
    utterances = [torch.randn(frames, 16) * 3 for frames in (1, 4, 15, 30)]
    lengths = torch.tensor([len(one) for one in utterances])
    padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True, padding_value=7.0)
    together, sizes = handover(padded, lengths)
    assert together.shape[1] == sizes.max()
    for row, size, one in zip(together, sizes.tolist(), utterances, strict=True):
        alone, (own,) = handover(one[None], torch.tensor([len(one)]))
        assert own == size
        torch.testing.assert_close(row[:size], alone[0], atol=1e-5, rtol=1e-5)


def test_norm_gives_every_vector_the_tables_mean_length_and_keeps_its_direction(table):
    outputs, lengths = torch.randn(2, 5, 16), torch.tensor([5, 3])
    vectors, same = Handover("norm", table, None)(outputs, lengths)
    torch.testing.assert_close(vectors.norm(dim=-1), table.norm(dim=-1).mean().expand(2, 5))
    torch.testing.assert_close(torch.cosine_similarity(vectors, outputs, dim=-1), torch.ones(2, 5))
    assert same is lengths


def test_raw_is_the_adapters_output(table):
    outputs, lengths = torch.randn(2, 5, 16), torch.tensor([5, 3])
    vectors, same = Handover("raw", table, None)(outputs, lengths)
    assert vectors is outputs and same is lengths


@pytest.mark.parametrize("kind", HANDOVERS)
def test_gradients_pass_through_to_the_adapter(table, head, kind):
    torch.manual_seed(3)
    outputs = (torch.randn(2, 12, 16) * 3).requires_grad_()
    vectors, _ = Handover(kind, table, head)(outputs, torch.tensor([12, 7]))
    vectors.square().sum().backward()
    assert torch.isfinite(outputs.grad).all() and outputs.grad[0].abs().sum() > 0
    if kind == "posterior":
        assert (outputs.grad[1, 7:] == 0).all(), "the padding learns"


def test_unknown_kinds_and_a_missing_head_are_user_errors(table):
    with pytest.raises(UserError, match=r"'posterier'.*'posterior'"):
        Handover("posterier", table, None)
    with pytest.raises(UserError, match="stage 4"):
        Handover("posterior", table, None)
