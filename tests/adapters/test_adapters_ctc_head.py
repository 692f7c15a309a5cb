"""The CTC head over token embeddings: its loss is CTC's, its path is the best one, unknown tokens are left out."""

import itertools
import math

import pytest
import torch

from mooer_tk.adapters.ctc_head import BLANK, EmbeddingCTCHead

TOKENS = torch.tensor([3, 10, 11, 40])


@pytest.fixture
def head():
    torch.manual_seed(0)
    return EmbeddingCTCHead(TOKENS, torch.randn(50, 16))


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 9, 16, generator=generator), torch.tensor([9, 4, 7])


def test_log_probabilities_cover_the_blank_and_the_tokens_in_use(head, outputs):
    log_probs = head.log_probs(outputs[0])
    assert log_probs.shape == (3, 9, 1 + len(TOKENS))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 9))


def test_the_loss_is_ctc_of_the_log_probabilities_summed_over_the_batch(head, outputs):
    embeddings, lengths = outputs
    targets = [[1, 2, 2, 4], [3], [4, 1]]
    loss, count = head.loss(embeddings, lengths, targets)
    total = 0.0
    for row, length, target in zip(embeddings, lengths.tolist(), targets, strict=True):
        log_probs = head.log_probs(row[None, :length]).transpose(0, 1)
        sizes = torch.tensor([length]), torch.tensor([len(target)])
        total += torch.nn.functional.ctc_loss(log_probs, torch.tensor([target]), *sizes, blank=BLANK, reduction="sum")
    torch.testing.assert_close(loss, total)
    assert count == 7


def test_the_loss_is_the_sum_over_all_alignments(head):
    embeddings = torch.randn(1, 4, 16)
    loss, _ = head.loss(embeddings, torch.tensor([4]), [[2, 3]])
    log_probs = head.log_probs(embeddings)[0].detach()
    total = -math.inf
    for path in itertools.product(range(len(TOKENS) + 1), repeat=4):
        if [k for k, _ in itertools.groupby(path) if k != BLANK] == [2, 3]:
            total = math.log(math.exp(total) + math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path))))
    assert loss.item() == pytest.approx(-total, rel=1e-5)


def test_targets_that_do_not_fit_their_frames_add_nothing_and_break_nothing(head, outputs):
    embeddings, lengths = outputs
    embeddings.requires_grad_()
    loss, _ = head.loss(embeddings, lengths, [[1], [2, 2, 2, 2], [4]])
    alone, _ = head.loss(embeddings[[0, 2]], lengths[[0, 2]], [[1], [4]])
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert torch.isfinite(embeddings.grad).all() and (embeddings.grad[1] == 0).all()


def test_greedy_merges_repeats_drops_blanks_and_stops_at_the_length(head):
    path = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 4, 3], [2, 0, 0, 2, 1, 1, 1, 1, 1], [0] * 9])
    head.log_probs = lambda _: torch.nn.functional.one_hot(path, 5).float().log_softmax(-1)
    lengths = torch.tensor([8, 4, 9])
    assert head.greedy(torch.zeros(3, 9, 16), lengths) == [[3, 3, 10, 40], [10, 10], []]


def test_tokens_that_are_not_in_use_are_left_out_of_the_targets(head):
    assert head.classes_of([10, 3, 40, 3]) == [2, 1, 4, 1]
    assert head.classes_of([0, 10, 12, 49, 41, 11]) == [2, 3]
    assert head.classes_of([]) == [] == head.classes_of([5])


def test_the_embedding_table_is_frozen_and_the_blank_learns(head, outputs):
    rows = head.rows.clone()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    assert not any(p is head.rows for p in head.parameters())
    blank = head.blank.detach().clone()
    head.loss(*outputs, [[1, 2], [3], [4]])[0].backward()
    optimizer.step()
    torch.testing.assert_close(head.rows, rows, rtol=0, atol=0)
    assert not torch.equal(head.blank, blank)


def test_it_can_learn_an_alignment(head):
    embeddings = torch.randn(1, 8, 16).requires_grad_()
    optimizer = torch.optim.Adam([embeddings, *head.parameters()], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        head.loss(embeddings, torch.tensor([8]), [[2, 2, 4]])[0].backward()
        optimizer.step()
    assert head.greedy(embeddings, torch.tensor([8])) == [[10, 10, 40]]
