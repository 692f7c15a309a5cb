"""Checkpoints of a running training: trainable weights, optimizer, random state and place in the data.

<dir>/step-000100/weights.safetensors   trainable weights and buffers only
                  optimizer.pt          the optimizer, read with weights_only; engine/ where DeepSpeed writes its parts
                  random.pt             the random state of every process, read with weights_only
                  state.json            step, epoch, place, processes, dev scores
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mooer_tk.data.atomic import replacing_dir, sweep_leftovers
from mooer_tk.errors import UserError
from mooer_tk.train.engine import Engine
from mooer_tk.train.processes import Processes
from mooer_tk.weights import check_fit


def save_checkpoint(
    folder: Path, state: dict[str, Any], engine: Engine, processes: Processes, *, keep: int, keep_last: int = 1
) -> None:
    """Write one checkpoint atomically; all processes call it, and each writes its part of the optimizer.

    The `keep` best by "criterion" stay, and the `keep_last` newest; the others are removed.
    """
    weights = engine.weights()
    random = processes.gather(_random_state())
    with _shared_folder(folder / f"step-{state['step']:06d}", processes) as target:
        if processes.main:
            save_file({n: w.detach().cpu().contiguous() for n, w in weights.items()}, target / "weights.safetensors")
            torch.save(random, target / "random.pt")
            text = json.dumps({**state, "processes": processes.size}, indent=2) + "\n"
            (target / "state.json").write_text(text, encoding="utf-8")
        engine.save(target)
    if processes.main:
        everything = list_checkpoints(folder)
        wanted = {path for path, _ in best(everything, keep)} | {path for path, _ in everything[-max(keep_last, 1) :]}
        for path, _ in everything:
            if path not in wanted:
                shutil.rmtree(path)


@contextmanager
def _shared_folder(path: Path, processes: Processes) -> Iterator[Path]:
    """A temporary directory that all processes write to; it becomes `path` when the last one has finished."""
    if processes.main:
        with replacing_dir(path) as target:
            processes.gather(str(target))
            yield target
            processes.wait()
    else:
        yield Path(processes.gather(None)[0])
        processes.wait()
    # Nobody goes on before it has its name.
    processes.wait()


def restore(path: Path, state: dict[str, Any], engine: Engine, processes: Processes) -> None:
    """Bring weights, optimizer and random state back to what they were when `path` was written.

    Raises:
        UserError: a checkpoint of another model, or of another number of processes.
    """
    if state["processes"] != processes.size:
        sizes = f"{path} is of a run in {state['processes']} processes, this one has {processes.size}"
        raise UserError(f"{sizes}: start as many, or take its averaged model to a new run (--init-model).")
    weights = load_weights(path)
    check_fit(engine.weights(), weights, str(path))
    engine.load_weights(weights)
    engine.load(path)
    own = torch.load(path / "random.pt", weights_only=True)[processes.rank]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and processes.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], processes.device)


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def list_checkpoints(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Whole checkpoints of a directory with their state, oldest first."""
    if folder.is_dir():
        sweep_leftovers(folder)
    paths = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return [(path, json.loads((path / "state.json").read_text(encoding="utf-8"))) for path in paths]


def best(checkpoints: list[tuple[Path, dict[str, Any]]], count: int) -> list[tuple[Path, dict[str, Any]]]:
    """The `count` checkpoints of the lowest dev criterion, best first; of equals the later one."""
    scored = [one for one in checkpoints if "criterion" in one[1]]
    return sorted(scored, key=lambda one: (one[1]["criterion"], -one[1]["step"]))[:count]


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights of one checkpoint."""
    return load_file(path / "weights.safetensors")


def average(checkpoints: list[Path]) -> dict[str, Tensor]:
    """Arithmetic mean of the floating-point weights of several checkpoints; others are taken from the first.

    Raises:
        UserError: checkpoints of different models.
    """
    total = load_weights(checkpoints[0])
    for path in checkpoints[1:]:
        weights = load_weights(path)
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in total.items()}:
            raise UserError(f"{path} and {checkpoints[0]} are checkpoints of different models.")
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                total[name] = total[name] + tensor
    return {n: t / len(checkpoints) if t.is_floating_point() else t for n, t in total.items()}
