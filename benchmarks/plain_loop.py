"""How MooER's published loop trains, written by us for comparison; each of its habits can be switched off.

Fixed batches of eight in shuffled order, padded to the longest: what stands before the answers on the left, the answers
on the right. The encoder runs in every step, the LM head is applied to all positions, prompt and padding too. Model,
data, optimizer and precision are those of the toolkit's recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mooer_tk.data.audio import load_audio
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.llm.speech_llm import Batch, Fill, SpeechLLM
from mooer_tk.precision import autocast
from mooer_tk.train.batches import Reader
from mooer_tk.train.examples import Example

BATCH = 8
WARM_UP = 10  # steps


@dataclass(frozen=True)
class Habits:
    """What the loop does; the default is the published one."""

    encodes: bool = True  # decode the file and run the encoder in every step, instead of reading cached states
    all_logits: bool = True  # the LM head on all positions, instead of those of the answers
    plan: tuple[tuple[int, ...], ...] = ()  # batches to take instead of eight in shuffled order
    pack: int = 0  # positions of a row that utterances share; 0: one a row
    dtype: str = (
        ""  # of the LLM's frozen weights; "" is the recipe's, float32, which every step rounds for its products
    )


class PlainLoop:
    """One epoch after another over `examples`; `wavs` says where the sound of an utterance is."""

    def __init__(
        self,
        model: SpeechLLM,
        examples: list[Example],
        wavs: dict[str, str],
        encoder: SpeechEncoder,
        habits: Habits,
        rate: float,
    ) -> None:
        self.model, self.examples, self.wavs, self.encoder, self.habits = model, examples, wavs, encoder, habits
        self.model.pack = habits.pack
        self.reader = Reader(examples)
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
        self.rate, self.taken = rate, 0

    def steps(self, seed: int) -> Iterator[tuple[int, int, int]]:
        """Take steps for ever: answer tokens, positions with content and all positions of each."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.examples)).tolist()
            plan = self.habits.plan or [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            for i in rng.permutation(len(plan)):
                yield self._step([self.examples[j] for j in plan[i]])

    def _step(self, examples: list[Example]) -> tuple[int, int, int]:
        self.model.train()
        batch = self._batch(examples)
        loss, tokens = self._all_logits(batch) if self.habits.all_logits else self.model(batch)["ce"]
        (loss / tokens).backward()
        self.taken += 1
        self.optimizer.param_groups[0]["lr"] = self.rate * min(1.0, self.taken / WARM_UP)
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return tokens, self.model.fill.positions, self.model.fill.padded

    def _batch(self, examples: list[Example]) -> Batch:
        if not self.habits.encodes:
            return self.reader.read(examples)
        waves = [load_audio(self.wavs[example.utt]) for example in examples]
        states = [torch.from_numpy(one) for one in self.encoder.encode(waves)]
        nothing: list[list[int]] = [[] for _ in examples]
        return Batch(
            [e.utt for e in examples],
            nn.utils.rnn.pad_sequence(states, batch_first=True),
            torch.tensor([len(one) for one in states]),
            [e.task for e in examples],
            [e.answer for e in examples],
            nothing,
        )

    def _all_logits(self, batch: Batch) -> tuple[Tensor, int]:
        """Labels of -100 outside the answers, and transformers' own forward, as published."""
        speech, lengths = self.model.speech(batch.states, batch.lengths)
        sequences, starts = self.model.join(speech, lengths, batch.tasks, batch.answers)
        before = max(starts)
        shape = (len(sequences), before + max(len(answer) for answer in batch.answers))
        inputs = torch.zeros(*shape, sequences[0].shape[1])
        mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
        for i, (sequence, start, answer) in enumerate(zip(sequences, starts, batch.answers, strict=True)):
            # The published collator pads what stands before the answer on the left, the answer on the right.
            place = slice(before - start, before - start + len(sequence))
            inputs[i, place], mask[i, place] = sequence, 1
            labels[i, before : before + len(answer)] = torch.tensor(answer)
        with autocast(self.model.precision):
            logits = self.model.llm(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
        shifted = logits[:, :-1].float().flatten(0, 1)
        loss = nn.functional.cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
        self.model.fill = Fill(int(mask.sum()), 0, mask.numel())
        return loss, sum(len(answer) for answer in batch.answers)
