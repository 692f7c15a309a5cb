"""Two systems on the same utterances: gaps are found, chance is not taken for one."""

import numpy as np
import pytest

from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.errors import UserError
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation
from utils.compare_systems import main, paired_bootstrap

NONE = get_normaliser("none")


def test_a_system_against_itself_is_no_difference(wer_statistics):
    statistics = wer_statistics(100)
    comparison = paired_bootstrap(statistics, statistics)
    assert comparison.p_value == pytest.approx(1.0)
    assert (comparison.low, comparison.high) == (0.0, 0.0)


def test_a_clearly_better_system_is_found_and_the_sign_is_b_minus_a(wer_statistics):
    worse, better = wer_statistics(200, error=0.3, seed=1), wer_statistics(200, error=0.1, seed=2)
    comparison = paired_bootstrap(worse, better)
    assert comparison.low < comparison.b - comparison.a < comparison.high < 0
    assert comparison.p_value < 0.01


def test_equal_systems_are_rarely_called_different(wer_statistics):
    p_values = [
        paired_bootstrap(wer_statistics(60, seed=2 * i + 1), wer_statistics(60, seed=2 * i + 2), resamples=200).p_value
        for i in range(40)
    ]
    assert np.mean(np.array(p_values) < 0.05) <= 0.2
    assert 0.3 < np.mean(p_values) < 0.7


def test_paired_bleu_finds_the_better_translation(noisy_texts):
    refs, weak = noisy_texts(80, error=0.4, seed=1)
    _, strong = noisy_texts(80, error=0.1, seed=2)
    scores = [translation(refs, hyps, normaliser=NONE).bleu.statistics for hyps in (weak, strong)]
    comparison = paired_bootstrap(*scores, resamples=200)
    assert comparison.low > 0
    assert comparison.p_value < 0.01


def test_different_utterances_cannot_be_paired(wer_statistics):
    with pytest.raises(UserError, match="10 ids are in one alone: u0020"):
        paired_bootstrap(wer_statistics(20), wer_statistics(30))


@pytest.mark.parametrize("metric", ["wer", "cer", "bleu", "chrf"])
def test_the_command_prints_the_difference_and_its_interval(tmp_path, capsys, metric, noisy_texts):
    refs, weak = noisy_texts(40, error=0.4, seed=1)
    _, strong = noisy_texts(40, error=0.1, seed=2)
    for name, table in (("ref", refs), ("a", weak), ("b", strong)):
        write_table(tmp_path / name, table)
    sides = [word for name in ("ref", "a", "b") for word in (f"--{name}", str(tmp_path / name))]
    assert main([*sides, "--metric", metric, "--normaliser", "none", "--resamples", "200"]) == 0
    difference = float(capsys.readouterr().out.split("\n")[-3].split()[3])
    assert (difference < 0) == (metric in ("wer", "cer")) and abs(difference) > 10
    write_table(tmp_path / "b", dict(list(strong.items())[:-1]))
    assert main([*sides, "--metric", metric, "--normaliser", "none"]) == 2
    assert "compare_systems.py: error: 1 ids" in capsys.readouterr().err
    assert main([*sides, "--metric", metric, "--normaliser", "none", "--resamples", "200", "--tolerate-missing"]) == 0
    assert "b: 1 hypotheses are missing and count as empty, 0 have" in capsys.readouterr().err
