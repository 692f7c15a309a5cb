#!/usr/bin/env python3
"""Compare two systems on the same utterances: their difference, its 95 % interval, and how likely it is by chance.

  utils/compare_systems.py --ref data/en/test/text --a exp/a/hyp --b exp/b/hyp --metric wer --normaliser whisper-en

Both are resampled by the same draws of utterances (paired bootstrap: Koehn, "Statistical significance tests for machine
translation evaluation", EMNLP 2004; Bisani & Ney, ICASSP 2004).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.errors import UserError, exit_status
from mooer_tk.progress import log
from mooer_tk.score.bootstrap import RESAMPLES, SufficientStatistics, resampled_scores
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import NORMALISERS, get_normaliser
from mooer_tk.score.tables import print_table
from mooer_tk.score.translation import translation

UNITS = {"wer": "word", "cer": "character"}


@dataclass(frozen=True)
class Comparison:
    """Difference b - a in the unit of the metric, with its 95 % interval.

    `p_value` is two-sided: how often resampling alone moves the difference as far as it lies from zero.
    """

    a: float
    b: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    a: SufficientStatistics, b: SufficientStatistics, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two systems on the same draws of utterances.

    Raises:
        UserError: the systems were not scored on the same utterances in the same order.
    """
    if a.ids != b.ids:
        alone = sorted(set(a.ids) ^ set(b.ids))
        found = f"{len(alone)} ids are in one alone: {', '.join(alone[:5])}" if alone else "their order differs"
        raise UserError(
            f"a paired bootstrap needs both systems on the same utterances, but {found}. "
            "Score both against the same references with the same normaliser."
        )
    differences = resampled_scores(b, resamples, seed) - resampled_scores(a, resamples, seed)
    observed = b.point() - a.point()
    low, high = np.quantile(differences, [0.025, 0.975])
    # Centring gives the distribution under the hypothesis that the systems are equal; the added one keeps the
    # estimate from claiming p = 0 out of finitely many resamples.
    extreme = np.abs(differences - differences.mean()) >= abs(observed) - 1e-12
    return Comparison(a.point(), b.point(), float(low), float(high), (int(extreme.sum()) + 1) / (resamples + 1))


def statistics(
    metric: str, ref: Path, hyp: Path, normaliser: str, tolerate_missing: bool = False
) -> SufficientStatistics:
    """What the metric needs to know of each utterance; errors as of the scorers."""
    refs, hyps, chosen = read_table(ref), read_table(hyp), get_normaliser(normaliser)
    if tolerate_missing:
        missing, extra = len(refs.keys() - hyps.keys()), len(hyps.keys() - refs.keys())
        if missing or extra:
            log(f"{hyp}: {missing} hypotheses are missing and count as empty, {extra} have no reference and no part")
        hyps = {utt: hyps.get(utt, "") for utt in refs}
    if metric in UNITS:
        return error_rate(refs, hyps, unit=UNITS[metric], normaliser=chosen).statistics()
    found = translation(refs, hyps, normaliser=chosen)
    return (found.bleu if metric == "bleu" else found.chrf).statistics


def main(argv: list[str] | None = None) -> int:
    """Read the command line, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ref", type=Path, required=True, help="references, Kaldi text")
    parser.add_argument("--a", type=Path, required=True, help="hypotheses of one system")
    parser.add_argument("--b", type=Path, required=True, help="hypotheses of the other")
    parser.add_argument("--metric", choices=[*UNITS, "bleu", "chrf"], required=True)
    parser.add_argument("--normaliser", required=True, metavar="NAME", help=f"one of {', '.join(NORMALISERS)}")
    parser.add_argument("--tolerate-missing", action="store_true", help="a missing hypothesis is empty, as in scoring")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="draws (%(default)s)")
    return exit_status(Path(__file__).name, lambda: compare(parser.parse_args(argv)))


def compare(args: argparse.Namespace) -> int:
    """Compare two systems and print a row; returns 0, errors as of the scorers."""
    a, b = (statistics(args.metric, args.ref, hyp, args.normaliser, args.tolerate_missing) for hyp in (args.a, args.b))
    found = paired_bootstrap(a, b, resamples=args.resamples)
    row = {"metric": args.metric, "a": f"{found.a:.2f}", "b": f"{found.b:.2f}", "b - a": f"{found.b - found.a:+.2f}"}
    print_table([{**row, "95 %": f"{found.low:+.2f} to {found.high:+.2f}", "p": f"{found.p_value:.3f}"}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
