#!/usr/bin/env python3
"""Tell how far a teacher's labels are from the human text, where there is one, in LABELS/report.md and report.json.

utils/label_report.py data/es/train data/es/train_pl      # after mooer label data/es/train data/es/train_pl
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mooer_tk.data.atomic import DONE, write_json, write_text
from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.errors import UserError, exit_status
from mooer_tk.score.bootstrap import Interval, bootstrap_interval
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation

SETTINGS = ("teacher", "language", "tasks", "beam")
WORST = 15
HEAD = "| metric | normaliser | utterances | value | 95 % |\n| --- | --- | --- | --- | --- |"


def main(argv: list[str] | None = None) -> int:
    """Read the command line, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="data directory with the human tables")
    parser.add_argument("labels", type=Path, metavar="LABELS", help="data directory that mooer label has made of it")
    args = parser.parse_args(argv)
    return exit_status(Path(__file__).name, lambda: write_report(args.data, args.labels))


def write_report(data_dir: Path, labels: Path) -> int:
    """Write WER of `text` and BLEU / chrF of `text.en` against the human tables, and the worst labels; returns 0.

    Spanish transcripts here often lack their accents, so other languages than English are also scored folded.

    Raises:
        UserError: no finished labels, or those of a version that did not say how they were made.
    """
    settings = _settings(labels)
    facts: dict[str, Any] = dict(settings)
    rows, worst = [], ""
    pair = _both(data_dir / "text", labels / "text")
    if pair:
        names = ["whisper-en"] if settings["language"] == "en" else ["whisper-basic", "whisper-basic-fold"]
        for name in names:
            result = error_rate(*pair, unit="word", normaliser=get_normaliser(name))
            interval = bootstrap_interval(result.statistics())
            facts[f"wer_{name}"] = round(result.rate, 2)
            rows.append(_row("WER %", name, len(result.utts), interval))
        ranked = sorted(result.utts, key=lambda utt: -utt.errors)[:WORST]
        lines = [f"- `{utt.utt}` ({utt.errors} errors)\n  human: {utt.ref}\n  label: {utt.hyp}" for utt in ranked]
        worst = "\n\nThe labels with the most errors:\n\n" + "\n".join(lines)
    pair = _both(data_dir / "text.en", labels / "text.en")
    if pair:
        result = translation(*pair, normaliser=get_normaliser("none"))
        for score in (result.bleu, result.chrf):
            facts[score.name.lower()] = round(score.score, 2)
            rows.append(_row(score.name, "none", len(pair[0]), bootstrap_interval(score.statistics)))
    write_json(labels / "report.json", facts)
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    body = "\n".join([HEAD, *rows]) if rows else "There is no human text to compare with."
    write_text(labels / "report.md", f"# Labels of {data_dir}\n\n{told}\n\n{body}{worst}\n")
    return 0


def _settings(labels: Path) -> dict[str, Any]:
    try:
        done = json.loads((labels / DONE).read_text(encoding="utf-8"))
        return {name: done[name] for name in SETTINGS}
    except OSError as error:
        raise UserError(f"{labels} holds no finished labels: run mooer label (stage 2) first.") from error
    except KeyError as error:
        raise UserError(
            f"{labels}/{DONE} is of an older version: remove this file and run stage 2 again, which keeps the labels."
        ) from error


def _row(metric: str, normaliser: str, utterances: int, interval: Interval) -> str:
    value = f"{interval.value:.2f} | {interval.low:.2f} - {interval.high:.2f}"
    return f"| {metric} | {normaliser} | {utterances} | {value} |"


def _both(reference: Path, label: Path) -> tuple[dict[str, str], dict[str, str]] | None:
    """The two tables cut to the ids that both have, or None where one is absent."""
    if not reference.is_file() or not label.is_file():
        return None
    human, machine = read_table(reference), read_table(label)
    common = [utt for utt in human if utt in machine]
    return ({utt: human[utt] for utt in common}, {utt: machine[utt] for utt in common}) if common else None


if __name__ == "__main__":
    sys.exit(main())
