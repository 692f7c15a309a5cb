"""The benchmark of recognisers compares what it says it compares, and gives numbers."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import recognisers
from mooer_tk.moe.layer import active
from mooer_tk.u2pp.config import ModelConfig, MoEConfig
from mooer_tk.u2pp.model import U2pp


def test_as_many_parameters_are_active_and_as_many_there_in_all() -> None:
    with torch.device("meta"):
        models = {name: U2pp(shape, recognisers.UNITS) for name, shape in recognisers.SHAPES.items()}
    size = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert active(models["MoE"]) == pytest.approx(size["dense-small"], rel=0.01)
    assert size["MoE"] == pytest.approx(size["dense-large"], rel=0.1)
    assert size["MoE"] > 4 * size["dense-small"]


def test_all_tables_have_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ModelConfig(dim=16, heads=2, layers=1, ffn=16, kernel=3, decoder_layers=1, right_layers=1, decoder_ffn=16)
    experts = ModelConfig(**{**vars(tiny), "ffn": 8, "moe": MoEConfig(4, 2)})
    monkeypatch.setattr(recognisers, "SHAPES", {"dense-small": tiny, "MoE": experts, "dense-large": tiny})
    monkeypatch.setattr(recognisers, "SECONDS", 2.0)
    rows = recognisers.real_time_factor(rounds=1)
    assert len(rows) == 3 * 2 * 2
    assert all(row["RTF"] > 0 and math.isfinite(row["ratio"]) for row in rows)
    assert {row["ratio"] for row in rows if row["model"] == "dense-small"} == {1.0}
    assert [row["model"] for row in recognisers.latency()] == ["dense-small", "MoE", "dense-large"]
    # The first unit waits for 16 frames of 40 ms, the convolutions' look-ahead, and the work.
    assert all(row["first unit ms"] >= 670 for row in recognisers.latency())
    ratios = [row["ratio"] for row in recognisers.layer(frames=32, rounds=1)]
    assert ratios[0] == 1.0
    assert all(ratio > 0 for ratio in ratios)


def test_the_naive_dispatch_computes_the_same() -> None:
    torch.manual_seed(0)
    mixture, masked = recognisers.layers(16, 32, 4, 2)
    x = torch.randn(1, 9, 16)
    torch.testing.assert_close(mixture(x)[0], masked(x), atol=1e-5, rtol=1e-4)
