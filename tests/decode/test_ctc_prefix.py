"""The CTC prefix scorer against sums over all alignments, and what it does to a search."""

import itertools

import pytest
import torch

from mooer_tk.decode.ctc_prefix import CTCPrefixScorer

EOS, NEWLINE = 0, 1
TOKENS = torch.tensor([3, 5, 6])  # of a vocabulary of 8


def make(log_probs: torch.Tensor, lengths: list[int], *, beam: int = 1, weight: float = 1.0, tasks=None):
    return CTCPrefixScorer(
        log_probs,
        torch.tensor(lengths),
        tokens=TOKENS,
        eos=EOS,
        joiner=NEWLINE,
        tasks=tasks or ["asr"] * len(lengths),
        beam=beam,
        weight=weight,
    )


def random_log_probs(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, frames, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(c for c, _ in itertools.groupby(path) if c != 0)


def brute_force(log_probs: torch.Tensor, labels: tuple[int, ...], *, whole: bool) -> float:
    """log P(the transcript is `labels`), or that it begins with them, over every path."""
    total = 0.0
    for path in itertools.product(range(4), repeat=log_probs.shape[1]):
        text = collapse(path)
        if (text if whole else text[: len(labels)]) == labels:
            total += sum(log_probs[0, t, c] for t, c in enumerate(path)).exp().item()
    return float(torch.tensor(total).log())


@pytest.mark.parametrize("labels", [(1,), (1, 2), (2, 2), (3, 1, 3), (1, 1, 2)])
@pytest.mark.parametrize("padding", [0, 2])
def test_scores_add_up_to_the_sum_over_all_alignments(labels: tuple[int, ...], padding: int) -> None:
    log_probs = random_log_probs(5)
    padded = torch.cat([log_probs, torch.randn(1, padding, 4).log_softmax(-1)], 1)
    scorer = make(padded, [5])
    flat = torch.zeros(1, 8)
    flat_score = float(flat.log_softmax(-1)[0, 0])
    ids, total = torch.zeros(1, 0, dtype=torch.long), 0.0
    for label in labels:
        token = int(TOKENS[label - 1])
        total += float(scorer(ids, flat)[0, token]) - flat_score
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
        assert total == pytest.approx(brute_force(log_probs, tuple(labels[: ids.shape[1]]), whole=False), abs=1e-4)
    total += float(scorer(ids, flat)[0, EOS]) - flat_score
    assert total == pytest.approx(brute_force(log_probs, labels, whole=True), abs=1e-4)


def test_weight_and_llm_are_added() -> None:
    log_probs, llm = random_log_probs(4), torch.randn(1, 8)
    empty = torch.zeros(1, 0, dtype=torch.long)
    alone = make(log_probs, [4], weight=1.0)(empty, torch.zeros(1, 8))[0, 5] - torch.zeros(8).log_softmax(-1)[5]
    both = make(log_probs, [4], weight=0.25)(empty, llm)[0, 5]
    assert float(both) == pytest.approx(float(llm.log_softmax(-1)[0, 5] + 0.25 * alone), abs=1e-5)


@pytest.mark.parametrize(("task", "ends"), [("asr", [EOS]), ("asr_ast", [EOS, NEWLINE])])
def test_tokens_that_ctc_does_not_know_are_given_up_until_the_transcript_ends(task: str, ends: list[int]) -> None:
    scorer = make(random_log_probs(4), [4], tasks=[task])
    first = scorer(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 8))[0]
    assert first.isfinite().nonzero()[:, 0].tolist() == [*ends, 3, 5, 6]
    llm = torch.randn(1, 8)
    assert torch.equal(scorer(torch.tensor([[NEWLINE]]), llm), llm)


def test_rows_keep_to_their_own_utterance_whatever_their_order() -> None:
    """Beams swap places between steps: a prefix is found again by what it says and whose it is."""
    two = torch.cat([random_log_probs(5, 1), random_log_probs(5, 2)])
    scorer = make(two, [5, 5], beam=2)
    scorer(torch.zeros(4, 0, dtype=torch.long), torch.zeros(4, 8))
    got = scorer(torch.tensor([[3], [5], [6], [3]]), torch.zeros(4, 8))
    for row, (utt, token) in enumerate([(1, 3), (1, 5), (2, 6), (2, 3)]):
        lone = make(random_log_probs(5, utt), [5])
        lone(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 8))
        assert torch.allclose(got[row], lone(torch.tensor([[token]]), torch.zeros(1, 8))[0], atol=1e-5)


def test_other_tasks_are_left_alone() -> None:
    llm = torch.randn(2, 8)
    scorer = make(torch.cat([random_log_probs(4)] * 2), [4, 4], tasks=["asr", "ast"])
    out = scorer(torch.zeros(2, 0, dtype=torch.long), llm)
    assert torch.equal(out[1], llm[1]) and not torch.equal(out[0], llm[0])
