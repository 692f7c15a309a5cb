"""Utterances per second from shards against single files, and the share of padding in the recipe's batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipe import Recipe
from mooer_tk.bin.main import main
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.audio import load_audio
from mooer_tk.llm.causal_lm import load_llm
from mooer_tk.llm.prompt import named_prompt
from mooer_tk.train.batches import plan_epoch

UTTS = 400
ROUNDS = 5


def measure(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    """Read the same utterances in the same shuffled order, from files, audio shards and cached states, in turns."""
    data = recipe.folder / "data" / "en" / "train"
    if main(["states", str(data), str(out / "audio"), "--audio"]):
        raise SystemExit(1)
    audio, states = ShardReader(out / "audio"), ShardReader(recipe.folder / "dump" / "en" / "train")
    wavs = recipe.wavs()
    order = np.random.default_rng(0).permutation(sorted(states))[:UTTS].tolist()
    ways: dict[str, Callable[[str], object]] = {
        "single files": lambda utt: load_audio(wavs[utt]),
        "audio shards (FLAC in tar)": lambda utt: audio[utt],
        "cached states in shards": lambda utt: np.array(states[utt], dtype=np.float32),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, read in ways.items():
            begun = time.perf_counter()
            for utt in order:
                read(utt)
            best[name] = min(best[name], time.perf_counter() - begun)
    first = best["single files"]
    return [
        {"read from": name, "utterances/s": round(len(order) / seconds), "ratio": round(first / seconds, 1)}
        for name, seconds in best.items()
    ]


def padding(recipe: Recipe) -> list[dict[str, Any]]:
    """Padding of an epoch: batches of eight in shuffled order, and ours."""
    config = recipe.config
    _, tokenizer = load_llm(config.llm)
    examples = recipe.examples(recipe.sources(), tokenizer)
    prompt = named_prompt(config.prompt)
    around = max(sum(map(len, prompt.around(task, tokenizer))) for task in ("asr", "ast", "asr_ast"))
    stack = config.adapter.stack
    sizes = np.array([example.positions(stack, around) for example in examples])
    ours = plan_epoch(examples, config.train.data, stack=stack, prompt=around, seed=0, epoch=0)
    order = np.random.default_rng(0).permutation(len(examples))
    eights = [order[i : i + 8] for i in range(0, len(order), 8)]
    shares = {
        name: 1 - sum(sizes[b].sum() for b in plan) / sum(sizes[b].max() * len(b) for b in plan)
        for name, plan in (("eight in shuffled order", eights), ("buckets and a position budget", ours))
    }
    return [{"batches": name, "padding %": round(100 * share, 2)} for name, share in shares.items()]
