"""The encoder: attention against its definition, chunk masks against WeNet's rule, company, causality, streaming."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mooer_tk.u2pp.attention import RelativeAttention, sinusoids
from mooer_tk.u2pp.config import LossConfig, ModelConfig, MoEConfig
from mooer_tk.u2pp.encoder import CONTEXT, RATE, ConformerEncoder, chunk_mask, draw_chunk, encoder_frames

SMALL = ModelConfig(dim=32, heads=4, layers=3, ffn=48, kernel=5, dropout=0.0)
WITH_EXPERTS = dataclasses.replace(SMALL, moe=MoEConfig(4, 2))


def make(config: ModelConfig = SMALL) -> ConformerEncoder:
    torch.manual_seed(3)
    encoder = ConformerEncoder(config).eval()
    with torch.no_grad():
        for layer in encoder.layers:
            layer.attention.content_bias.normal_()
            layer.attention.place_bias.normal_()
    return encoder


def test_relative_attention_is_its_definition() -> None:
    """Transformer-XL, equation of section 3.3, frame by frame; the last three frames of seven are new."""
    torch.manual_seed(1)
    layer = RelativeAttention(16, 2, 0.0).eval()
    with torch.no_grad():
        layer.content_bias.normal_()
        layer.place_bias.normal_()
    x, size = torch.randn(1, 7, 16), 8
    mask = torch.ones(1, 7, 7, dtype=torch.bool).tril()
    expected = torch.zeros(1, 7, 16)
    for head in range(2):
        own = slice(head * size, (head + 1) * size)
        for i in range(7):
            scores = []
            for j in range(i + 1):
                key = (layer.key.weight[own] @ x[0, j]) + layer.key.bias[own]
                query = (layer.query.weight[own] @ x[0, i]) + layer.query.bias[own]
                place = layer.position.weight[own] @ sinusoids(torch.tensor([i - j]), 16)[0]
                scores.append((query + layer.content_bias[head]) @ key + (query + layer.place_bias[head]) @ place)
            weights = (torch.stack(scores) / math.sqrt(size)).softmax(0)
            values = [layer.value.weight[own] @ x[0, j] + layer.value.bias[own] for j in range(i + 1)]
            expected[0, i, own] = sum(w * v for w, v in zip(weights, values, strict=True))
    expected = expected @ layer.out.weight.T + layer.out.bias
    whole, _ = layer(x, mask)
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
    _, known = layer(x[:, :4], mask[:, :4, :4])
    rest, _ = layer(x[:, 4:], mask[:, 4:], known)
    torch.testing.assert_close(rest, whole[:, 4:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("chunk", "left"), [(4, -1), (4, 0), (3, 2), (1, 1), (20, -1)])
def test_chunk_masks_follow_wenets_rule(chunk: int, left: int) -> None:
    frames = 11
    mask = chunk_mask(frames, chunk, left, torch.device("cpu"))
    for i in range(frames):
        begin = max((i // chunk - left) * chunk, 0) if left >= 0 else 0
        end = min((i // chunk + 1) * chunk, frames)
        assert mask[i].nonzero().flatten().tolist() == list(range(begin, end))


def test_chunks_of_training_are_drawn_as_in_u2() -> None:
    torch.manual_seed(0)
    drawn = [draw_chunk(100, LossConfig()) for _ in range(2000)]
    sizes = [chunk for chunk, _ in drawn]
    assert all(left == -1 for _, left in drawn)
    assert set(sizes) == {-1, *range(1, 26)}
    assert 0.44 < sizes.count(-1) / len(sizes) < 0.56
    assert draw_chunk(100, LossConfig(dynamic_chunk=False)) == (-1, -1)
    assert {left for _, left in (draw_chunk(60, LossConfig(dynamic_left=True)) for _ in range(300))} > {0, 1, 2}
    assert draw_chunk(1, LossConfig()) in {(-1, -1), (2, -1)}


@pytest.mark.parametrize("config", [SMALL, WITH_EXPERTS])
@pytest.mark.parametrize("chunk", [-1, 3])
def test_an_utterance_gives_the_same_in_any_company(config: ModelConfig, chunk: int) -> None:
    encoder, features = make(config), torch.randn(3, 130, 80)
    lengths = torch.tensor([130, 77, 9])
    states, sizes, inside = encoder(features, lengths, chunk)
    assert sizes.tolist() == inside.sum(1).tolist() == encoder_frames(lengths).tolist()
    for row, length, size, one in zip(states, lengths, sizes, features, strict=True):
        alone, *_ = encoder(one[None, :length], length[None], chunk)
        torch.testing.assert_close(row[:size], alone[0], atol=1e-5, rtol=1e-4)


def test_what_comes_after_the_chunk_is_not_heard() -> None:
    encoder, features = make(), torch.randn(1, 99, 80)
    lengths = torch.tensor([99])
    before, *_ = encoder(features, lengths, 4)
    changed = features.clone()
    # Encoder frame t sees feature frames up to 4 t + 6: the second chunk ends with frame 7.
    changed[:, RATE * 7 + CONTEXT :] += 1.0
    after, *_ = encoder(changed, lengths, 4)
    torch.testing.assert_close(after[:, :8], before[:, :8], atol=1e-6, rtol=1e-5)
    assert (after[:, 8:] - before[:, 8:]).abs().max() > 1e-3


@pytest.mark.parametrize("config", [SMALL, WITH_EXPERTS])
@pytest.mark.parametrize(("chunk", "left"), [(4, -1), (4, 2), (1, 3), (16, 0)])
def test_a_stream_with_caches_gives_what_the_masked_pass_gives(config: ModelConfig, chunk: int, left: int) -> None:
    encoder, features = make(config), torch.randn(1, 203, 80)
    whole, *_ = encoder(features, torch.tensor([203]), chunk, left)
    caches, found, at = None, [], 0
    while at + CONTEXT <= 203:
        piece = features[:, at : at + RATE * (chunk - 1) + CONTEXT]
        states, caches = encoder.next_chunk(piece, caches, left * chunk)
        found.append(states)
        at += RATE * chunk
        if left >= 0:
            assert all(cache.known.shape[3] <= left * chunk for cache in caches)
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 6, 7, 8])
def test_very_short_utterances_give_a_frame(frames: int) -> None:
    states, lengths, _ = make()(torch.randn(1, frames, 80), torch.tensor([frames]))
    assert states.shape == (1, 1, 32)
    assert lengths.tolist() == [1]
    assert states.isfinite().all()
