"""Time to a dev WER with and without the adapter's warm start, in one run of the toolkit's own commands."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.recipe import Recipe
from mooer_tk.bin.main import main
from mooer_tk.progress import clock

EVERY = {"warm_start": 100, "train": 20}


def measure(recipe: Recipe, out: Path, wer: float, patience: float) -> list[dict[str, Any]]:
    """Train both ways until English dev prompts of three words and more are below `wer` (%).

    Without the warm start, training is broken off after `patience` times what the warm one took.
    """
    with_it = _warm(recipe, out, wer)
    steps = 1_000_000
    plain = _instruct(recipe, out / "plain", None, wer, steps, limit=patience * with_it["seconds"])
    rows = [{"start": "CTC warm start, then LLM", **with_it}, {"start": "LLM from a random adapter", **plain}]
    for row in rows:
        row["time"] = clock(row.pop("seconds")) if row["reached"] else f"not within {clock(row.pop('seconds'))}"
        row["reached"] = "yes" if row["reached"] else "no"
    return rows


def _warm(recipe: Recipe, out: Path, wer: float) -> dict[str, Any]:
    begun = time.monotonic()
    words = ["train", "warm_start", "--out", out / "warm", *_data(recipe, out)]
    if main([*map(str, words), "--set", "warm_start.log_every=100"]):
        raise SystemExit(1)
    warm = time.monotonic() - begun
    steps = recipe.config.train.steps
    found = _instruct(recipe, out / "llm", out / "warm" / "adapter.safetensors", wer, steps, limit=float("inf"))
    return {**found, "seconds": warm + found["seconds"]}


def _instruct(recipe: Recipe, out: Path, init: Path | None, wer: float, steps: int, limit: float) -> dict[str, Any]:
    """Train through the LLM in pieces of `EVERY` steps, each going on from the last, until `wer` or `limit` (s)."""
    from mooer_tk.train.loop import Trainer

    best = {"seconds": 0.0, "reached": False, "best dev WER %": float("inf")}
    begun = time.monotonic()

    class Enough(Exception):
        pass

    plain = Trainer._evaluate

    def evaluate(self: Trainer) -> dict[str, float]:
        scores = plain(self)
        best["seconds"] = time.monotonic() - begun
        best["best dev WER %"] = min(best["best dev WER %"], round(scores["wer"], 2))
        best["reached"] = best["best dev WER %"] <= wer
        if best["reached"] or best["seconds"] > limit:
            raise Enough
        return scores

    settings = [f"train.eval_every={EVERY['train']}", "train.log_every=20"]
    if init is None:
        # Nothing to take segments from, and no decay before the end, which is not known.
        settings += ["adapter.handover=raw", "decode.ctc_weight=0", f"train.steps={steps}"]
        settings += ["train.optim.schedule=constant", "train.state_dropout=0", "train.adapter_lr_scale=1"]
    words = ["train", "instruct", "--out", out, *_data(recipe, out.parent), *(["--init", init] if init else [])]
    Trainer._evaluate = evaluate
    try:
        if main([*map(str, words), "--set", *settings]):
            raise SystemExit(1)
    except Enough:
        pass
    finally:
        Trainer._evaluate = plain
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    return {**best, "steps through the LLM": lines[-1]["step"]}


def _data(recipe: Recipe, out: Path) -> list[str]:
    words = ["--config", str(recipe.folder / "conf" / "mooer.yaml"), "--max-skip", "0.9"]
    for line in recipe.sources():
        words += ["--source", line]
    return [*words, "--dev", recipe.dev(out)]
