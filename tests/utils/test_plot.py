"""utils/plot.py: its pictures are of the data, written whole, and go as far as what a killed process left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mooer_tk.errors import UserError
from utils.plot import plot_errors, plot_experts, plot_loss

SCRIPT = Path(__file__).resolve().parents[2] / "utils" / "plot.py"


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
    assert plot_loss(log.parent) == tmp_path / "loss.png"
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
    plot_loss(log.parent)
    assert curve(drawn[0].axes[0], "train") == {10: 2.3, 20: 1.5, 30: 1.5}
    assert "train.jsonl:4" in caplog.text


def test_a_log_without_loss_is_an_error_and_leaves_no_figure(tmp_path):
    log = write_log(tmp_path / "train.jsonl", [], tail='{"kind"')
    with pytest.raises(UserError, match="no loss"):
        plot_loss(log.parent)
    assert not (tmp_path / "loss.png").exists()


def test_bars_hold_the_rate_of_their_bin(tmp_path, drawn, mooer):
    """From what `mooer score` itself writes."""
    (tmp_path / "ref").write_text("a one\nb one two\nc a b c d\nd a b c d e\n")
    (tmp_path / "hyp").write_text("a won\nb one two three\nc a b c\nd a b c d e\n")
    files = ["--ref", tmp_path / "ref", "--hyp", tmp_path / "hyp", "--out", tmp_path / "score"]
    assert mooer("score", *files, "--metric", "wer", "--normaliser", "none", "--bootstrap", 0) == 0
    assert plot_errors(tmp_path / "score") == tmp_path / "score" / "error_by_length.png"
    (axes,) = drawn[0].axes
    heights = {}
    for bars in axes.containers:
        for position, bar in enumerate(bars):
            heights[position] = heights.get(position, 0) + bar.get_height()
    assert heights == pytest.approx({0: 100 * 2 / 3, 1: 100 * 1 / 9})
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1-2", "3-5"]
    assert [text.get_text().split("\n")[1] for text in axes.texts] == ["n = 2", "n = 2"]
    assert "words" in axes.get_xlabel() and axes.get_title(loc="left").startswith("WER by reference length (4")
    assert mooer("score", *files, "--metric", "cer", "--normaliser", "none", "--bootstrap", 0) == 0
    plot_errors(tmp_path / "score")
    assert drawn[1].axes[0].get_ylabel() == "CER [%]" and "characters" in drawn[1].axes[0].get_xlabel()


def test_scores_of_translations_have_no_errors_to_draw(tmp_path, mooer):
    (tmp_path / "text").write_text("a The cat is on the mat.\n")
    files = ["--ref", tmp_path / "text", "--hyp", tmp_path / "text", "--out", tmp_path / "score"]
    assert mooer("score", *files, "--metric", "bleu", "--normaliser", "none", "--bootstrap", 0) == 0
    with pytest.raises(UserError, match=r"score was scored by bleu, which counts no errors"):
        plot_errors(tmp_path / "score")
    with pytest.raises(UserError, match=r"score\.json is no report of `mooer score`"):
        plot_errors(tmp_path)


def write_load(path, steps, tail=""):
    """`steps`: step -> layer -> shares of its experts."""
    rows = [
        f"{step}\t{layer}\t{expert}\t{share}\n"
        for step, layers in steps.items()
        for layer, shares in layers.items()
        for expert, share in enumerate(shares)
    ]
    path.write_text("step\tlayer\texpert\tshare\n" + "".join(rows) + tail)


def test_the_heat_map_is_of_the_last_step_and_the_extremes_of_all(tmp_path, drawn):
    even = [0.25] * 4
    first, second = "encoder.layers.9.ffn", "encoder.layers.10.ffn"
    steps = {10: {first: even}, 20: {first: [0.5, 0.3, 0.2, 0.0]}, 30: {first: [0.4, 0.3, 0.2, 0.1]}}
    steps = {step: {**loads, second: even} for step, loads in steps.items()}
    write_load(tmp_path / "expert_load.tsv", steps)
    assert plot_experts(tmp_path) == tmp_path / "expert_load.png"
    assert (tmp_path / "expert_load.png").read_bytes().startswith(b"\x89PNG")
    heat, extremes, _ = drawn[0].axes
    (image,) = heat.images
    assert image.get_array().tolist() == [[40, 30, 20, 10], [25] * 4]
    assert (image.norm.vcenter, image.norm.vmin) == (25, 0)
    assert [text.get_text() for text in heat.texts] == ["40.0", "30.0", "20.0", "10.0", *["25.0"] * 4]
    assert [tick.get_text() for tick in heat.get_yticklabels()] == [first, second]
    assert heat.get_title(loc="left").endswith("step 30")
    assert curve(extremes, "most") == {10: 25, 20: 50, 30: 40}
    assert curve(extremes, "least") == {10: 25, 20: 0, 30: 10}
    assert set(curve(extremes, "even").values()) == {25}


def test_a_killed_and_resumed_run_counts_a_step_once_and_no_step_in_part(tmp_path, drawn):
    first = {1: {0: [0.5, 0.5]}, 2: {0: [0.9, 0.1]}}
    write_load(tmp_path / "expert_load.tsv", first, tail="2\t0\t0\t0.7\n2\t0\t1\t0.3\n3\t0\t0\t0.6\n3\t0\t1\t0.")
    plot_experts(tmp_path)
    heat, extremes, _ = drawn[0].axes
    assert heat.images[0].get_array().tolist() == [[70, 30]]
    assert curve(extremes, "most") == {1: 50, 2: 70}


def test_many_experts_have_no_numbers_in_their_cells(tmp_path, drawn):
    for count in (16, 17):
        write_load(tmp_path / "expert_load.tsv", {1: {0: [1 / count] * count}})
        plot_experts(tmp_path)
    assert [len(figure.axes[0].texts) for figure in drawn] == [16, 0]


def run_script(*words):
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_several_directories_and_a_message_for_what_is_missing(tmp_path):
    for name in ("a", "b"):
        write_log(tmp_path / name / "train.jsonl", LOG)
    done = run_script("loss", tmp_path / "a", tmp_path / "b")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/a/loss.png\n{tmp_path}/b/loss.png\n"), done.stderr
    assert (tmp_path / "b" / "loss.png").stat().st_size > 1000
    done = run_script("experts", tmp_path / "a")
    assert done.returncode == 2
    told = f"plot.py: error: {tmp_path}/a/expert_load.tsv is no table with the columns step, layer, expert, share. Only"
    assert done.stderr.startswith(told)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["loss.png", "train.jsonl"]
