"""The two things a run can train: the adapter by CTC (warm start), or adapter and LoRA by the LLM's cross-entropy."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.config import DecodeConfig, TrainConfig
from mooer_tk.decode.generate import generate
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.errors import UserError
from mooer_tk.features.augment import Augmenter
from mooer_tk.llm.counting import training_flops
from mooer_tk.llm.speech_llm import Batch, Fill, SpeechLLM
from mooer_tk.progress import log
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation
from mooer_tk.train.batches import Reader, plan_epoch, with_states
from mooer_tk.train.examples import Example
from mooer_tk.train.processes import Processes


def set_classes(examples: list[Example], head: EmbeddingCTCHead, rate: int) -> None:
    """Give examples their CTC targets at `rate` encoder states per frame; tokens that the head lacks are left out."""
    for example in examples:
        example.classes = head.classes_of(example.transcript)
    tokens, known = (sum(map(len, some)) for some in zip(*((e.transcript, e.classes) for e in examples), strict=True))
    if tokens > known:
        log(f"CTC: {tokens - known} of {tokens} transcript tokens are not in the head: left out of its loss")
    tell_too_long([(e.utt, e.classes, max(e.frames // rate, 1)) for e in examples])


def tell_too_long(examples: list[tuple[str, list[int], int]]) -> None:
    """Log which (utterance, CTC targets, frames) the loss cannot learn, as their targets do not fit into the frames."""
    # A blank must stand between two equal classes.
    needed = [len(classes) + sum(one == other for one, other in pairwise(classes)) for _, classes, _ in examples]
    long = [utt for (utt, _, frames), least in zip(examples, needed, strict=True) if least > frames]
    if long:
        few = ", ".join(long[:5])
        log(f"CTC: {len(long)} of {len(examples)} utterances have more targets than frames: no loss: {few}")


class SpeechObjective(ABC):
    """What a run trains, all that the loop knows of it: examples, and how they become batches and losses.

    Args:
        train: what is trained on.
        dev: what dev scores are taken from.
        config: the run's settings.
        encoder: on the run's device, computes the states of audio shards; None where states are cached.
        rate: encoder states per embedding.
        prompt: positions of the LLM that an utterance takes beside its speech and its answer.

    Attributes:
        module: a batch -> name -> (summed loss, tokens).
        normaliser: of both sides of dev error rates.
        eval_utts: utterances of a batch of the dev set.
        weights: name -> weight of that loss per token.
        reader: a turn -> a micro-batch.
        step: steps taken before the present one; the loop keeps it.
    """

    module: nn.Module
    weights: dict[str, float]
    step: int = 0
    normaliser = "whisper-en"
    eval_utts = 64

    def __init__(
        self,
        train: list[Example],
        dev: list[Example],
        config: TrainConfig,
        encoder: SpeechEncoder | None,
        *,
        rate: int,
        prompt: int,
    ) -> None:
        self.train, self.dev, self.config, self.encoder = train, dev, config, encoder
        self.rate, self.prompt = rate, prompt
        augmenter = Augmenter(config.augment, config.seed)
        if augmenter.active and encoder is None:
            raise UserError("train.augment changes audio, but states are cached: make shards with mooer states --audio")
        self.reader = Reader(train, encoder, augmenter if augmenter.active else None)

    @abstractmethod
    def groups(self) -> list[dict]:
        """Parameter groups; "lr_scale" multiplies the schedule."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, int]:
        """name -> tokens of its losses, known before any of them is computed."""

    @abstractmethod
    def work(self, batch: Batch) -> tuple[Fill, float]:
        """How the batch that just went through filled the model, and the floating-point operations of its training."""

    @abstractmethod
    def judge(self, some: list[Example], batch: Batch) -> tuple[tuple[Tensor, int], list[tuple[str, str, str]]]:
        """Of a dev batch the summed loss and its tokens, and of each utterance ("asr" | "ast", reference, found)."""

    def evaluate(self, processes: Processes, in_step: bool = False) -> dict[str, float]:
        """Dev loss per token; WER and CER of transcripts, BLEU of translations, where there are any.

        "criterion" (lower is better) chooses the checkpoints that are kept.
        """
        sums = {"loss": 0.0, "tokens": 0}
        texts: dict[str, list[tuple[str, str, str]]] = {"asr": [], "ast": []}
        for some, batch in self._dev_batches(processes, in_step):
            (loss, tokens), found = self.judge(some, batch)
            sums["loss"], sums["tokens"] = sums["loss"] + float(loss), sums["tokens"] + tokens
            for example, (task, ref, hyp) in zip(some, found, strict=True):
                texts[task].append((example.utt, ref, hyp))
        if not in_step:
            sums = processes.sums(sums)
            texts = {task: processes.gather_all(some) for task, some in texts.items()}
        scores = {"loss": sums["loss"] / max(sums["tokens"], 1)}
        if texts["asr"]:
            for name, unit in (("wer", "word"), ("cer", "character")):
                clean = get_normaliser(self.normaliser)
                scores[name] = error_rate(*_sides(texts["asr"]), unit=unit, normaliser=clean).rate
        if texts["ast"]:
            scores["bleu"] = translation(*_sides(texts["ast"]), normaliser=get_normaliser("none")).bleu.score
        # A recogniser is chosen by its errors, a mere translator by its loss (dev BLEU is noisy).
        return {**scores, "criterion": scores.get("wer", scores["loss"])}

    def plan(self, epoch: int, processes: int = 1) -> list[list[int]]:
        """The micro-batches of an epoch, as indices into `train`: a function of the two numbers alone."""
        settings = {"stack": self.rate, "prompt": self.prompt, "seed": self.config.seed}
        return plan_epoch(self.train, self.config.data, **settings, epoch=epoch, processes=processes)

    def heaviest_first(self, plan: list[list[int]]) -> list[list[int]]:
        """The batches of a plan, those with the most positions first."""
        sizes = [example.positions(self.rate, self.prompt) for example in self.train]
        return sorted(plan, key=lambda batch: -len(batch) * max(sizes[i] for i in batch))

    def ready(self, batch: Batch, device: torch.device) -> Batch:
        """Bring a batch to the device, and let the encoder run if its states are not cached."""
        return with_states(batch, self.encoder, device)

    def _dev_batches(self, processes: Processes, in_step: bool) -> Iterator[tuple[list[Example], Batch]]:
        """This process's share of the dev set, in batches of like lengths; all of it where all must keep step."""
        ordered = sorted(self.dev, key=lambda example: example.frames)
        batches = [ordered[i : i + self.eval_utts] for i in range(0, len(ordered), self.eval_utts)]
        reader = Reader(self.dev, self.reader.encoder)
        for some in batches if in_step else batches[processes.rank :: processes.size]:
            batch = reader.read(some)
            if batch.lost:
                log(f"dev set: {len(batch.lost)} utterances cannot be read: {', '.join(batch.lost)}")
            if not batch.void:
                yield (
                    [example for example in some if example.utt not in batch.lost],
                    self.ready(batch, processes.device),
                )


