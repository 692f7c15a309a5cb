"""Figures: they are written whole, and a log that a killed process left is drawn as far as it goes."""

import json

import pytest
from matplotlib.figure import Figure

from mooer_tk.errors import UserError
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.plots import plot_error_by_length, plot_loss


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they were when saved."""
    figures, save = [], Figure.savefig

    def keep(figure, *args, **settings):
        figures.append(figure)
        return save(figure, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def write_log(path, lines, tail=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
    return path


def curve(axes, label):
    (line,) = [line for line in axes.get_lines() if line.get_label().startswith(label)]
    return dict(zip(line.get_xdata(), line.get_ydata(), strict=True))


LOG = [
    {"kind": "train", "step": 10, "loss": 2.3, "lr": 1e-4},
    {"kind": "train", "step": 20, "loss": 2.1, "lr": 1e-4},
    {"kind": "dev", "step": 20, "loss": 2.0, "wer": 41.2, "bleu": 12.0},
]


def test_half_written_last_line_is_passed_over(tmp_path, drawn):
    log = write_log(tmp_path / "train.jsonl", LOG, tail='{"kind": "train", "step": 30, "lo')
    plot_loss(log, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    top, wer, bleu = drawn[0].axes
    assert curve(top, "train") == {10: 2.3, 20: 2.1}
    assert curve(wer, "dev") == {20: 41.2}
    assert curve(bleu, "dev") == {20: 12.0}
    assert "WER [%]" in wer.get_ylabel() and bleu.get_xlabel() == "optimiser step"


def test_resumed_run_counts_a_repeated_step_once_and_tells_of_the_torn_line(tmp_path, drawn, caplog):
    log = write_log(tmp_path / "train.jsonl", LOG, tail='{"kind": "tra')
    with log.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"kind": "train", "step": s, "loss": 1.5}) + "\n" for s in (10, 20, 30))
    plot_loss(log, tmp_path / "loss.png")
    assert curve(drawn[0].axes[0], "train") == {10: 2.3, 20: 1.5, 30: 1.5}
    assert "train.jsonl:4" in caplog.text


def test_a_log_without_loss_is_an_error_and_leaves_no_figure(tmp_path):
    log = write_log(tmp_path / "train.jsonl", [], tail='{"kind"')
    with pytest.raises(UserError, match="no loss"):
        plot_loss(log, tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


def test_bars_hold_the_rate_of_their_bin(tmp_path, drawn):
    refs = {"a": "one", "b": "one two", "c": "a b c d", "d": "a b c d e"}
    hyps = {"a": "won", "b": "one two three", "c": "a b c", "d": "a b c d e"}
    result = error_rate(refs, hyps, unit="word", normaliser=get_normaliser("none"))
    plot_error_by_length(result.utts, tmp_path / "bars.png")
    (axes,) = drawn[0].axes
    heights = {}
    for bars in axes.containers:
        for position, bar in enumerate(bars):
            heights[position] = heights.get(position, 0) + bar.get_height()
    assert heights == pytest.approx({0: 100 * 2 / 3, 1: 100 * 1 / 9})
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1-2", "3-5"]
    assert [text.get_text().split("\n")[1] for text in axes.texts] == ["n = 2", "n = 2"]
