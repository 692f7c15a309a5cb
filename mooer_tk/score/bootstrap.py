"""Bootstrap intervals and paired tests over per-utterance sufficient statistics.

Sources: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation"
(ICASSP 2004); Koehn, "Statistical significance tests for machine translation evaluation" (EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mooer_tk.errors import UserError

RESAMPLES = 1000
CONFIDENCE = 0.95
_BLOCK = 2_000_000


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """What a corpus metric needs to know of each utterance.

    Attributes:
        ids: N utterance ids.
        counts: int64 array of shape (N, K); the metric depends on the sum over N alone.
        score: maps summed counts of shape (B, K) to B metric values (percent or points).
    """

    ids: tuple[str, ...]
    counts: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    def point(self) -> float:
        """The metric of the whole corpus."""
        return float(self.score(self.counts.sum(axis=0, keepdims=True))[0])


@dataclass(frozen=True)
class Interval:
    """A metric with its percentile bootstrap interval, in the unit of the metric."""

    value: float
    low: float
    high: float
    resamples: int
    seed: int
    confidence: float = CONFIDENCE


@dataclass(frozen=True)
class PairedComparison:
    """Difference b - a of two systems on the same utterances, in the unit of the metric.

    `p_value` is two-sided: how often resampling alone moves the difference as far as it lies from zero.
    """

    a: float
    b: float
    difference: Interval
    p_value: float


def bootstrap_interval(
    statistics: SufficientStatistics,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile interval of a corpus metric, utterances drawn with replacement.

    Raises:
        UserError: no utterance, or fewer than two resamples.
    """
    _check(statistics, resamples)
    scores = np.concatenate([statistics.score(sums) for (sums,) in _resampled_sums([statistics], resamples, seed)])
    return _interval(statistics.point(), scores, resamples, seed, confidence)


def paired_bootstrap(
    a: SufficientStatistics,
    b: SufficientStatistics,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> PairedComparison:
    """Compare two systems on the same draws of utterances; the difference is b - a.

    Raises:
        UserError: the systems were not scored on the same utterances in the same order.
    """
    _check(a, resamples)
    if a.ids != b.ids:
        alone = sorted(set(a.ids) ^ set(b.ids))
        found = f"{len(alone)} ids are in one alone: {', '.join(alone[:5])}" if alone else "their order differs"
        raise UserError(
            f"a paired bootstrap needs both systems on the same utterances, but {found}. "
            "Score both against the same references with the same normaliser."
        )
    differences = np.concatenate(
        [b.score(sums_b) - a.score(sums_a) for sums_a, sums_b in _resampled_sums([a, b], resamples, seed)]
    )
    value_a, value_b = a.point(), b.point()
    observed = value_b - value_a
    # Centring gives the distribution under the hypothesis that the systems are equal; the added one keeps the
    # estimate from claiming p = 0 out of finitely many resamples.
    extreme = np.abs(differences - differences.mean()) >= abs(observed) - 1e-12
    p_value = (int(extreme.sum()) + 1) / (resamples + 1)
    return PairedComparison(value_a, value_b, _interval(observed, differences, resamples, seed, confidence), p_value)


def _check(statistics: SufficientStatistics, resamples: int) -> None:
    if not statistics.ids:
        raise UserError("there is no utterance to resample. Check that the references are not empty.")
    if resamples < 2:
        raise UserError(f"a bootstrap needs at least 2 resamples, found {resamples}. Give --bootstrap 1000.")


def _resampled_sums(systems: list[SufficientStatistics], resamples: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, in blocks, the summed counts (B, K) of each system on the same draws."""
    generator = np.random.default_rng(seed)
    n = len(systems[0].ids)
    # Blocks bound the memory: a draw is N integers, and a test set may hold a hundred thousand utterances.
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = generator.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        weights = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        yield tuple(np.rint(weights @ system.counts).astype(np.int64) for system in systems)


def _interval(value: float, scores: np.ndarray, resamples: int, seed: int, confidence: float) -> Interval:
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), resamples, seed, confidence)
