"""Streams: what is heard equals the chunked pass, and nothing that arrives makes them crash or grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.errors import UserError
from mooer_tk.u2pp.recogniser import Recogniser
from mooer_tk.u2pp.stream import Heard, Stream

# A model that never pauses and whose segments never end, so that one segment holds all.
ENDLESS = {"pause": 1e9, "longest": 1e9}


@pytest.fixture
def recogniser(saved_model: Callable[..., Path]) -> Callable[..., Recogniser]:
    """recogniser("decode.chunk=4", ..., experts=4)"""

    def make(*overrides: str, experts: int = 0, modes: tuple[str, ...] = ("ctc_prefix_beam",)) -> Recogniser:
        return Recogniser(saved_model(experts, modes=modes), list(overrides))

    return make


def feed(stream: Stream, samples: np.ndarray, size: int) -> list[Heard]:
    heard = [one for i in range(0, len(samples), size) for one in stream.accept(samples[i : i + size])]
    return heard + stream.finish()


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("modes", [("ctc_prefix_beam",), ("attention_rescoring",)])
def test_a_stream_ends_with_what_the_chunked_pass_finds(
    recogniser: Callable[..., Recogniser], speech: np.ndarray, experts: int, modes: tuple[str, ...]
) -> None:
    model = recogniser("decode.chunk=4", "decode.left_chunks=3", experts=experts, modes=modes)
    heard = feed(Stream(model, **ENDLESS), speech, 1600)
    assert heard[-1].final
    assert heard[-1].text == model.texts([speech])[0] != ""
    assert heard[-1].end == pytest.approx(len(speech) / SAMPLE_RATE, abs=0.1)
    # Partial results come while the audio arrives, each for more of it.
    ends = [one.end for one in heard[:-1]]
    assert len(ends) > 3
    assert ends == sorted(set(ends))
    assert not any(one.final for one in heard[:-1])


def test_the_size_of_the_pieces_does_not_matter(recogniser: Callable[..., Recogniser], speech: np.ndarray) -> None:
    model, short = recogniser("decode.chunk=4"), speech[: SAMPLE_RATE // 2]
    whole = feed(Stream(model, **ENDLESS), short, len(short))
    assert whole
    for size in (1, 37, 161, 4000):
        assert feed(Stream(model, **ENDLESS), short, size)[-1] == whole[-1]


def test_nothing_comes_of_nothing(recogniser: Callable[..., Recogniser]) -> None:
    stream = Stream(recogniser())
    assert stream.accept(np.zeros(0, dtype=np.float32)) == []
    assert stream.finish() == []
    assert stream.accept(np.zeros(1, dtype=np.float32)) == []
    assert stream.finish() == []
    assert stream.finish() == []


def test_an_abrupt_end_loses_no_frame(recogniser: Callable[..., Recogniser], speech: np.ndarray) -> None:
    model = recogniser("decode.chunk=8")
    for length in (399, 400, 1500, 5_003, 8_001):
        cut = speech[4000 : 4000 + length]
        heard = feed(Stream(model, **ENDLESS), cut, 800)
        if length < 400:
            # Not even one frame.
            assert heard == []
        else:
            assert "".join(one.text for one in heard if one.final) == model.texts([cut])[0]


def test_what_was_heard_is_not_heard_again_at_the_end(
    recogniser: Callable[..., Recogniser], speech: np.ndarray
) -> None:
    """Chunks overlap by three features: behind a final result they are all that is left, and no frame."""
    model = recogniser("decode.chunk=4")
    stream = Stream(model, pause=1e9, longest=0.64)
    # 67 features are 16 frames, which end the segment.
    heard = stream.accept(speech[: 400 + 66 * 160])
    assert heard[-1].final and stream.frames == 16 and len(stream.features) == 3
    assert stream.finish() == [] and stream.frames == 16


def test_a_stream_can_be_used_again_after_its_end(recogniser: Callable[..., Recogniser], speech: np.ndarray) -> None:
    stream = Stream(recogniser("decode.chunk=4"), **ENDLESS)
    first, second = (feed(stream, speech, 3200) for _ in range(2))
    assert [one.text for one in first] == [one.text for one in second]
    assert second[-1].begin == pytest.approx(first[-1].end, abs=0.05)


def test_silence_is_no_result_and_ends_a_segment(saved_model: Callable[..., Path], speech: np.ndarray) -> None:
    """A model whose blank wins wherever it is quiet: then a pause ends what was said, and goes by unheard itself."""
    model = Recogniser(saved_model(modes=("ctc_prefix_beam",)), ["decode.chunk=4"])
    network = model.model

    def by_loudness(states: torch.Tensor) -> torch.Tensor:
        """Blank in silence, the letters of a word in speech; the loudness is smuggled through the states."""
        loud = states[..., 0] > 0
        scores = torch.full((*states.shape[:2], network.ends + 1), -20.0)
        scores[..., 0] = torch.where(loud, -20.0, -0.01)
        scores[..., 3] = torch.where(loud, -0.01, -20.0)
        return scores

    def next_chunk(features: torch.Tensor, caches: object, left: int) -> tuple[torch.Tensor, list]:
        frames = (features.shape[1] - 3) // 4
        energy = torch.stack([features[0, 4 * i : 4 * i + 7].mean() for i in range(frames)])
        return (energy - 5.0)[None, :, None].expand(1, frames, 32), []

    network.log_probs, network.encoder.next_chunk = by_loudness, next_chunk
    quiet = np.zeros(2 * SAMPLE_RATE, dtype=np.float32)
    loud = np.random.default_rng(0).normal(0, 0.3, SAMPLE_RATE // 2).astype(np.float32)
    stream = Stream(model, pause=0.8, longest=20.0)
    heard = feed(stream, np.concatenate([quiet, loud, quiet, loud, quiet, quiet]), 1600)
    finals = [one for one in heard if one.final]
    assert [one.text for one in finals] == ["a", "a"]
    assert finals[0].begin <= 2.0 <= finals[0].end
    # Pauses of 0.8 s go by unheard: a segment starts with the rest of the last one.
    assert 3.7 <= finals[1].begin <= 4.5 <= finals[1].end
    assert not [one for one in heard if not one.text]


def test_ten_minutes_without_a_pause_stay_bounded(recogniser: Callable[..., Recogniser]) -> None:
    model = recogniser("decode.chunk=16", "decode.left_chunks=4", "decode.beam=2")
    stream = Stream(model, pause=1e9, longest=20.0)
    rng, most, finals = np.random.default_rng(1), 0, []
    for _ in range(600):
        finals += [one for one in stream.accept(rng.normal(0, 0.1, SAMPLE_RATE).astype(np.float32)) if one.final]
        kept = [stream.samples.size, stream.features.numel(), sum(one.numel() for one in stream.states)]
        kept += [cache.known.numel() + cache.past.numel() for cache in stream.caches or []]
        kept += [len(prefix) for prefix in stream.beam.prefixes]
        most = max(most, sum(kept))
    finals += [one for one in stream.finish() if one.final]
    # 20 seconds of states (500 x 32), a chunk of features, four chunks of two layers' caches, two texts.
    assert most < 500 * 32 + 67 * 80 + 2 * (2 * 64 * 32 + 4 * 32) + 2 * 500 + 16_000
    assert len(finals) >= 29
    assert all(one.end - one.begin <= 20.7 for one in finals)
    assert finals[-1].end == pytest.approx(600, abs=1)


def test_samples_that_are_no_numbers_are_refused(recogniser: Callable[..., Recogniser]) -> None:
    stream = Stream(recogniser())
    with pytest.raises(UserError, match="no numbers"):
        stream.accept(np.array([0.0, np.nan], dtype=np.float32))
