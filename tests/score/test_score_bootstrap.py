"""Intervals hold the point value, shrink with data, and repeat with the seed."""

import numpy as np
import pytest

from mooer_tk.score import bootstrap
from mooer_tk.score.bootstrap import bootstrap_interval
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation

NONE = get_normaliser("none")


@pytest.mark.parametrize("metric", ["wer", "bleu", "chrf"])
def test_interval_holds_the_value_and_shrinks_with_more_data(metric, noisy_texts, wer_statistics):
    widths = []
    for n in (30, 480):
        if metric == "wer":
            statistics = wer_statistics(n)
        else:
            statistics = getattr(translation(*noisy_texts(n), normaliser=NONE), metric).statistics
        interval = bootstrap_interval(statistics, resamples=300)
        assert interval.low < interval.value < interval.high
        assert interval.value == pytest.approx(statistics.point())
        widths.append(interval.high - interval.low)
    # Sixteen times the data: a quarter of the width, give or take the noise of the small set.
    assert widths[1] < 0.45 * widths[0]


def test_width_agrees_with_the_binomial_error_of_independent_words(wer_statistics):
    statistics = wer_statistics(500, error=0.3)
    words = int(statistics.counts[:, 1].sum())
    interval = bootstrap_interval(statistics)
    expected = 2 * 1.96 * 100 * np.sqrt(0.3 * 0.7 / words)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.2)


def test_same_seed_same_interval_and_blocks_do_not_change_it(monkeypatch, wer_statistics):
    statistics = wer_statistics(50)
    first = bootstrap_interval(statistics, seed=3)
    assert first == bootstrap_interval(statistics, seed=3)
    assert (first.low, first.high) != tuple(
        getattr(bootstrap_interval(statistics, seed=4), side) for side in ("low", "high")
    )
    monkeypatch.setattr(bootstrap, "_BLOCK", 50 * 7)
    assert first == bootstrap_interval(statistics, seed=3)


def test_perfect_system_has_an_interval_of_zero_width(wer_statistics):
    interval = bootstrap_interval(wer_statistics(20, error=-1.0))
    assert (interval.low, interval.value, interval.high) == (0.0, 0.0, 0.0)
