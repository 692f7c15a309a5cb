"""Figures of a recipe as PNG files: error rate by reference length, and the curves of a training run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mooer_tk.data.atomic import replacing
from mooer_tk.errors import UserError
from mooer_tk.score.error_rate import Unit, UttCounts

LENGTH_EDGES = (1, 3, 6, 11, 16, 21, 31, 51, 101)
"""First reference length of each bin, in units of the metric; the last bin is open."""

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


def plot_error_by_length(
    per_utt: Sequence[UttCounts],
    path: Path | str,
    *,
    unit: Unit = "word",
    title: str | None = None,
    edges: Sequence[int] = LENGTH_EDGES,
) -> None:
    """Draw stacked bars (substitutions, deletions, insertions in % of reference units) by reference length.

    Each bar bears its rate and its count of utterances; a dashed line marks the rate of all utterances.

    Args:
        edges: first length of each bin, in units of the metric, rising.

    Raises:
        UserError: no utterance.
    """
    if not per_utt:
        raise UserError(f"there is no utterance to draw in {path}. Score a set with references that are not empty.")
    kinds = ("substitutions", "deletions", "insertions")
    counts = np.array([[getattr(utt, kind) for kind in kinds] for utt in per_utt], dtype=np.int64)
    lengths = np.array([utt.ref_length for utt in per_utt])
    bins = np.searchsorted(edges, lengths, side="right") - 1
    present = sorted(set(bins.tolist()))
    units = np.array([lengths[bins == b].sum() for b in present])
    rates = 100 * np.array([counts[bins == b].sum(axis=0) for b in present]) / units[:, None]
    overall = 100 * counts.sum() / lengths.sum()
    name = "WER" if unit == "word" else "CER"
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
        axes.set_xticks(range(len(present)), [_bin_label(edges, b) for b in present])
        axes.set_ylim(0, max(float(bottom.max()), overall, 1.0) * 1.22)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(f"reference length [{unit}s]")
        axes.set_ylabel(f"{name} [%]")
        axes.set_title(title or f"{name} by reference length ({len(per_utt)} utterances)")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)


def plot_loss(log_path: Path | str, path: Path | str) -> None:
    """Draw the loss of a run, and below it one panel for each other number of the dev lines.

    A log line is an object such as {"kind": "train", "step": 10, "loss": 2.3, "lr": 1e-4} or
    {"kind": "dev", "step": 50, "loss": 2.0, "wer": 41.2}. A step that stands twice (a resumed run) counts
    once, as written last. A line that a killed process left half-written is passed over.

    Raises:
        UserError: a log that is missing, or one without any loss.
    """
    run = _curves(Path(log_path))
    if not any(key == "loss" for _, key in run):
        raise UserError(f"no loss in {log_path}. Let the run write its first step, then draw again.")
    metrics = list(dict.fromkeys(key for kind, key in run if kind == "dev" and key not in _NOT_METRICS))
    with _figure(path) as figure:
        heights = [2.0, *([1.25] * len(metrics))]
        figure.set_size_inches(8.0, 1.2 + 1.75 * sum(heights))
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        _draw_train(panels[0], run.get(("train", "loss")))
        for panel, metric in zip(panels, ["loss", *metrics], strict=True):
            _draw_dev(panel, run.get(("dev", metric)))
        panels[0].set_title("Training")
        for panel, label in zip(panels, ["loss [nats per token]", *(_LABELS.get(m, m) for m in metrics)], strict=True):
            panel.set_ylabel(label)
            panel.margins(x=0.06, y=0.14)
            panel.legend(loc="best", fontsize=9)
        panels[-1].set_xlabel("optimiser step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()


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


def _bin_label(edges: Sequence[int], b: int) -> str:
    if b == len(edges) - 1:
        return f"≥ {edges[b]}"
    last = edges[b + 1] - 1
    return str(last) if last == edges[b] else f"{edges[b]}-{last}"


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