class WarmStartModel(nn.Module):
    """Adapter and head as one module: a batch in, its CTC loss out."""

    def __init__(self, adapter: nn.Module, head: EmbeddingCTCHead) -> None:
        super().__init__()
        self.adapter, self.head = adapter, head

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, int]]:
        """The summed CTC loss and its target tokens."""
        return {"ctc": self.head.loss(*self.adapter(batch.states, batch.lengths), batch.targets)}


class WarmStart(SpeechObjective):
    """CTC of the adapter's output against the LLM's token embeddings; the LLM itself never runs."""

    weights = {"ctc": 1.0}

    def __init__(
        self,
        adapter: nn.Module,
        head: EmbeddingCTCHead,
        tokenizer: Any,
        train: list[Example],
        dev: list[Example],
        config: TrainConfig,
        encoder: SpeechEncoder | None = None,
    ) -> None:
        super().__init__(train, dev, config, encoder, rate=adapter.rate, prompt=0)
        self.module, self.tokenizer = WarmStartModel(adapter, head), tokenizer
        set_classes(train, head, adapter.rate)

    def groups(self) -> list[dict]:
        """One group: adapter and head."""
        return [{"params": list(self.module.parameters()), "lr_scale": 1.0}]

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"ctc": sum(len(target) for target in batch.targets)}

    def work(self, batch: Batch) -> tuple[Fill, float]:
        sizes = (batch.lengths // self.rate).clamp_min(1)
        fill = Fill(int(sizes.sum()), 0, int(len(sizes) * sizes.max()))
        trained = sum(p.numel() for p in self.module.parameters()) + self.module.head.rows.numel()
        return fill, 6.0 * trained * fill.positions

    def judge(self, some: list[Example], batch: Batch) -> tuple[tuple[Tensor, int], list[tuple[str, str, str]]]:
        """The CTC loss, and the greedy transcripts beside those of the dev set."""
        head, decode = self.module.head, self.tokenizer.decode
        outputs = self.module.adapter(batch.states, batch.lengths)
        loss = head.loss(*outputs, [head.classes_of(e.transcript) for e in some])
        found = zip(some, head.greedy(*outputs), strict=True)
        return loss, [("asr", decode(example.transcript), decode(ids)) for example, ids in found]


class Instruct(SpeechObjective):
    """Cross-entropy of the answers through the LLM, with the adapter's CTC loss beside it if asked for."""

    def __init__(
        self,
        model: SpeechLLM,
        train: list[Example],
        dev: list[Example],
        config: TrainConfig,
        decode: DecodeConfig,
        encoder: SpeechEncoder | None = None,
    ) -> None:
        tasks = {example.task for example in train}
        prompt = max(sum(map(len, model.prompt.around(t, model.tokenizer))) for t in tasks)
        super().__init__(train, dev, config, encoder, rate=model.adapter.rate, prompt=prompt)
        self.module, self.eval_utts = model, config.data.batch_utts
        self.weights = {"ce": 1.0, "ctc": config.ctc_weight}
        model.pack, model.precision = config.data.pack_positions, config.precision
        # Greedy search tells checkpoints apart as well as a beam does, at a quarter of its time.
        self.decode = replace(decode, beam=1)
        if model.head is not None and config.ctc_weight > 0:
            set_classes(train, model.head, model.adapter.rate)

    def groups(self) -> list[dict]:
        """The adapter's side, at its own share of the learning rate, and LoRA, if the LLM is not frozen."""
        adapter = [p for n, p in self.module.named_parameters() if p.requires_grad and not n.startswith("llm.")]
        lora = [p for n, p in self.module.named_parameters() if p.requires_grad and n.startswith("llm.")]
        scales = ((adapter, self.config.adapter_lr_scale), (lora, 1.0))
        return [{"params": params, "lr_scale": scale} for params, scale in scales if params]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Answer tokens and, with CTC, target tokens."""
        counts = {"ce": sum(len(answer) for answer in batch.answers)}
        if any(batch.targets):
            counts["ctc"] = sum(len(target) for target in batch.targets)
        return counts

    def work(self, batch: Batch) -> tuple[Fill, float]:
        answers = sum(len(answer) for answer in batch.answers)
        return self.module.fill, training_flops(self.module, self.module.fill, answers)

    def judge(self, some: list[Example], batch: Batch) -> tuple[tuple[Tensor, int], list[tuple[str, str, str]]]:
        """The loss of the answers, and what is generated beside what should be."""
        seconds = [e.shards.entries[e.utt].seconds for e in some]
        texts = []
        for example, found in zip(some, generate(self.module, batch, self.decode, seconds=seconds), strict=True):
            task = "ast" if example.task == "ast" else "asr"
            reference = self.module.tokenizer.decode(example.answer[:-1])
            ref, hyp = (self.module.prompt.parts(text, example.task)[task] for text in (reference, found[0].text))
            texts.append((task, ref, hyp))
        return self.module(batch)["ce"], texts


def _sides(texts: list[tuple[str, str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """References and hypotheses by utterance."""
    return {utt: ref for utt, ref, _ in texts}, {utt: hyp for utt, _, hyp in texts}
