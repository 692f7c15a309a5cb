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

EVAL_UTTS = 64


def set_classes(examples: list[Example], head: EmbeddingCTCHead, rate: int) -> None:
    """Give examples their CTC targets, and log what that loss cannot learn at `rate` encoder states per frame.

    Left out are tokens that the head lacks, and utterances with more tokens than frames.
    """
    tokens = unknown = 0
    long = []
    for example in examples:
        example.classes = classes = head.classes_of(example.transcript)
        tokens, unknown = tokens + len(example.transcript), unknown + len(example.transcript) - len(classes)
        # A blank must stand between two equal classes.
        needed = len(classes) + sum(one == other for one, other in pairwise(classes))
        if needed > max(example.frames // rate, 1):
            long.append(example.utt)
    if unknown:
        log(f"CTC: {unknown} of {tokens} transcript tokens are not in the head: left out of its loss")
    if long:
        few = ", ".join(long[:5])
        log(f"CTC: {len(long)} of {len(examples)} utterances have more tokens than frames: no loss: {few}")


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
        weights: name -> weight of that loss per token.
        reader: (epoch, indices) -> a micro-batch.
        step: steps taken before the present one; the loop keeps it.
    """

    module: nn.Module
    weights: dict[str, float]
    step: int = 0

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
            raise UserError(
                "train.augment changes audio, but states are cached: make shards with mooer states --audio."
            )
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
    def evaluate(self, processes: Processes, in_step: bool = False) -> dict[str, float]:
        """Dev scores; "criterion" (lower is better) chooses the checkpoints that are kept."""

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

    def dev_batches(self, size: int, processes: Processes, in_step: bool) -> Iterator[tuple[list[Example], Batch]]:
        """This process's share of the dev set, in batches of like lengths; all of it where all must keep step."""
        ordered = sorted(self.dev, key=lambda example: example.frames)
        batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
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

    def evaluate(self, processes: Processes, in_step: bool = False) -> dict[str, float]:
        """Dev CTC loss and CTC-greedy WER against the dev transcripts."""
        sums = {"loss": 0.0, "tokens": 0}
        texts: list[tuple[str, str, str]] = []
        for some, batch in self.dev_batches(EVAL_UTTS, processes, in_step):
            outputs = self.module.adapter(batch.states, batch.lengths)
            loss, tokens = self.module.head.loss(*outputs, [self.module.head.classes_of(e.transcript) for e in some])
            sums["loss"], sums["tokens"] = sums["loss"] + float(loss), sums["tokens"] + tokens
            for example, ids in zip(some, self.module.head.greedy(*outputs), strict=True):
                texts.append((example.utt, self.tokenizer.decode(example.transcript), self.tokenizer.decode(ids)))
        if not in_step:
            sums, texts = processes.sums(sums), processes.gather_all(texts)
        wer = error_rate(*_sides(texts), unit="word", normaliser=get_normaliser("whisper-en")).rate
        return {"loss": sums["loss"] / max(sums["tokens"], 1), "wer": wer, "criterion": wer}


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
        self.module = model
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

    def evaluate(self, processes: Processes, in_step: bool = False) -> dict[str, float]:
        """Dev loss per answer token; WER of the asr and BLEU of the ast utterances, generated."""
        sums = {"loss": 0.0, "tokens": 0}
        texts: dict[str, list[tuple[str, str, str]]] = {"asr": [], "ast": []}
        for some, batch in self.dev_batches(self.config.data.batch_utts, processes, in_step):
            loss, tokens = self.module(batch)["ce"]
            sums["loss"], sums["tokens"] = sums["loss"] + float(loss), sums["tokens"] + tokens
            seconds = [e.shards.entries[e.utt].seconds for e in some]
            for example, found in zip(some, generate(self.module, batch, self.decode, seconds=seconds), strict=True):
                task = "ast" if example.task == "ast" else "asr"
                reference = self.module.tokenizer.decode(example.answer[:-1])
                ref, hyp = (self.module.prompt.parts(text, example.task)[task] for text in (reference, found[0].text))
                texts[task].append((example.utt, ref, hyp))
        if not in_step:
            sums = processes.sums(sums)
            texts = {task: processes.gather_all(some) for task, some in texts.items()}
        scores = {"loss": sums["loss"] / max(sums["tokens"], 1)}
        if texts["asr"]:
            normaliser = get_normaliser("whisper-en")
            scores["wer"] = error_rate(*_sides(texts["asr"]), unit="word", normaliser=normaliser).rate
        if texts["ast"]:
            scores["bleu"] = translation(*_sides(texts["ast"]), normaliser=get_normaliser("none")).bleu.score
        # A recogniser is chosen by its errors, a mere translator by its loss (dev BLEU is noisy).
        return {**scores, "criterion": scores.get("wer", scores["loss"])}


def _sides(texts: list[tuple[str, str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """References and hypotheses by utterance."""
    return {utt: ref for utt, ref, _ in texts}, {utt: hyp for utt, _, hyp in texts}
