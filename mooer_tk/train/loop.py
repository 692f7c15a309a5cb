"""The training loop: one optimizer, whole-batch loss normalisation, dev scores, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from mooer_tk.config import OptimConfig, TrainConfig
from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError, nearest
from mooer_tk.llm.speech_llm import Batch
from mooer_tk.progress import log, track
from mooer_tk.train.checkpoints import list_checkpoints, load_optimizer, load_weights, save_checkpoint

SCHEDULES = ("cosine", "warmup_decay")


class Objective(Protocol):
    """What a run trains: the loop knows nothing else of it."""

    module: nn.Module

    def groups(self) -> list[dict]:
        """Parameter groups for AdamW; "lr_scale" multiplies the schedule."""

    def plan(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, a function of the epoch alone."""

    def batch(self, indices: list[int]) -> Batch:
        """Read one micro-batch."""

    def losses(self, batch: Batch) -> dict[str, tuple[Tensor, float]]:
        """name -> (summed loss, weight): the step's loss is the sum over names of weight * sum / count."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """name -> count of `losses`, known before any of them is computed."""

    def evaluate(self) -> dict[str, float]:
        """Dev scores; "criterion" (lower is better) chooses the checkpoints that are kept."""


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """The learning rate of a step, counted from 1.

    cosine: a linear warm-up, then a cosine to `min_lr_share` of the peak. warmup_decay: DeepSpeed's WarmupDecayLR, a
    logarithmic warm-up, ln(step) / ln(warmup_steps) of the peak, then a line to 0 at `decay_steps` (MooER's schedule).

    Raises:
        UserError: an unknown schedule.
    """
    if config.schedule not in SCHEDULES:
        raise UserError(f"optim.schedule '{config.schedule}' is unknown: {nearest(config.schedule, SCHEDULES)}")
    if config.schedule == "warmup_decay":
        if step < config.warmup_steps:
            return config.lr * math.log(step) / math.log(config.warmup_steps)
        end = config.decay_steps or steps
        return config.lr * max(0.0, (end - step) / max(end - config.warmup_steps, 1))
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.lr * (config.min_lr_share + (1 - config.min_lr_share) * 0.5 * (1 + math.cos(math.pi * done)))


class Window:
    """The losses of the steps since the last line of the log: one batch alone says little, as its lengths are alike."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.seconds = 0.0

    def add(self, sums: dict[str, float], counts: dict[str, int], seconds: float) -> None:
        """Take one step in."""
        for name, count in counts.items():
            self.sums[name] = self.sums.get(name, 0.0) + sums.get(name, 0.0)
            self.counts[name] = self.counts.get(name, 0) + count
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """Loss per token by name, the first one as "loss" too, and the tokens of that one per second."""
        means = {f"loss_{name}": round(total / max(self.counts[name], 1), 4) for name, total in self.sums.items()}
        main = next(iter(self.counts))
        return {"loss": means[f"loss_{main}"], **means, "tokens_per_s": round(self.counts[main] / self.seconds, 1)}


class Trainer:
    """Runs one objective to its last step in `folder`.

    The directory gets `train.jsonl` (a line every `log_every` steps and every evaluation) and `checkpoints/`. Started
    again, it goes on from the newest checkpoint as if it had never stopped: weights, optimizer, random state and place
    in the data continue, and lines of the log past the checkpoint are dropped.
    """

    def __init__(self, objective: Objective, config: TrainConfig, folder: Path) -> None:
        self.objective = objective
        self.config = config
        self.log_path = folder / "train.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.optimizer = torch.optim.AdamW(
            objective.groups(),
            lr=config.optim.lr,
            betas=tuple(config.optim.betas),
            weight_decay=config.optim.weight_decay,
        )
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.step = self.epoch = self.position = 0
        self.lines: list[dict] = []

    def run(self) -> dict[str, float]:
        """Train to the last step; returns the last dev scores.

        Raises:
            UserError: a loss or gradient that is not finite (the utterances are named).
        """
        torch.manual_seed(self.config.seed)
        self._resume()
        stream = self._micro_batches()
        window, begun = Window(), time.monotonic()
        what = f"training {self.checkpoints.parent}"
        last = self.lines[-1] if self.lines else {}
        scores = {name: value for name, value in last.items() if name not in ("kind", "step", "epoch")}
        for _ in track(range(self.step, self.config.steps), what, self.config.steps, done=self.step, unit="step"):
            started = time.monotonic()
            sums, counts, facts = self._one_step(stream)
            window.add(sums, counts, time.monotonic() - started)
            if self.step % self.config.log_every == 0:
                now = round(time.monotonic() - begun, 1)
                self._log(
                    {"kind": "train", "step": self.step, "epoch": self.epoch, **window.means(), **facts, "seconds": now}
                )
                window = Window()
            if self.step % self.config.eval_every == 0 or self.step == self.config.steps:
                scores = self._evaluate()
                # A run that goes on from this checkpoint starts with an empty window too.
                window = Window()
        return scores

    def _one_step(self, stream: Iterator[Batch]) -> tuple[dict[str, float], dict[str, int], dict[str, float]]:
        self.objective.module.train()
        batches = [next(stream) for _ in range(self.config.accumulate)]
        counts: dict[str, int] = {}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        sums: dict[str, float] = {}
        for batch in batches:
            losses = self.objective.losses(batch)
            for name, (total, _) in losses.items():
                sums[name] = sums.get(name, 0.0) + total.item()
            sum(total * weight / max(counts[name], 1) for name, (total, weight) in losses.items()).backward()
        norm = float(nn.utils.clip_grad_norm_(self.trained, self.config.optim.clip))
        if not math.isfinite(norm + sum(sums.values())):
            utts = ", ".join(utt for batch in batches for utt in batch.utts)
            raise UserError(
                f"step {self.step + 1}: the loss ({sums}) or the gradient norm ({norm}) is not finite, on {utts}. "
                "Look at these utterances, or lower the learning rate; the last checkpoint is sound."
            )
        self.step += 1
        rate = learning_rate(self.step, self.config.optim, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums, counts, {"lr": rate, "grad_norm": round(norm, 3)}

    def _micro_batches(self) -> Iterator[Batch]:
        while True:
            plan = self.objective.plan(self.epoch)
            if not plan:
                raise UserError("an epoch without a single batch: are all source weights 0?")
            while self.position < len(plan):
                self.position += 1
                yield self.objective.batch(plan[self.position - 1])
            self.epoch, self.position = self.epoch + 1, 0

    def _evaluate(self) -> dict[str, float]:
        self.objective.module.eval()
        # Generation and dropout-free passes must not shift the training's random numbers.
        state = torch.get_rng_state()
        with torch.no_grad():
            scores = {name: round(value, 4) for name, value in self.objective.evaluate().items()}
        torch.set_rng_state(state)
        self._log({"kind": "dev", "step": self.step, "epoch": self.epoch, **scores})
        place = {"step": self.step, "epoch": self.epoch, "position": self.position, **scores}
        save_checkpoint(self.checkpoints, place, self._weights(), self.optimizer.state_dict(), keep=self.config.keep)
        return scores

    def _weights(self) -> dict[str, Tensor]:
        module = self.objective.module
        trained = {id(p) for p in self.trained}
        weights = {name: p for name, p in module.named_parameters() if id(p) in trained}
        return {**weights, **_persistent_buffers(module)}

    def _resume(self) -> None:
        found = list_checkpoints(self.checkpoints)
        if not found:
            write_text(self.log_path, "")
            return
        path, state = found[-1]
        module = self.objective.module
        weights = load_weights(path)
        expected = self._weights()
        if set(weights) != set(expected):
            raise UserError(
                f"{path} is of another model: {sorted(set(weights) ^ set(expected))[:5]}; choose another --out."
            )
        module.load_state_dict(weights, strict=False)
        saved = load_optimizer(path)
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.lines = [line for line in _read_log(self.log_path) if line["step"] <= self.step]
        write_text(self.log_path, "".join(json.dumps(line) + "\n" for line in self.lines))
        log(f"going on from {path}")

    def _log(self, line: dict) -> None:
        self.lines.append(line)
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = " ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items() if k != "kind")
        log(f"{line['kind']}: {shown}")


def _persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    kept = set(module.state_dict())
    return {name: buffer for name, buffer in module.named_buffers() if name in kept and not name.startswith("llm.")}


def _read_log(path: Path) -> list[dict]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            # The process was killed while it wrote this line; the checkpoint is older, so the line comes again.
            continue
    return lines
