"""The two things a run can train: the adapter by CTC (warm start), or adapter and LoRA by the LLM's cross-entropy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.config import DecodeConfig, TrainConfig
from mooer_tk.decode.generate import generate
from mooer_tk.llm.speech_llm import Batch, SpeechLLM
from mooer_tk.progress import log
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation
from mooer_tk.train.examples import Example, collate, plan_epoch

EVAL_UTTS = 64


def report_ctc(examples: list[Example], head: EmbeddingCTCHead, rate: int) -> None:
    """Log what the CTC loss cannot learn: tokens that the head lacks, and utterances with more tokens than frames.

    Args:
        examples: what is trained on.
        head: the CTC head.
        rate: encoder states per frame of the head.
    """
    tokens = unknown = 0
    long = []
    for example in examples:
        classes = head.classes_of(example.transcript)
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


class WarmStart:
    """CTC of the adapter's output against the LLM's token embeddings; the LLM itself never runs."""

    def __init__(
        self,
        adapter: nn.Module,
        head: EmbeddingCTCHead,
        tokenizer: Any,
        train: list[Example],
        dev: list[Example],
        config: TrainConfig,
    ) -> None:
        self.adapter, self.head, self.tokenizer = adapter, head, tokenizer
        self.module = nn.ModuleDict({"adapter": adapter, "head": head})
        self.train, self.dev, self.config = train, dev, config
        report_ctc(train, head, adapter.rate)

    def groups(self) -> list[dict]:
        """One group: adapter and head."""
        return [{"params": list(self.module.parameters()), "lr_scale": 1.0}]

    def plan(self, epoch: int) -> list[list[int]]:
        """Batches by embeddings; the LLM's prompt costs nothing here."""
        data, seed = self.config.data, self.config.seed
        return plan_epoch(self.train, data, stack=self.adapter.rate, prompt=0, seed=seed, epoch=epoch)

    def batch(self, indices: list[int]) -> Batch:
        """Read one micro-batch."""
        return collate([self.train[i] for i in indices], self.head.classes_of)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Target tokens."""
        return {"ctc": sum(len(target) for target in batch.targets)}

    def losses(self, batch: Batch) -> dict[str, tuple[Tensor, float]]:
        """The CTC loss alone."""
        loss, _ = self.head.loss(*self.adapter(batch.states, batch.lengths), batch.targets)
        return {"ctc": (loss, 1.0)}

    def evaluate(self) -> dict[str, float]:
        """Dev CTC loss and CTC-greedy WER against the dev transcripts."""
        total, count, refs, hyps = 0.0, 0, {}, {}
        for first in range(0, len(self.dev), EVAL_UTTS):
            some = self.dev[first : first + EVAL_UTTS]
            batch = collate(some, self.head.classes_of)
            outputs = self.adapter(batch.states, batch.lengths)
            loss, tokens = self.head.loss(*outputs, batch.targets)
            total, count = total + float(loss), count + tokens
            for example, ids in zip(some, self.head.greedy(*outputs), strict=True):
                refs[example.utt] = self.tokenizer.decode(example.transcript)
                hyps[example.utt] = self.tokenizer.decode(ids)
        wer = error_rate(refs, hyps, unit="word", normaliser=get_normaliser("whisper-en")).rate
        return {"loss": total / max(count, 1), "wer": wer, "criterion": wer}


class Instruct:
    """Cross-entropy of the answers through the LLM, with the adapter's CTC loss beside it if asked for."""

    def __init__(
        self,
        model: SpeechLLM,
        train: list[Example],
        dev: list[Example],
        config: TrainConfig,
        decode: DecodeConfig,
    ) -> None:
        self.model, self.module = model, model
        self.train, self.dev, self.config = train, dev, config
        # Greedy search tells checkpoints apart as well as a beam does, at a quarter of its time.
        self.decode = DecodeConfig(**{**vars(decode), "beam": 1})
        if self.with_ctc:
            report_ctc(train, model.head, model.adapter.rate)
        tasks = {example.task for example in train}
        self.prompt_tokens = max(sum(map(len, model.prompt.around(t, model.tokenizer))) for t in tasks)

    @property
    def with_ctc(self) -> bool:
        """Whether the adapter's CTC loss is taken too."""
        return self.model.head is not None and self.config.ctc_weight > 0

    def groups(self) -> list[dict]:
        """The adapter's side, at its own share of the learning rate, and LoRA, if the LLM is not frozen."""
        adapter = [p for n, p in self.model.named_parameters() if p.requires_grad and not n.startswith("llm.")]
        lora = [p for n, p in self.model.named_parameters() if p.requires_grad and n.startswith("llm.")]
        groups = [
            {"params": adapter, "lr_scale": self.config.adapter_lr_scale},
            {"params": lora, "lr_scale": 1.0},
        ]
        return [group for group in groups if group["params"]]

    def plan(self, epoch: int) -> list[list[int]]:
        """Batches by the positions that the LLM sees."""
        return plan_epoch(
            self.train,
            self.config.data,
            stack=self.model.adapter.rate,
            prompt=self.prompt_tokens,
            seed=self.config.seed,
            epoch=epoch,
        )

    def batch(self, indices: list[int]) -> Batch:
        """Read one micro-batch."""
        return collate([self.train[i] for i in indices], self.model.head.classes_of if self.with_ctc else None)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Answer tokens and, with CTC, target tokens."""
        counts = {"ce": sum(len(answer) for answer in batch.answers)}
        if any(batch.targets):
            counts["ctc"] = sum(len(target) for target in batch.targets)
        return counts

    def losses(self, batch: Batch) -> dict[str, tuple[Tensor, float]]:
        """Cross-entropy with weight 1 and CTC with `ctc_weight`."""
        weights = {"ce": 1.0, "ctc": self.config.ctc_weight}
        return {name: (total, weights[name]) for name, (total, _) in self.model.losses(batch).items()}

    def evaluate(self) -> dict[str, float]:
        """Dev loss per answer token; WER of the asr and BLEU of the ast utterances, generated."""
        total, count = 0.0, 0
        texts: dict[str, dict[str, dict[str, str]]] = {"asr": {}, "ast": {}}
        size = self.config.data.batch_utts
        ordered = sorted(self.dev, key=lambda example: example.frames)
        for first in range(0, len(ordered), size):
            some = ordered[first : first + size]
            batch = collate(some)
            loss, tokens = self.model.losses(batch)["ce"]
            total, count = total + float(loss), count + tokens
            hypotheses = generate(
                self.model, batch, self.decode, seconds=[e.shards.entries[e.utt].seconds for e in some]
            )
            for example, hypothesis in zip(some, hypotheses, strict=True):
                task = "ast" if example.task == "ast" else "asr"
                reference = self.model.tokenizer.decode(example.answer[:-1])
                answer = self.model.prompt.parts(reference, example.task)
                texts[task].setdefault("ref", {})[example.utt] = answer[task]
                texts[task].setdefault("hyp", {})[example.utt] = self.model.prompt.parts(
                    hypothesis[0].text, example.task
                )[task]
        scores = {"loss": total / max(count, 1)}
        if texts["asr"]:
            normaliser = get_normaliser("whisper-en")
            scores["wer"] = error_rate(
                texts["asr"]["ref"], texts["asr"]["hyp"], unit="word", normaliser=normaliser
            ).rate
        if texts["ast"]:
            scores["bleu"] = translation(
                texts["ast"]["ref"], texts["ast"]["hyp"], normaliser=get_normaliser("none")
            ).bleu.score
        # A recogniser is chosen by its errors, a mere translator by its loss (dev BLEU is noisy).
        return {**scores, "criterion": scores.get("wer", scores["loss"])}
