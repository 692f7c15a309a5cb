"""Write the scores of an experiment as rows of RESULTS.md, and print them (stage 9)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mooer_tk.config import git_hash
from mooer_tk.errors import UserError

SYSTEMS = {
    "model": "LLM",
    "llm": "LLM, without CTC in the search",
    "ctc": "warm start alone (CTC-greedy)",
    "teacher": "teacher",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("experiment", type=Path, help="exp/NAME with its score/ directory (stage 8)")
    parser.add_argument("--results", type=Path, default=Path("RESULTS.md"), help="file with the table")
    parser.add_argument("--labels", default="pseudo", help="what the model was trained on, for the table")
    parser.add_argument("--command", default="", help="the command that made the experiment, for the table")


def run(args: argparse.Namespace) -> int:
    """Collect every score.json below the experiment into the table."""
    from mooer_tk.score.results import print_table, update_table

    files = sorted((args.experiment / "score").glob("*/score.json"))
    if not files:
        raise UserError(f"{args.experiment}/score holds no scores: run stage 8 first.")
    trained = json.loads((args.experiment / "model" / "info.json").read_text(encoding="utf-8"))
    rows = [row for file in files for row in _rows(file)]
    print_table([{k: v for k, v in row.items() if k != "normaliser"} for row in rows], title=str(args.experiment))
    for row in rows:
        own = row["system"] != SYSTEMS["teacher"]
        extra = {"trained on": f"{args.labels} labels" if own else "", "git": trained["git"] if own else git_hash()}
        full = {"experiment": args.experiment.name, **row, **extra, "command": f"`{args.command}`"}
        update_table(args.results, "results", full, key=["experiment", "test set", "system", "metric"])
    return 0


def _rows(file: Path) -> list[dict[str, Any]]:
    """One row a score: `asr_en.model` -> test set `asr en`, system `LLM`."""
    test_set, _, system = file.parent.name.partition(".")
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for name, score in found["scores"].items():
        metric = {"wer": "WER %", "cer": "CER %", "bleu": "BLEU", "chrf": "chrF"}[name.removesuffix("_subset")]
        if name.endswith("_subset"):
            metric += f", {score['min_words']}+ words"
        rows.append(
            {
                "test set": test_set.replace("_", " "),
                "system": SYSTEMS.get(system, system),
                "metric": metric,
                "value": f"{score['value']:.2f}",
                "95 %": f"{score['low']:.2f} - {score['high']:.2f}",
                "utterances": score["utterances"],
                "normaliser": found["normaliser"],
            }
        )
    return rows
