"""Speed of U2++ models, dense and with experts: the layer, real-time factors, and what a stream waits for.

Weights are random: speed does not depend on them, and random routers spread frames about as evenly as trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mooer_tk.moe.layer import FeedForward, MoE, active
from mooer_tk.u2pp.config import ModelConfig, MoEConfig
from mooer_tk.u2pp.encoder import CONTEXT, RATE
from mooer_tk.u2pp.model import U2pp
from mooer_tk.u2pp.search import ctc_greedy

UNITS = 5000
CHUNK = 16
SECONDS = 10.0
# WeNet's AISHELL-1 shape; its feed-forward layers as 16 experts of half the width, two of them for a frame; and a dense
# model of as many parameters as that has in all.
SMALL = ModelConfig(kernel=15)
EXPERTS = replace(SMALL, ffn=1024, decoder_ffn=1024, moe=MoEConfig(16, 2))
LARGE = ModelConfig(dim=640, heads=10, layers=20, ffn=2560, kernel=15, decoder_heads=10, decoder_ffn=2048)
SHAPES = {"dense-small": SMALL, "MoE": EXPERTS, "dense-large": LARGE}


def layer(frames: int = 1600, rounds: int = 7) -> list[dict[str, Any]]:
    """The layer alone, forward and backward over `frames` frames: dense, grouped, and every expert over every frame."""
    dense = FeedForward(SMALL.dim, SMALL.ffn, 0.0, nn.SiLU())
    mixture, masked = layers(SMALL.dim, SMALL.ffn // 2, 16, 2)
    x = torch.randn(1, frames, SMALL.dim)
    ways = {
        "dense": dense,
        "16 experts of half the width, 2 for a frame": mixture,
        "the same, every expert over every frame": masked,
    }
    seconds = _best({name: lambda way=way: way(x).square().sum().backward() for name, way in ways.items()}, rounds)
    return [
        {"layer": name, "ms": round(1000 * one, 1), "ratio": round(one / seconds["dense"], 2)}
        for name, one in seconds.items()
    ]


def layers(dim: int, hidden: int, experts: int, top_k: int) -> tuple[MoE, Callable[[Tensor], Tensor]]:
    """A mixture, and the naive way to compute it: every expert over every frame, by gates that are mostly 0."""
    mixture = MoE(dim, hidden, 0.0, nn.SiLU(), experts=experts, top_k=top_k)

    def masked(x: Tensor) -> Tensor:
        """Frames (1, T, D) -> (T, D)."""
        chosen, weights = mixture.route(x[0])
        gates = torch.zeros(x.shape[1], experts).scatter(1, chosen, weights)
        return sum(gates[:, i, None] * expert(x[0]) for i, expert in enumerate(mixture.experts))

    return mixture, masked


@torch.inference_mode()
def real_time_factor(rounds: int = 3) -> list[dict[str, Any]]:
    """Seconds of work for a second of speech (features to CTC's best path), for batches of utterances of 10 s."""
    models = _models()
    rows = []
    for batch in (1, 16):
        features, lengths = torch.randn(batch, round(100 * SECONDS), 80), torch.full((batch,), round(100 * SECONDS))
        for way in ("full context", f"chunks of {CHUNK}"):
            jobs = {name: _job(model, features, lengths, way != "full context") for name, model in models.items()}
            seconds = _best(jobs, rounds)
            for name, model in models.items():
                rows.append(
                    {
                        "model": name,
                        "parameters M": round(_size(model) / 1e6, 1),
                        "active M": round(active(model) / 1e6, 1),
                        "batch": batch,
                        "heard": way,
                        "RTF": round(seconds[name] / (batch * SECONDS), 4),
                        "ratio": round(seconds[name] / seconds["dense-small"], 2),
                    }
                )
    return rows


@torch.inference_mode()
def latency() -> list[dict[str, Any]]:
    """One stream with caches, chunk by chunk: work for each, and when the first unit can be there at the earliest."""
    rows = []
    features = torch.randn(1, round(100 * 4 * SECONDS), 80)
    for name, model in _models().items():
        times = _stream(model, features)[1:]
        # The chunk's own frames and the look-ahead of its convolutions must have been spoken.
        spoken = 10 * (RATE * (CHUNK - 1) + CONTEXT) + 15
        rows.append(
            {
                "model": name,
                "chunk": f"{CHUNK} frames, {40 * CHUNK} ms",
                "ms a chunk": round(1000 * float(np.mean(times)), 1),
                "95th percentile": round(1000 * float(np.percentile(times, 95)), 1),
                "first unit ms": round(spoken + 1000 * float(np.mean(times))),
            }
        )
    return rows


def _models() -> dict[str, U2pp]:
    torch.manual_seed(0)
    return {name: U2pp(shape, UNITS).eval() for name, shape in SHAPES.items()}


def _job(model: U2pp, features: Tensor, lengths: Tensor, streaming: bool) -> Callable[[], object]:
    """A batch of one in chunks is a real stream with caches; a larger one goes through the masked pass."""
    if streaming and len(features) == 1:
        return lambda: _stream(model, features)
    chunk = CHUNK if streaming else -1

    def work() -> None:
        states, sizes, _ = model.encoder(features, lengths, chunk)
        for row, size in zip(model.log_probs(states), sizes.tolist(), strict=True):
            ctc_greedy(row[:size])

    return work


def _stream(model: U2pp, features: Tensor) -> list[float]:
    """Seconds of each chunk."""
    caches, times = None, []
    for at in range(0, features.shape[1] - CONTEXT + 1, RATE * CHUNK):
        begun = time.perf_counter()
        piece = features[:, at : at + RATE * (CHUNK - 1) + CONTEXT]
        states, caches = model.encoder.next_chunk(piece, caches, -1)
        ctc_greedy(model.log_probs(states)[0])
        times.append(time.perf_counter() - begun)
    return times


def _best(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The best time of each job over rounds in which all take turns; the first round warms up."""
    best = dict.fromkeys(jobs, float("inf"))
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            begun = time.perf_counter()
            job()
            if turn:
                best[name] = min(best[name], time.perf_counter() - begun)
    return best


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
