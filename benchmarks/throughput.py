"""Answer tokens per second: MooER's published loop, and what each habit of ours brings, side by side in one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.plain_loop import Habits, PlainLoop
from benchmarks.recipe import Recipe
from mooer_tk.encoders.table import build_encoder
from mooer_tk.progress import log
from mooer_tk.train.batches import Reader, plan_epoch
from mooer_tk.train.examples import Example

SEED = 7
PACK = 400


def measure(recipe: Recipe, out: Path, tokens: int) -> list[dict[str, Any]]:
    """Train each variant on the first `tokens` answer tokens that it meets; rows of a table.

    All start from the same weights and end after as many tokens, so that their dev losses can be compared too.
    """
    model = recipe.model()
    tokenizer = model.tokenizer
    examples = [e for e in recipe.examples(recipe.sources(), tokenizer) if e.task != "asr_ast"]
    dev = recipe.examples([recipe.dev(out)], tokenizer)
    config = recipe.config
    prompt = max(sum(map(len, model.prompt.around(task, tokenizer))) for task in ("asr", "ast"))
    for example in examples:
        example.weight = 1.0
    plan = plan_epoch(examples, config.train.data, stack=model.adapter.rate, prompt=prompt, seed=SEED, epoch=0)
    buckets = tuple(map(tuple, plan))
    variants = {
        "plain loop (MooER's habits)": Habits(),
        "+ cached encoder states": Habits(encodes=False),
        "+ LM head on answers only": Habits(encodes=False, all_logits=False),
        "+ buckets and a position budget": Habits(encodes=False, all_logits=False, plan=buckets),
        "+ packing": Habits(encodes=False, all_logits=False, plan=buckets, pack=PACK),
        "+ frozen weights in bfloat16": Habits(False, False, buckets, PACK, "bfloat16"),
    }
    encoder, wavs, rows = build_encoder(config.encoder), recipe.wavs(), []
    for name, habits in variants.items():
        model = recipe.model(habits.dtype)
        loop = PlainLoop(model, examples, wavs, encoder, habits, config.train.optim.lr)
        rows.append({"variant": name, **_run(loop, tokens), "dev loss": round(_dev_loss(model, dev), 3)})
        rows[-1]["ratio"] = round(rows[-1]["tokens/s"] / rows[0]["tokens/s"], 2)
        log(f"throughput: {rows[-1]}")
    return rows


def _run(loop: PlainLoop, tokens: int) -> dict[str, Any]:
    steps = loop.steps(SEED)
    seen = used = padded = 0
    begun = time.perf_counter()
    while seen < tokens:
        answers, positions, places = next(steps)
        seen, used, padded = seen + answers, used + positions, padded + places
    seconds = time.perf_counter() - begun
    return {
        "tokens/s": round(seen / seconds, 1),
        "seconds": round(seconds, 1),
        "padding %": round(100 * (1 - used / padded), 1),
    }


@torch.no_grad()
def _dev_loss(model: torch.nn.Module, dev: list[Example]) -> float:
    model.eval()
    found = [model(Reader(dev[i : i + 8]).read(dev[i : i + 8]))["ce"] for i in range(0, len(dev), 8)]
    return float(np.sum([float(loss) for loss, _ in found]) / sum(count for _, count in found))
