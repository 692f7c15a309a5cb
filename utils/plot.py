#!/usr/bin/env python3
"""Draw what a run or a score has written as a PNG file beside it.

  utils/plot.py loss exp/mooer/train                 # train.jsonl -> loss.png: the curves of the training
  utils/plot.py errors exp/mooer/score/asr_en.model  # per_utt.tsv -> error_by_length.png: errors by reference length
  utils/plot.py experts exp/mooer/train              # expert_load.tsv -> expert_load.png: the load of the experts

Several directories may be given.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mooer_tk.data.atomic import replacing
from mooer_tk.errors import UserError, exit_status

LENGTH_EDGES = (1, 3, 6, 11, 16, 21, 31, 51, 101)
"""First reference length of each bin, in units of the metric; the last bin is open."""
EXPERT_COLUMNS = {"step": int, "layer": str, "expert": int, "share": float}
NUMBERED_EXPERTS = 16
"""Up to so many experts the heat map has its numbers in it."""

_LABELS = {"wer": "WER [%]", "cer": "CER [%]", "bleu": "BLEU [points]", "chrf": "chrF [points]"}
# The criterion repeats the score that chooses the checkpoints.
_NOT_METRICS = {"step", "epoch", "loss", "criterion"}
_COLOURS = ("#2a6f97", "#d1603d", "#4f8a5b", "#8d5a97", "#b58a1b", "#5c6670")
_INK = "#2b2d33"
_STYLE = {
    "savefig.dpi": 150,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
}

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Read the command line, draw a picture of each directory, print where it is."""
    pictures = {"loss": plot_loss, "errors": plot_errors, "experts": plot_experts}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=pictures, help="what to draw")
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="a run, or for errors a directory of scores")
    args = parser.parse_args(argv)

    def draw() -> int:
        for folder in args.dirs:
            print(pictures[args.picture](folder))
        return 0

    return exit_status(Path(__file__).name, draw)


