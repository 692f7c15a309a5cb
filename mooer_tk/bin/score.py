"""Normalise and score hypotheses: WER, CER, or BLEU with chrF, with bootstrap intervals.

Writes DIR/score.json (all numbers, the id of the normaliser, the signature of the metric), DIR/per_utt.tsv
and, for wer and cer, DIR/align.txt. `utils/plot.py errors DIR` draws them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mooer_tk.data.atomic import write_json, write_text
from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.score.bootstrap import RESAMPLES, SufficientStatistics, bootstrap_interval
from mooer_tk.score.error_rate import ErrorRate, error_rate, write_alignments
from mooer_tk.score.normalise import NORMALISERS, Normaliser, get_normaliser
from mooer_tk.score.tables import print_table
from mooer_tk.score.translation import TOKENISERS, translation

_UNITS = {"wer": "word", "cer": "character"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mooer score`."""
    parser.add_argument("--ref", type=Path, required=True, help="references, Kaldi text: 'utt-id words...' a line")
    parser.add_argument("--hyp", type=Path, required=True, help="hypotheses, in the same form")
    parser.add_argument("--metric", choices=[*_UNITS, "bleu"], required=True, help="bleu reports chrF as well")
    parser.add_argument("--normaliser", required=True, metavar="NAME", help=f"one of {', '.join(NORMALISERS)}")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the reports")
    parser.add_argument("--subset-min-words", type=int, default=3, metavar="N", help="also N words and more; 0: not")
    parser.add_argument("--bleu-tokeniser", choices=TOKENISERS, default="13a", help="zh, char: no blanks (%(default)s)")
    parser.add_argument("--bootstrap", type=int, default=RESAMPLES, metavar="B", help="resamples; 0: no intervals")
    parser.add_argument("--tolerate-missing", action="store_true", help="a missing hypothesis is empty, and counted")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Score, write the reports and print a table; returns 0.

    Raises:
        UserError: files that cannot be read, ids that differ, an unknown normaliser, nothing to score.
    """
    normaliser = get_normaliser(args.normaliser)
    refs, hyps = read_table(args.ref), read_table(args.hyp)
    missing = refs.keys() - hyps.keys() if args.tolerate_missing else set()
    extra = hyps.keys() - refs.keys() if args.tolerate_missing else set()
    hyps = {utt: hyp for utt, hyp in hyps.items() if utt not in extra} | dict.fromkeys(missing, "")
    scores = (_score_translation if args.metric == "bleu" else _score_errors)(args, refs, hyps, normaliser)
    report = {
        "metric": args.metric,
        "ref": str(args.ref),
        "hyp": str(args.hyp),
        "normaliser": normaliser.id,
        "scored_as_empty": sorted(missing),
        "without_reference": sorted(extra),
        "bootstrap": args.bootstrap,
        "seed": args.seed,
        "scores": scores,
    }
    write_json(args.out / "score.json", report)
    rows = [_row(name.removesuffix("_subset"), numbers) for name, numbers in scores.items()]
    print_table(rows, title=f"{args.hyp} ({normaliser.id})")
    return 0


def _score_errors(
    args: argparse.Namespace, refs: dict[str, str], hyps: dict[str, str], normaliser: Normaliser
) -> dict[str, dict[str, Any]]:
    whole = error_rate(refs, hyps, unit=_UNITS[args.metric], normaliser=normaliser)
    scores = {args.metric: _error_numbers(args, whole)}
    least = args.subset_min_words
    if least > 0 and (part := whole.subset(least)):
        scores[f"{args.metric}_subset"] = {"min_words": least, **_error_numbers(args, part)}
    head = ["utt", "rate", *whole.counts, "ref_words", "ref", "hyp"]
    lines = [[u.utt, f"{u.rate:.2f}", *u.counts.values(), u.ref_words, u.ref, u.hyp] for u in whole.utts]
    _write_tsv(args.out / "per_utt.tsv", [head, *lines])
    write_alignments(args.out / "align.txt", whole)
    return scores


def _error_numbers(args: argparse.Namespace, result: ErrorRate) -> dict[str, Any]:
    skipped = {"skipped": len(result.skipped), "skipped_ids": list(result.skipped)}
    facts = {"errors": result.errors, **result.counts, **skipped, "words_on_empty": result.words_on_empty}
    return _numbers(args, result.statistics(), result.signature, facts)


def _score_translation(
    args: argparse.Namespace, refs: dict[str, str], hyps: dict[str, str], normaliser: Normaliser
) -> dict[str, dict[str, Any]]:
    result = translation(refs, hyps, normaliser=normaliser, tokeniser=args.bleu_tokeniser)
    columns = (result.bleu.sentences, result.chrf.sentences, result.refs.values(), result.hyps.values())
    rows = zip(result.refs, *columns, strict=True)
    lines = [(utt, f"{bleu:.2f}", f"{chrf:.2f}", ref, hyp) for utt, bleu, chrf, ref, hyp in rows]
    _write_tsv(args.out / "per_utt.tsv", [("utt", "bleu", "chrf", "ref", "hyp"), *lines])
    metrics = (result.bleu, result.chrf)
    return {metric.name.lower(): _numbers(args, metric.statistics, metric.signature, {}) for metric in metrics}


def _numbers(
    args: argparse.Namespace, statistics: SufficientStatistics, signature: str, facts: dict[str, Any]
) -> dict[str, Any]:
    numbers = {"value": statistics.point(), "low": None, "high": None, "confidence": None}
    if args.bootstrap:
        numbers = asdict(bootstrap_interval(statistics, resamples=args.bootstrap, seed=args.seed))
    return {**numbers, "utterances": len(statistics.ids), **facts, "signature": signature}


def _write_tsv(path: Path, lines: Sequence[Sequence[Any]]) -> None:
    write_text(path, "".join("\t".join(map(str, line)) + "\n" for line in lines))


def _row(name: str, numbers: dict[str, Any]) -> dict[str, Any]:
    known = numbers["low"] is not None
    row = {
        "metric": f"{name} >= {numbers['min_words']} words" if "min_words" in numbers else name,
        "value": f"{numbers['value']:.2f}",
        "95 % interval": f"{numbers['low']:.2f} to {numbers['high']:.2f}" if known else "",
        "utts": numbers["utterances"],
    }
    if "errors" in numbers:
        kinds = "+".join(str(numbers[kind]) for kind in ("substitutions", "deletions", "insertions"))
        row |= {"sub+del+ins": kinds, "of": numbers["ref_length"], "skipped": numbers["skipped"]}
    return row
