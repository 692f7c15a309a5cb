"""Training U2++ in the common loop: log-mel features of audio shards in, the joint loss and the dev error rate out."""

from pathlib import Path

import torch
from torch import Tensor

from mooer_tk.data.atomic import write_text
from mooer_tk.encoders.log_mel import LogMel
from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import Batch, Fill
from mooer_tk.moe.layer import BALANCE, Z_LOSS, active, mixtures
from mooer_tk.precision import autocast
from mooer_tk.progress import log
from mooer_tk.train.examples import Example
from mooer_tk.train.objectives import SpeechObjective, tell_too_long
from mooer_tk.train.processes import Processes
from mooer_tk.u2pp.config import U2ppConfig
from mooer_tk.u2pp.encoder import RATE
from mooer_tk.u2pp.model import CTC, LEFT, RIGHT, U2pp, loss_weights
from mooer_tk.u2pp.search import ctc_greedy
from mooer_tk.u2pp.units import UNKNOWN, Units

LOAD_HEADER = "step\tlayer\texpert\tshare\n"


class BareText:
    """What stands for a prompt where there is none: the answer is the transcript."""

    def check_task(self, task: str) -> None:
        """Refuse what this model cannot learn."""
        if task != "asr":
            raise UserError(f"a source of task '{task}': U2++ transcribes, its sources are asr:shards:text.")

    def answer(self, texts: list[str], units: Units) -> list[int]:
        """Unit ids of the transcript."""
        return units.encode(texts[0])


class U2ppObjective(SpeechObjective):
    """The joint loss of a U2++ model.

    Args:
        model: what is trained; with frozen weights, what is not frozen.
        out: directory for expert_load.tsv; None writes none.
    """

    normaliser = "target-en"

    def __init__(
        self, model: U2pp, units: Units, train: list[Example], dev: list[Example], config: U2ppConfig, out: Path | None
    ) -> None:
        super().__init__(train, dev, config.train, LogMel(config.model.mels), rate=1, prompt=0)
        self.module, self.units, self.out = model, units, out
        self.weights, self.ctc_only_steps = loss_weights(config), config.loss.ctc_only_steps
        model.loss, model.precision = config.loss, config.train.precision
        unknown, total = map(sum, zip(*((e.answer.count(UNKNOWN), len(e.answer)) for e in train), strict=True))
        if unknown:
            log(f"{unknown} of {total} units of the training text are not in {units.path}: written as unknown")
        tell_too_long([(e.utt, e.answer, max((e.frames - 3) // RATE, 1)) for e in train])

    def groups(self) -> list[dict]:
        """One group: what is not frozen."""
        return [{"params": [p for p in self.module.parameters() if p.requires_grad], "lr_scale": 1.0}]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Units for CTC, units and ends for the decoders, layers for the router's losses."""
        units = sum(map(len, batch.answers))
        alone = self.step < self.ctc_only_steps
        ended, layers = units + len(batch.answers), len(mixtures(self.module.encoder if alone else self.module))
        counts = {CTC: units, BALANCE: layers, Z_LOSS: layers}
        counts |= {} if alone else {LEFT: ended, RIGHT: ended}
        return {name: count for name, count in counts.items() if self.weights[name]}

    def ready(self, batch: Batch, device: torch.device) -> Batch:
        """Pad the features and bring them to the device; the first steps are CTC's alone, where the config says so."""
        self.module.ctc_only = self.step < self.ctc_only_steps
        batch.states = torch.nn.utils.rnn.pad_sequence(batch.features, batch_first=True).to(device)
        batch.lengths = torch.tensor([len(one) for one in batch.features], device=device)
        return batch

    def work(self, batch: Batch) -> tuple[Fill, float]:
        """How the batch filled the encoder, and the floating-point operations of its training; experts by top-k."""
        return self.module.fill, 6.0 * active(self.module.encoder.layers) * self.module.fill.positions

    def judge(self, some: list[Example], batch: Batch) -> tuple[tuple[Tensor, int], list[tuple[str, str, str]]]:
        """The loss of the left-to-right decoder, and CTC's best paths beside the transcripts."""
        loss = self.module(batch)[LEFT]
        with autocast(self.config.precision, batch.states.device.type):
            states, lengths, _ = self.module.encoder(batch.states, batch.lengths)
        rows = zip(some, self.module.log_probs(states), lengths.tolist(), strict=True)
        found = [(example.answer, list(ctc_greedy(row[:length]).tokens)) for example, row, length in rows]
        return loss, [("asr", self.units.decode(answer), self.units.decode(tokens)) for answer, tokens in found]

    def evaluate(self, processes: Processes, in_step: bool = False) -> dict[str, float]:
        """Scores of the dev set; writes the experts' load since the last ones."""
        load = self._take_load(processes)
        scores = super().evaluate(processes, in_step)
        self._take_load(None)
        if self.out and load:
            self._write_load(load, self.step + 1)
        # Characters tell early models apart, and languages without blanks at all.
        return {**scores, "criterion": scores["cer"]}

    def _take_load(self, processes: Processes | None) -> dict[str, list[float]]:
        """Frames of every expert since the last call, over all processes, by layer; None drops them."""
        found = {name: moe.load.tolist() for name, moe in mixtures(self.module).items()}
        for moe in mixtures(self.module).values():
            moe.load.zero_()
        if processes is None:
            return {}
        flat = processes.sums({f"{n}\t{i}": value for n, row in found.items() for i, value in enumerate(row)})
        return {name: [flat[f"{name}\t{i}"] for i in range(len(row))] for name, row in found.items()}

    def _write_load(self, load: dict[str, list[float]], step: int) -> None:
        """Add each expert's share of its layer's frames to expert_load.tsv; lines past `step` are of a killed run."""
        path = self.out / "expert_load.tsv"
        lines = path.read_text(encoding="utf-8").splitlines(True)[1:] if path.is_file() else []
        kept = [line for line in lines if int(line.split("\t")[0]) < step]
        for layer, row in load.items():
            kept += [f"{step}\t{layer}\t{i}\t{value / max(sum(row), 1):.5f}\n" for i, value in enumerate(row)]
        write_text(path, LOAD_HEADER + "".join(kept))