def plot_loss(run: Path) -> Path:
    """Draw the loss of `run`/train.jsonl, and below it one panel for each other number of the dev lines.

    A log line is an object such as {"kind": "train", "step": 10, "loss": 2.3, "lr": 1e-4} or
    {"kind": "dev", "step": 50, "loss": 2.0, "wer": 41.2}. A step that stands twice (a resumed run) counts
    once, as written last. A line that a killed process left half-written is passed over.

    Returns:
        `run`/loss.png.

    Raises:
        UserError: a log that is missing, or one without any loss.
    """
    log_path, path = run / "train.jsonl", run / "loss.png"
    curves = _curves(log_path)
    if not any(key == "loss" for _, key in curves):
        raise UserError(f"no loss in {log_path}. Let the run write its first step, then draw again.")
    metrics = list(dict.fromkeys(key for kind, key in curves if kind == "dev" and key not in _NOT_METRICS))
    with _figure(path) as figure:
        heights = [2.0, *([1.25] * len(metrics))]
        figure.set_size_inches(8.0, 1.2 + 1.75 * sum(heights))
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        _draw_train(panels[0], curves.get(("train", "loss")))
        for panel, metric in zip(panels, ["loss", *metrics], strict=True):
            _draw_dev(panel, curves.get(("dev", metric)))
        panels[0].set_title("Training")
        for panel, label in zip(panels, ["loss [nats per token]", *(_LABELS.get(m, m) for m in metrics)], strict=True):
            panel.set_ylabel(label)
            panel.margins(x=0.06, y=0.14)
            panel.legend(loc="best", fontsize=9)
        panels[-1].set_xlabel("optimiser step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
    return path


def plot_errors(score: Path) -> Path:
    """Draw stacked bars (substitutions, deletions, insertions in % of reference units) by reference length.

    Each bar bears its rate and its count of utterances; a dashed line marks the rate of all utterances.

    Args:
        score: what `mooer score --metric wer` (or cer) has written: score.json and per_utt.tsv.

    Returns:
        `score`/error_by_length.png.

    Raises:
        UserError: no such files, or scores of translations, which have no error counts.
    """
    path = score / "error_by_length.png"
    name, unit = _metric(score)
    kinds = ("substitutions", "deletions", "insertions")
    columns = dict.fromkeys([*kinds, "ref_length"], float)
    table = np.array(_read_tsv(score / "per_utt.tsv", columns, "Score the set again."))
    counts, lengths = table[:, :3].astype(np.int64), table[:, 3].astype(np.int64)
    bins = np.searchsorted(LENGTH_EDGES, lengths, side="right") - 1
    present = sorted(set(bins.tolist()))
    units = np.array([lengths[bins == b].sum() for b in present])
    rates = 100 * np.array([counts[bins == b].sum(axis=0) for b in present]) / units[:, None]
    overall = 100 * counts.sum() / lengths.sum()
    with _figure(path) as figure:
        axes = figure.subplots()
        figure.set_size_inches(max(6.4, 1.6 + 0.9 * len(present)), 4.6)
        bottom = np.zeros(len(present))
        for kind, rate, colour in zip(kinds, rates.T, _COLOURS, strict=False):
            axes.bar(range(len(present)), rate, 0.72, bottom=bottom, label=kind, color=colour, edgecolor="white")
            bottom += rate
        for x, b in enumerate(present):
            axes.annotate(
                f"{bottom[x]:.1f} %\nn = {int((bins == b).sum())}",
                (x, bottom[x]),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                color=_INK,
                bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
                zorder=3,
            )
        axes.axhline(overall, color=_INK, linestyle="--", linewidth=1, label=f"all utterances: {overall:.1f} %")
        axes.set_xticks(range(len(present)), [_bin_label(b) for b in present])
        axes.set_ylim(0, max(float(bottom.max()), overall, 1.0) * 1.22)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(f"reference length [{unit}s]")
        axes.set_ylabel(f"{name} [%]")
        axes.set_title(f"{name} by reference length ({len(lengths)} utterances)")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return path


def plot_experts(run: Path) -> Path:
    """Draw the load of the experts: a heat map, layers by experts, of the last step, and the extremes against the step.

    Reads `run`/expert_load.tsv, whose columns are step, layer, expert and share (of the layer's tokens, 0 to 1). White
    is an even load. Lines that stand twice (a resumed run) count once, as written last; a step that a killed process
    left unfinished is passed over.

    Returns:
        `run`/expert_load.png.

    Raises:
        UserError: no such file, or no finished step in it.
    """
    path = run / "expert_load.png"
    table = _read_tsv(run / "expert_load.tsv", EXPERT_COLUMNS, "Only a run with a mixture of experts writes it.")
    steps: dict[int, dict[tuple[str, int], float]] = {}
    for step, layer, expert, share in table:
        steps.setdefault(step, {})[layer, expert] = 100 * share
    whole = max(len(loads) for loads in steps.values())
    steps = {step: loads for step, loads in sorted(steps.items()) if len(loads) == whole}
    last, loads = list(steps.items())[-1]
    # Layers in the order of the file, which is that of the model.
    layers, experts = list(dict.fromkeys(layer for layer, _ in loads)), sorted({expert for _, expert in loads})
    shares = np.array([[loads.get((layer, expert), math.nan) for expert in experts] for layer in layers])
    with _figure(path) as figure:
        width, height = max(7.0, 2.2 + 0.5 * min(len(experts), NUMBERED_EXPERTS)), 1.2 + 0.32 * max(len(layers), 3)
        figure.set_size_inches(width, height + 2.6)
        heat, extremes = figure.subplots(2, 1, height_ratios=[height, 2.6])
        _draw_heat(heat, shares, layers, experts)
        heat.set_title(f"Load of the experts at step {last}")
        for name, choose, colour in (("most", max, _COLOURS[1]), ("least", min, _COLOURS[0])):
            values = [choose(loads.values()) for loads in steps.values()]
            label = f"{name} of all layers, last {values[-1]:.3g} %"
            # A single step is no line yet.
            marker = "o" if len(steps) == 1 else ""
            extremes.plot(list(steps), values, color=colour, linewidth=1.8, marker=marker, label=label)
        even = 100 / len(experts)
        extremes.axhline(even, color=_INK, linestyle="--", linewidth=1, label=f"even: {even:.3g} %")
        extremes.set_ylim(bottom=0)
        extremes.set_xlabel("optimiser step")
        extremes.set_ylabel("share of tokens [%]")
        extremes.xaxis.set_major_locator(MaxNLocator(integer=True))
        extremes.legend(loc="best", fontsize=9)
    return path


@contextmanager
def _figure(path: Path | str) -> Iterator[Figure]:
    with plt.rc_context(_STYLE):
        figure = plt.figure()
        try:
            yield figure
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png")
        finally:
            plt.close(figure)


def _metric(score: Path) -> tuple[str, str]:
    """Name and unit of the error rate in a directory of scores."""
    file = score / "score.json"
    try:
        metric = json.loads(file.read_text(encoding="utf-8"))["metric"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no report of `mooer score`. Give the directory that it has written.") from error
    if metric not in ("wer", "cer"):
        raise UserError(f"{score} was scored by {metric}, which counts no errors. Give scores of wer or cer.")
    return metric.upper(), {"wer": "word", "cer": "character"}[metric]


def _read_tsv(path: Path, columns: dict[str, type], otherwise: str) -> list[list[Any]]:
    """Some columns of a table with a head, each as a value of its type; lines that were torn are passed over.

    Raises:
        UserError: no such table, a column is missing, or no line; the message ends with `otherwise`.
    """
    try:
        # What follows the last line end was not written whole.
        head, *lines, _ = path.read_text(encoding="utf-8").split("\n")
        places = [head.split("\t").index(column) for column in columns]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no table with the columns {', '.join(columns)}. {otherwise}") from error
    rows = []
    for number, line in enumerate(lines, 2):
        cells = line.split("\t")
        try:
            rows.append([kind(cells[place]) for place, kind in zip(places, columns.values(), strict=True)])
        except (ValueError, IndexError):
            log.warning("%s:%d: passed over, it is no whole line", path, number)
    if not rows:
        raise UserError(f"there is nothing to draw in {path}. {otherwise}")
    return rows


def _bin_label(b: int) -> str:
    if b == len(LENGTH_EDGES) - 1:
        return f"≥ {LENGTH_EDGES[b]}"
    last = LENGTH_EDGES[b + 1] - 1
    return str(last) if last == LENGTH_EDGES[b] else f"{LENGTH_EDGES[b]}-{last}"


def _curves(path: Path) -> dict[tuple[str, str], dict[int, float]]:
    """Read one log: (kind, key) -> step -> value."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Give the train.jsonl of a run.") from error
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            kind, step = entry["kind"], entry["step"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                log.warning("%s:%d: passed over, it is no whole log entry", path, number)
            continue
        for key, value in entry.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault((kind, key), {})[step] = value
    return curves


def _draw_train(axes: Axes, curve: dict[int, float] | None) -> None:
    if not curve:
        return
    steps, values = zip(*sorted(curve.items()), strict=True)
    window = len(values) // 25
    if window < 2:
        axes.plot(steps, values, color=_COLOURS[0], linewidth=1.8, label="train")
        return
    axes.plot(steps, values, color=_COLOURS[0], linewidth=0.8, alpha=0.3)
    kernel = np.ones(window)
    finite = np.isfinite(values)
    known = np.convolve(finite, kernel, mode="same")
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    smooth = np.divide(total, known, out=np.full(len(values), math.nan), where=known > 0)
    axes.plot(steps, smooth, color=_COLOURS[0], linewidth=2, label=f"train (mean of {window} entries)")


def _draw_dev(axes: Axes, curve: dict[int, float] | None) -> None:
    if not curve:
        return
    steps, values = zip(*sorted(curve.items()), strict=True)
    style = {"color": _COLOURS[1], "linewidth": 1.8, "marker": "o", "markersize": 5.5, "markeredgecolor": "white"}
    # The number goes to the legend: beside the last point it would hide the curve.
    axes.plot(steps, values, label=f"dev, last {values[-1]:.4g}", **style)


def _draw_heat(axes: Axes, shares: np.ndarray, layers: list[str], experts: list[int]) -> None:
    """Shares in percent, shape (layers, experts), coloured by how far they are from even."""
    even = 100 / len(experts)
    scale = TwoSlopeNorm(vmin=0, vcenter=even, vmax=max(2 * even, float(np.nanmax(shares))))
    image = axes.imshow(shares, cmap="RdBu_r", norm=scale, aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="share of tokens [%]")
    axes.grid(visible=False)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    if len(experts) > NUMBERED_EXPERTS:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    axes.set_xticks(range(len(experts)), [str(expert) for expert in experts])
    for (y, x), share in np.ndenumerate(shares):
        if np.isfinite(share):
            colour = "white" if abs(scale(share) - 0.5) > 0.3 else _INK
            axes.text(x, y, f"{share:.1f}", ha="center", va="center", fontsize=8, color=colour)


if __name__ == "__main__":
    sys.exit(main())
