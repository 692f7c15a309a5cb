"""Time to a dev WER with and without the adapter's warm start, in one run of the toolkit's own commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.recipe import Recipe
from mooer_tk.errors import UserError
from mooer_tk.progress import clock

EVERY = 20  # steps
POLL = 0.2  # seconds
FAILED = "the training failed: mend what it says above, and measure again."
MOOER = (sys.executable, "-m", "mooer_tk.bin.main")


def measure(recipe: Recipe, out: Path, wer: float, patience: float) -> list[dict[str, Any]]:
    """Train both ways until English dev prompts of three words and more are below `wer` (%), and time it.

    Without the warm start, training is broken off after `patience` times what the warm one took.
    """
    with_it = _warm(recipe, out, wer)
    plain = _instruct(recipe, out / "plain", None, wer, limit=patience * with_it["seconds"])
    rows = [{"start": "CTC warm start, then LLM", **with_it}, {"start": "LLM from a random adapter", **plain}]
    for row in rows:
        row["time"] = clock(row.pop("seconds")) if row["reached"] else f"not within {clock(row.pop('seconds'))}"
        row["reached"] = "yes" if row["reached"] else "no"
    return rows


def _warm(recipe: Recipe, out: Path, wer: float) -> dict[str, Any]:
    begun = time.monotonic()
    words = ["train", "warm_start", "--out", out / "warm", *_data(recipe, out)]
    if subprocess.run([*MOOER, *map(str, words), "--set", "warm_start.log_every=100"]).returncode:
        raise UserError(FAILED)
    warm = time.monotonic() - begun
    found = _instruct(recipe, out / "llm", out / "warm" / "adapter.safetensors", wer, limit=float("inf"))
    return {**found, "seconds": warm + found["seconds"]}


def _instruct(recipe: Recipe, out: Path, init: Path | None, wer: float, limit: float) -> dict[str, Any]:
    """Train through the LLM, with dev scores every `EVERY` steps, until `wer` or `limit` (s)."""
    settings = [f"train.eval_every={EVERY}", f"train.log_every={EVERY}"]
    if init is None:
        # Nothing to take segments from, and no decay before the end, which is not known.
        settings += ["adapter.handover=raw", "decode.ctc_weight=0", "train.steps=1000000"]
        settings += ["train.optim.schedule=constant", "train.state_dropout=0", "train.adapter_lr_scale=1"]
    words = ["train", "instruct", "--out", out, *_data(recipe, out.parent), *(["--init", init] if init else [])]
    return train_until([*MOOER, *map(str, words), "--set", *settings], out / "train.jsonl", wer, limit)


def train_until(command: list[str], log: Path, wer: float, limit: float) -> dict[str, Any]:
    """Start a training, and end it once a dev WER in its log is at most `wer` (%), or `limit` seconds are over.

    Raises:
        UserError: the training failed.
    """
    begun = time.monotonic()
    process = subprocess.Popen(command)
    try:
        while True:
            status = process.poll()
            text = log.read_text(encoding="utf-8") if log.is_file() else ""
            # The last line may be on its way.
            lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            best = min((line["wer"] for line in lines if line["kind"] == "dev"), default=float("inf"))
            seconds = time.monotonic() - begun
            if best <= wer or seconds > limit or status is not None:
                break
            time.sleep(POLL)
    finally:
        process.terminate()
        process.wait()
    if status:
        raise UserError(FAILED)
    found = {"seconds": seconds, "reached": best <= wer, "best dev WER %": round(best, 2)}
    return {**found, "steps through the LLM": lines[-1]["step"] if lines else 0}


def _data(recipe: Recipe, out: Path) -> list[str]:
    words = ["--config", str(recipe.folder / "conf" / "mooer.yaml"), "--max-skip", "0.9"]
    for line in recipe.sources():
        words += ["--source", line]
    return [*words, "--dev", recipe.dev(out)]
