"""The searches, against all there is to find in small spaces."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch

from mooer_tk.u2pp.config import ModelConfig, SearchConfig
from mooer_tk.u2pp.model import U2pp
from mooer_tk.u2pp.search import Found, PrefixBeam, attention, ctc_greedy, ctc_prefix_beam, rescore, search

SMALL = ModelConfig(dim=16, heads=2, layers=1, ffn=16, kernel=3, decoder_layers=2, right_layers=1, decoder_ffn=16)


def make(units: int = 6) -> U2pp:
    torch.manual_seed(4)
    model = U2pp(SMALL, units).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def all_paths(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Every text with the sum over its paths."""
    total: dict[tuple[int, ...], float] = defaultdict(float)
    frames, units = log_probs.shape
    for path in itertools.product(range(units), repeat=frames):
        text = tuple(unit for unit, _ in itertools.groupby(path) if unit)
        total[text] += math.exp(sum(log_probs[t, unit].item() for t, unit in enumerate(path)))
    return {text: math.log(mass) for text, mass in total.items()}


def test_a_wide_prefix_beam_finds_the_sum_over_all_paths() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(5, 4).log_softmax(-1)
    expected = all_paths(log_probs)
    found = ctc_prefix_beam(log_probs, 10_000)
    assert {one.tokens for one in found} == set(expected)
    for one in found:
        assert one.score == pytest.approx(expected[one.tokens], abs=1e-5)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_the_prefix_beam_takes_frames_in_any_pieces() -> None:
    torch.manual_seed(1)
    log_probs = torch.randn(12, 6).log_softmax(-1)
    pieces = PrefixBeam(4)
    for one in (log_probs[:1], log_probs[1:7], log_probs[7:7], log_probs[7:]):
        pieces.advance(one)
    assert pieces.best() == ctc_prefix_beam(log_probs, 4)
    assert len(pieces.best()) == 4


def test_greedy_merges_repeats_and_drops_blanks() -> None:
    path = [0, 3, 3, 0, 3, 2, 2, 0]
    log_probs = torch.full((len(path), 4), -9.0)
    log_probs[range(len(path)), path] = -0.5
    assert ctc_greedy(log_probs) == Found((3, 3, 2), -0.5 * len(path))


def teacher_forced(model: U2pp, states: torch.Tensor, tokens: tuple[int, ...], side: str) -> float:
    """Log-probability of a text and its end, token by token, without a cache."""
    heard, score, given = torch.ones(1, len(states), dtype=torch.bool), 0.0, [model.ends]
    for token in (*tokens, model.ends):
        inputs, lengths = torch.tensor([given]), torch.tensor([len(given)])
        logits, _ = getattr(model, side)(inputs, lengths, states[None], heard)
        score += logits[0, -1].log_softmax(-1)[token].item()
        given.append(token)
    return score


@torch.no_grad()
def test_a_wide_attention_search_finds_the_best_text_there_is() -> None:
    model, states = make(), torch.randn(4, 16)
    texts = [text for length in range(4) for text in itertools.product((2, 3, 4), repeat=length)]
    expected = {text: teacher_forced(model, states, text, "left") for text in texts}
    found = attention(model, states, SearchConfig(beam=200))
    best = sorted(expected, key=lambda text: -expected[text])[:5]
    assert [one.tokens for one in found[:5]] == best
    for one in found[:5]:
        assert one.score == pytest.approx(expected[one.tokens], abs=1e-4)


@torch.no_grad()
def test_rescoring_adds_up_both_decoders_and_the_ctc() -> None:
    model, states = make(), torch.randn(5, 16)
    nbest = [Found((2, 3), -1.0), Found((), -2.0), Found((4, 4, 2), -1.5)]
    config = SearchConfig(ctc_weight=0.5, reverse_weight=0.3)
    for one in rescore(model, states, nbest, config):
        (ctc,) = [other.score for other in nbest if other.tokens == one.tokens]
        left = teacher_forced(model, states, one.tokens, "left")
        right = teacher_forced(model, states, one.tokens[::-1], "right")
        assert one.score == pytest.approx(0.7 * left + 0.3 * right + 0.5 * ctc, abs=1e-4)


def test_all_modes_of_a_batch_and_of_its_utterances_alone_agree() -> None:
    model, features = make(), torch.randn(2, 90, 80)
    config = SearchConfig(modes=["ctc_greedy", "ctc_prefix_beam", "attention", "attention_rescoring"], beam=4)
    lengths = torch.tensor([90, 41])
    both = search(model, features, lengths, config)
    for found, one, length in zip(both, features, lengths, strict=True):
        (alone,) = search(model, one[None, :length], length[None], config)
        assert {mode: some[0].tokens for mode, some in found.items()} == {
            m: some[0].tokens for m, some in alone.items()
        }
    assert set(both[0]) == set(config.modes)
