"""Decode cached states with a trained model: one task, n-best lists with scores, resumable."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mooer_tk.config import DecodeConfig
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import fingerprint, is_done, mark_done, write_json
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.data.result_log import ResultLog
from mooer_tk.decode.generate import generate
from mooer_tk.llm.checkpoint import load_model
from mooer_tk.llm.speech_llm import Batch
from mooer_tk.model_dir import model_files
from mooer_tk.progress import log, track


def decode_directory(
    states: Path,
    model_dir: Path,
    out: Path,
    *,
    task: str,
    config: DecodeConfig | None = None,
    nbest: int = 1,
) -> None:
    """Write `out/hyp` (and `hyp.asr`, `hyp.ast` for asr_ast), `nbest.jsonl` and `guards.json`.

    Args:
        states: directory of shards (stage 3).
        model_dir: exp/NAME, or an exported model.
        task: asr, ast or asr_ast.
        config: generation; None takes the one saved with the model.
    """
    shards = ShardReader(states)
    settings = asdict(config) if config else None
    mark = fingerprint(shards.meta, *model_files(model_dir), task, settings, nbest, sorted(shards))
    if is_done(out, mark):
        log(f"{out} is up to date")
        return
    model, saved = load_model(model_dir)
    model.prompt.check_task(task)
    config = config or saved.decode

    def answer(utts: list[str]) -> list[list[dict]]:
        seconds = [shards.entries[utt].seconds for utt in utts]
        answers = generate(model, states_batch(utts, shards, task), config, seconds=seconds, nbest=nbest)
        return [[vars(hypothesis) for hypothesis in some] for some in answers]

    results = decode_shards(shards, out, mark, config.batch_utts, answer, f"decoding {states} ({task})")
    best = {utt: results[utt]["nbest"][0] for utt in shards}
    write_table(out / "hyp", {utt: " ".join(one["text"].split()) for utt, one in best.items()})
    if task == "asr_ast":
        for part in ("asr", "ast"):
            texts = {utt: model.prompt.parts(one["text"], task)[part] for utt, one in best.items()}
            write_table(out / f"hyp.{part}", {utt: " ".join(text.split()) for utt, text in texts.items()})
    capped = sorted(utt for utt, one in best.items() if one["capped"])
    write_json(out / "guards.json", {"utterances": len(best), "capped": len(capped), "capped_utts": capped})
    log(f"{out}: {len(best)} utterances decoded, {len(capped)} ended by the length cap (named in guards.json)")
    mark_done(out, mark, task=task, model=str(model_dir), decode=asdict(config))


def decode_shards(
    shards: ShardReader, out: Path, mark: str, batch_utts: int, answer: Callable[[list[str]], list[Any]], what: str
) -> dict[str, dict[str, Any]]:
    """Answer all utterances in batches, and keep what comes in `out/nbest.jsonl`: a killed run goes on at its batch.

    Args:
        mark: fingerprint of all that the answers depend on.
        answer: utterance ids -> what is kept of each as "nbest".
        what: is being done, for the progress.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = ResultLog(out / "nbest.jsonl", mark)
    # Longest first: memory trouble shows at once, and utterances of like length share a batch.
    missing = sorted((utt for utt in shards if utt not in done.results), key=lambda utt: -shards.entries[utt].shape[0])
    batches = [missing[i : i + batch_utts] for i in range(0, len(missing), batch_utts)]
    for utts in track(batches, what, len(batches), unit="batch"):
        done.add([{"utt": utt, "nbest": nbest} for utt, nbest in zip(utts, answer(utts), strict=True)])
    return done.results


def states_batch(utts: list[str], shards: ShardReader, task: str) -> Batch:
    """Read the states of some utterances for decoding."""
    return make_batch(utts, [shards[utt] for utt in utts], task)


def make_batch(utts: list[str], states: list[np.ndarray], task: str) -> Batch:
    """A batch without answers from states (T, D) each."""
    tensors = [torch.from_numpy(one.astype(np.float32)) for one in states]
    nothing: list[list[int]] = [[] for _ in utts]
    return Batch(
        utts=utts,
        states=torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True),
        lengths=torch.tensor([len(one) for one in tensors]),
        tasks=[task] * len(utts),
        answers=nothing,
        targets=nothing,
    )
