"""Measuring the shape of a config: numbers that are there, are finite and fit each other."""

import math

import pytest
import torch

from benchmarks.shape import batch_of, measure
from mooer_tk.config import AdapterConfig, Config, EncoderConfig, LLMConfig, LoraConfig


def test_a_small_config_is_measured(tiny_llm, toy_whisper):
    config = Config(
        encoder=EncoderConfig(model=str(toy_whisper)),
        adapter=AdapterConfig(stack=5, hidden=16),
        llm=LLMConfig(model=str(tiny_llm), dtype="float32", lora=LoraConfig(rank=4)),
    )
    row = measure(config, size=2, seconds=1.0, steps=3, hours=100.0)
    numbers = {name: value for name, value in row.items() if not isinstance(value, str)}
    assert numbers.keys() == {"positions/s", "answer tokens/s", "MFU %", "memory GiB", "hours for 100 h of speech"}
    assert all(math.isfinite(value) and value > 0 for value in numbers.values()), row
    assert row["batch"] == "2 x 1 s" and row["LLM"] == str(tiny_llm)
    # Five answer tokens a second, and more positions than those: ten of speech and the prompt.
    assert row["positions/s"] > 3 * row["answer tokens/s"]
    # 100 h at 5 answer tokens a second.
    assert row["hours for 100 h of speech"] == pytest.approx(500 / row["answer tokens/s"], rel=0.1, abs=0.06)


def test_lengths_of_a_batch_lie_around_what_is_asked_for():
    batch = batch_of(4, 2.0, 20.0, 8, torch.device("cpu"))
    assert batch.states.shape == (4, int(batch.lengths.max()), 8)
    assert float(batch.lengths.float().mean()) == pytest.approx(100, abs=1) and len(set(batch.lengths.tolist())) == 4
    assert {len(answer) for answer in batch.answers} == {10}
