"""Bootstrap intervals over per-utterance sufficient statistics.

Source: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004).
"""

from collections.abc import Callable
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
    confidence: float = CONFIDENCE


def bootstrap_interval(statistics: SufficientStatistics, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile interval of a corpus metric, utterances drawn with replacement.

    Raises:
        UserError: no utterance, or fewer than two resamples.
    """
    if not statistics.ids:
        raise UserError("there is no utterance to resample. Check that the references are not empty.")
    if resamples < 2:
        raise UserError(f"a bootstrap needs at least 2 resamples, found {resamples}. Give --bootstrap 1000.")
    scores = resampled_scores(statistics, resamples, seed)
    low, high = np.quantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(statistics.point(), float(low), float(high))


def resampled_scores(statistics: SufficientStatistics, resamples: int, seed: int) -> np.ndarray:
    """The metric of each draw of as many utterances; equal seeds and numbers of utterances give equal draws."""
    generator = np.random.default_rng(seed)
    n = len(statistics.ids)
    # Blocks bound the memory: a draw is N integers, and a test set may hold a hundred thousand utterances.
    block = max(1, _BLOCK // n)
    scores = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = generator.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        weights = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        scores.append(statistics.score(np.rint(weights @ statistics.counts).astype(np.int64)))
    return np.concatenate(scores)
