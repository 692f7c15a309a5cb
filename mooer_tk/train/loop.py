"""The training loop: whole-batch loss normalisation, dev scores, checkpoints, exact resume, and errors that name."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mooer_tk.config import TrainConfig
from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import Batch
from mooer_tk.progress import clock, log, track
from mooer_tk.train.batches import Place, stream
from mooer_tk.train.checkpoints import list_checkpoints, restore, save_checkpoint
from mooer_tk.train.engine import build_engine
from mooer_tk.train.objectives import SpeechObjective
from mooer_tk.train.processes import Processes, add_by_name
from mooer_tk.train.schedule import learning_rate
from mooer_tk.train.watch import TrainLog, Window, memory_gib, peak_flops

NO_MEMORY = ("out of memory", "can't allocate memory")
LOST = "/lost"  # beside the names of losses


class Trainer:
    """Runs one objective to its last step in `folder`, alone or as one of several processes.

    The directory gets `train.jsonl` (a line every `log_every` steps and every evaluation), `tensorboard/` and
    `checkpoints/`. Started again, it goes on from the newest checkpoint as if it had never stopped: weights, optimizer,
    random state and place in the data continue, and lines of the log past the checkpoint are dropped.

    `max_lost` is how many utterances of the training data may turn out to be unreadable; None: any number.
    """

    def __init__(
        self,
        objective: SpeechObjective,
        config: TrainConfig,
        folder: Path,
        processes: Processes | None = None,
        max_lost: int | None = None,
    ) -> None:
        self.objective, self.config, self.folder, self.max_lost = objective, config, folder, max_lost
        self.processes = processes or Processes()
        self.engine = build_engine(objective.module, objective.groups(), config, self.processes)
        self.step, self.place = 0, (0, 0)
        self.bad_steps = 0
        self.lost: set[str] = set()
        self.journal: TrainLog | None = None

    def run(self) -> dict[str, float]:
        """Train to the last step, or until `patience` ends; returns the last dev scores.

        Raises:
            UserError: a loss or gradient that is not finite, or too little memory (the utterances are named), or
                more utterances that cannot be read than `max_lost`.
        """
        torch.manual_seed(self.config.seed + self.processes.rank)
        scores = self._resume()
        config = self.config
        batches = stream(
            self.objective.reader,
            lambda epoch: self.objective.plan(epoch, self.processes.size),
            self.processes,
            self.place,
            config.data.workers,
        )
        window, begun, first = Window(), time.monotonic(), self.step
        steps = range(self.step, 0 if self._has_stalled() else config.steps)
        if self.processes.main:
            steps = track(steps, f"training {self.folder}", config.steps, done=self.step, unit="step")
        for _ in steps:
            started = time.monotonic()
            found = self._one_step(batches)
            if found:
                window.add(*found[:2], time.monotonic() - started, found[2])
            if self.step % config.log_every == 0 and window.counts:
                self._tell(window, found, time.monotonic() - begun, self.step - first)
                window = Window()
            last = self.step == config.steps
            if last or self.step % config.eval_every == 0:
                scores = self._evaluate()
                self._save(scores)
                if self._has_stalled():
                    log(f"step {self.step}: no better dev scores in {config.patience} evaluations: stopping early")
                    break
            elif config.save_every and self.step % config.save_every == 0:
                self._save({})
            else:
                continue
            # A run that goes on from this checkpoint starts with an empty window too.
            window = Window()
        if self.journal:
            self.journal.close()
        return scores

    def try_step(self) -> dict[str, float]:
        """One step without a trace on the disk, for a look at what a run would do: its loss, speed and memory."""
        # What the heaviest batches need is what the run needs.
        worst = self.objective.heaviest_first(self.objective.plan(0, self.processes.size))
        batches = stream(self.objective.reader, lambda _: worst, self.processes, (0, 0), 0)
        started = time.monotonic()
        found = self._one_step(batches)
        if not found:
            raise UserError("the loss of this step is not finite: look at the utterances named above.")
        window = Window()
        window.add(*found[:2], time.monotonic() - started, found[2])
        return {**window.means(), **window.speed(self._peak()), "memory_gib": memory_gib(self.processes.device)}

    def _one_step(self, turns: Iterator[tuple[Batch, Place]]) -> tuple[dict, dict, dict] | None:
        """Summed losses, tokens and facts of one optimizer step of all processes; None when it was passed over."""
        self.objective.step = self.step
        self.objective.module.train()
        device = self.processes.device
        batches, places = zip(*(next(turns) for _ in range(self.config.accumulate)), strict=True)
        lost = {utt: why for batch in batches for utt, why in batch.lost.items() if utt not in self.lost}
        own = [{} if batch.void else self.objective.counts(batch) for batch in batches]
        counts = self.processes.sums(add_by_name([*own, {LOST: len(lost)}]))
        if counts.pop(LOST):
            self._name_lost(lost)
        sums: list[dict[str, float]] = []
        work: list[dict[str, float]] = []
        for batch in batches:
            try:
                losses = self.engine(self.objective.ready(batch, device))
                share = {name: 0.0 if batch.void else weight for name, weight in self.objective.weights.items()}
                loss = sum(total * share[name] / max(counts.get(name, 0), 1) for name, (total, _) in losses.items())
                self.engine.backward(loss)
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
                    raise self._too_large(batch, error) from error
                raise
            sums.append({} if batch.void else {name: total.item() for name, (total, _) in losses.items()})
            fill, flops = self.objective.work(batch)
            work.append({"positions": fill.positions, "padded": fill.padded, "flops": flops})
        facts = add_by_name(work)
        totals = self.processes.sums({**add_by_name(sums), **{f"/{name}": value for name, value in facts.items()}})
        facts = {name: totals.pop(f"/{name}") for name in facts}
        rate = learning_rate(self.step + 1, self.config.optim, self.config.steps)
        finite = math.isfinite(sum(totals.values()))
        norm = self.engine.step(rate) if finite else math.nan
        self.step, self.place = self.step + 1, places[-1]
        if not math.isfinite(norm):
            self._bad_step(batches, totals, norm)
            return None
        return totals, counts, {**facts, "lr": rate, "grad_norm": round(norm, 3)}

    def _bad_step(self, batches: tuple[Batch, ...], sums: dict[str, float], norm: float) -> None:
        self.engine.forget()
        self.bad_steps += 1
        utts = self.processes.gather_all([utt for batch in batches for utt in batch.utts])
        found = f"the loss ({sums}) or the gradient norm ({norm}) is not finite"
        if self.processes.main:
            with (self.folder / "bad_steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "sums": str(sums), "norm": str(norm), "utts": utts}) + "\n")
        if self.bad_steps > self.config.max_bad_steps:
            raise UserError(
                f"step {self.step}: {found}, on {', '.join(utts)} (also in {self.folder}/bad_steps.jsonl). "
                "Look at these utterances, or lower the learning rate; the last checkpoint is sound."
            )
        if self.processes.main:
            log(f"step {self.step} passed over ({self.bad_steps} of {self.config.max_bad_steps}): {found}")

    def _too_large(self, batch: Batch, error: Exception) -> UserError:
        """What names the batch that memory did not suffice for, and the settings."""
        frames = int(batch.lengths.max()) if batch.lengths is not None else max(map(len, batch.features))
        return UserError(
            f"step {self.step + 1}: out of memory on {len(batch.utts)} utterances of at most {frames} frames: "
            f"{', '.join(batch.utts)}. Lower data.batch_positions (now {self.config.data.batch_positions}) and raise "
            "accumulate, set checkpointing=true, or lower data.max_seconds. The same command goes on after the last "
            f"checkpoint. ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )

    def _name_lost(self, own: dict[str, str]) -> None:
        """Name what cannot be read, each utterance once: all processes know what any of them has lost."""
        lost = dict(self.processes.gather_all(list(own.items())))
        self.lost |= lost.keys()
        path = self.folder / "lost.tsv"
        if self.processes.main:
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{utt}\t{' '.join(reason.split())}\n" for utt, reason in lost.items()))
            log(f"step {self.step + 1}: {len(lost)} utterances cannot be read ({path}): {', '.join(lost)}")
        if self.max_lost is not None and len(self.lost) > self.max_lost:
            raise UserError(
                f"{len(self.lost)} utterances of the training data cannot be read (all in {path}), {self.max_lost} may "
                "be lost. Make their shards again (stage 3), or raise --max-skip if you accept the loss."
            )

    def _tell(self, window: Window, found: tuple[dict, dict, dict] | None, seconds: float, done: int) -> None:
        """A line of the log; `seconds` went by for the `done` steps since the start."""
        if not self.journal:
            return
        left = clock(seconds / done * (self.config.steps - self.step))
        facts = {name: found[2][name] for name in ("lr", "grad_norm")} if found else {}
        line = {"kind": "train", "step": self.step, "epoch": self.place[0], **window.means(), **facts}
        line |= {**window.speed(self._peak()), "memory_gib": memory_gib(self.processes.device)}
        self.journal.add({**line, "seconds": round(seconds, 1), "left": left})

    def _peak(self) -> float:
        return self.processes.size * peak_flops(self.processes.device, self.config.precision)

    def _evaluate(self) -> dict[str, float]:
        self.objective.module.eval()
        # Generation and dropout-free passes must not shift the training's random numbers.
        with torch.random.fork_rng(), torch.no_grad():
            found = self.objective.evaluate(self.processes, self.engine.in_step)
        scores = {name: round(value, 4) for name, value in found.items()}
        if self.journal:
            self.journal.add({"kind": "dev", "step": self.step, "epoch": self.place[0], **scores})
        return scores

    def _save(self, scores: dict[str, float]) -> None:
        epoch, position = self.place
        state = {"step": self.step, "epoch": epoch, "position": position, "bad_steps": self.bad_steps}
        state |= {"lost": sorted(self.lost), **scores}
        keep = {"keep": self.config.keep, "keep_last": self.config.keep_last}
        save_checkpoint(self.folder / "checkpoints", state, self.engine, self.processes, **keep)

    def _resume(self) -> dict[str, float]:
        """Go on from the newest checkpoint; the dev scores of the last evaluation before it."""
        found = list_checkpoints(self.folder / "checkpoints")
        self.processes.wait()
        if found:
            path, state = found[-1]
            restore(path, state, self.engine, self.processes)
            self.step, self.bad_steps = state["step"], state["bad_steps"]
            self.place, self.lost = (state["epoch"], state["position"]), set(state.get("lost", []))
            if self.processes.main:
                log(f"going on from {path}")
        elif self.processes.main:
            # What an earlier run of other settings or data found is no longer true.
            for name in ("lost.tsv", "bad_steps.jsonl", "expert_load.tsv"):
                (self.folder / name).unlink(missing_ok=True)
        if not self.processes.main:
            return {}
        self.journal = TrainLog(self.folder, self.step)
        last = self.journal.dev_scores()[-1:]
        return {name: value for line in last for name, value in line.items() if name not in ("kind", "step", "epoch")}

    def _has_stalled(self) -> bool:
        """True when the best dev scores lie `patience` evaluations back; the first process tells the others."""
        if not self.config.patience:
            return False
        scores = [line["criterion"] for line in self.journal.dev_scores()] if self.journal else []
        stalled = bool(scores) and len(scores) - 1 - scores.index(min(scores)) >= self.config.patience
        return self.processes.gather(stalled)[0]
