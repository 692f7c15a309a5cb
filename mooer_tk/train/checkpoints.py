"""Checkpoints of a running training: trainable weights, optimizer, random state and place in the data.

<dir>/step-000100/weights.safetensors   trainable weights and buffers only
                  optimizer.pt          optimizer and random state, read with weights_only
                  state.json            step, epoch, batch, dev scores; written last
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mooer_tk.data.atomic import replacing_dir, sweep_leftovers
from mooer_tk.errors import UserError


def save_checkpoint(
    folder: Path, state: dict[str, Any], weights: dict[str, Tensor], optimizer: dict[str, Any], *, keep: int
) -> None:
    """Write one checkpoint atomically and drop those that are neither the newest nor among the best `keep`."""
    with replacing_dir(folder / f"step-{state['step']:06d}") as target:
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()}, target / "weights.safetensors"
        )
        torch.save({"optimizer": optimizer, "rng": torch.get_rng_state()}, target / "optimizer.pt")
        (target / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    everything = list_checkpoints(folder)
    wanted = {path for path, _ in best(everything, keep)} | {everything[-1][0]}
    for path, _ in everything:
        if path not in wanted:
            shutil.rmtree(path)


def list_checkpoints(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Whole checkpoints of a directory with their state, oldest first."""
    if folder.is_dir():
        sweep_leftovers(folder)
    found = []
    for path in sorted(folder.glob("step-*")):
        found.append((path, json.loads((path / "state.json").read_text(encoding="utf-8"))))
    return found


def best(checkpoints: list[tuple[Path, dict[str, Any]]], count: int) -> list[tuple[Path, dict[str, Any]]]:
    """The `count` checkpoints of the lowest dev criterion, best first; of equals the later one."""
    return sorted(checkpoints, key=lambda one: (one[1]["criterion"], -one[1]["step"]))[:count]


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights of one checkpoint."""
    return load_file(path / "weights.safetensors")


def load_optimizer(path: Path) -> dict[str, Any]:
    """Optimizer and random state of one checkpoint."""
    return torch.load(path / "optimizer.pt", weights_only=True)


def average(checkpoints: list[Path]) -> dict[str, Tensor]:
    """Arithmetic mean of the floating-point weights of several checkpoints; others are taken from the first.

    Raises:
        UserError: no checkpoint, or checkpoints of different models.
    """
    if not checkpoints:
        raise UserError("no checkpoint to average: run the training stage first.")
    total = load_weights(checkpoints[0])
    for path in checkpoints[1:]:
        weights = load_weights(path)
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in total.items()}:
            raise UserError(f"{path} and {checkpoints[0]} are checkpoints of different models.")
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                total[name] = total[name] + tensor
    return {n: t / len(checkpoints) if t.is_floating_point() else t for n, t in total.items()}
