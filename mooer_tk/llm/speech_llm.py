"""The whole model: adapter -> hand-over -> [speech][prompt][answer] -> LLM with LoRA.

The encoder stands outside: it is frozen, so its states are cached once and read here.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.handover import Handover
from mooer_tk.llm.causal_lm import logits_of
from mooer_tk.llm.prompt import Prompt
from mooer_tk.precision import autocast


@dataclass
class Batch:
    """Utterances of one micro-batch.

    Attributes:
        utts: ids, for messages.
        states: encoder states (B, T, D), zero-padded; None until the encoder has run.
        lengths: (B,) states per utterance, in the same way.
        tasks: the task of each utterance.
        answers: token ids of each answer, eos included; empty for decoding.
        targets: the transcript's classes for the CTC head; empty where there is no transcript.
        features: of audio, the encoder's features (frames, F) of each utterance; empty for cached states.
        samples: of audio, the samples of each utterance.
        lost: utterances that could not be read, with the reason.
        void: nothing could be read; what stands here keeps a process busy and must not count.
    """

    utts: list[str]
    states: Tensor | None
    lengths: Tensor | None
    tasks: list[str]
    answers: list[list[int]]
    targets: list[list[int]]
    features: list[Tensor] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    void: bool = False


@dataclass(frozen=True)
class Fill:
    """How a micro-batch filled the LLM: positions with content, the sum of squared lengths, and all positions."""

    positions: int
    squares: int
    padded: int


class SpeechLLM(nn.Module):
    """Adapter, hand-over and language model; the prompt and the tokeniser travel with them.

    Args:
        adapter: states (B, T, D), lengths -> embeddings (B, T', H), lengths.
        head: the warm start's CTC head, or None.
        handover: see adapters/handover.py.
        llm: a transformers causal LM, with or without peft's LoRA.
        tokenizer: its tokeniser.
        prompt: the one prompt object.

    `precision` is that of the LLM's matrix products in training (mooer_tk/precision.py); `pack` puts utterances into
    rows of about so many positions together (0: a row each, padded); `fill` tells of the last micro-batch.
    """

    def __init__(
        self,
        adapter: nn.Module,
        head: EmbeddingCTCHead | None,
        handover: Handover,
        llm: nn.Module,
        tokenizer: Any,
        prompt: Prompt,
    ) -> None:
        super().__init__()
        self.adapter, self.head, self.handover, self.llm = adapter, head, handover, llm
        self.tokenizer, self.prompt = tokenizer, prompt
        self.precision, self.pack = "float32", 0
        self.fill = Fill(0, 0, 0)

    def speech(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states (B, T, D), lengths (B,) -> what the LLM is fed (B, T', H), lengths (B,)."""
        return self.handover(*self.adapter(states, lengths))

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, int]]:
        """Summed losses and what they are summed over: {"ce": (sum, answer tokens), "ctc": (sum, target tokens)}.

        Cross-entropy is taken on answer and eos only, and the LM head is applied to those positions only. Sums, not
        means, so that the caller can normalise by the tokens of its whole global batch.
        """
        outputs, lengths = self.adapter(batch.states, batch.lengths)
        speech, speech_lengths = self.handover(outputs, lengths)
        sequences, starts = self.join(speech, speech_lengths, batch.tasks, batch.answers)
        rows = pack([len(one) for one in sequences], self.pack)
        hidden = self._hidden(sequences, rows)
        labels = torch.tensor([token for answer in batch.answers for token in answer], device=hidden[0].device)
        # The state before a token predicts it.
        chosen = [h[s - 1 : s - 1 + len(a)] for h, s, a in zip(hidden, starts, batch.answers, strict=True)]
        with autocast(self.precision, labels.device.type):
            logits = logits_of(self.llm, torch.cat(chosen))
        losses = {"ce": (nn.functional.cross_entropy(logits, labels, reduction="sum"), len(labels))}
        if self.head is not None and any(batch.targets):
            chosen = [i for i, target in enumerate(batch.targets) if target]
            losses["ctc"] = self.head.loss(outputs[chosen], lengths[chosen], [batch.targets[i] for i in chosen])
        return losses

    @torch.no_grad()
    def ctc(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The CTC head's log-probabilities (B, T', 1 + V) and their lengths (B,)."""
        outputs, lengths = self.adapter(batch.states, batch.lengths)
        return self.head.log_probs(outputs), lengths

    @torch.no_grad()
    def prefix(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Left-padded [speech][prompt] for generation: embeddings (B, L, H) and attention mask (B, L)."""
        speech, lengths = self.speech(batch.states, batch.lengths)
        sequences, _ = self.join(speech, lengths, batch.tasks, [[] for _ in batch.utts])
        inputs = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_side="left")
        return inputs, _mask([len(one) for one in sequences], inputs.device).flip(1)

    def _hidden(self, sequences: list[Tensor], rows: list[list[int]]) -> list[Tensor]:
        """The decoder's last states (T, H) of every sequence, computed in rows that hold one or several of them."""
        inputs = nn.utils.rnn.pad_sequence([torch.cat([sequences[i] for i in row]) for row in rows], batch_first=True)
        sizes = [[len(sequences[i]) for i in row] for row in rows]
        filled = [sum(row) for row in sizes]
        self.fill = Fill(sum(filled), sum(size**2 for row in sizes for size in row), inputs.shape[:2].numel())
        if self.pack:
            # Positions start anew with every utterance; from that transformers makes the mask between them, and
            # flash attention its lengths.
            places = [torch.arange(n) for row in sizes for n in (*row, inputs.shape[1] - sum(row))]
            where = {"position_ids": torch.cat(places).view(inputs.shape[:2]).to(inputs.device)}
        else:
            where = {"attention_mask": _mask(filled, inputs.device)}
        with autocast(self.precision, inputs.device.type):
            states = self._decoder()(inputs_embeds=inputs, use_cache=False, **where).last_hidden_state
        found: dict[int, Tensor] = {}
        for row, size, line in zip(rows, sizes, states, strict=True):
            found |= zip(row, line[: sum(size)].split(size), strict=True)
        return [found[i] for i in range(len(sequences))]

    def join(
        self, speech: Tensor, lengths: Tensor, tasks: list[str], answers: list[list[int]]
    ) -> tuple[list[Tensor], list[int]]:
        """One sequence of embeddings an utterance, and the place where its answer starts."""
        embed = self.llm.get_input_embeddings()
        around = {task: self.prompt.around(task, self.tokenizer) for task in set(tasks)}
        sequences, starts = [], []
        for row, length, task, answer in zip(speech, lengths.tolist(), tasks, answers, strict=True):
            before, after = around[task]
            left, right = (self._embed(embed, ids) for ids in (before, after + answer))
            sequences.append(torch.cat([left, row[:length].to(embed.weight.dtype), right]))
            starts.append(len(before) + length + len(after))
        return sequences, starts

    def _embed(self, embed: nn.Module, ids: list[int]) -> Tensor:
        return embed(torch.tensor(ids, dtype=torch.long, device=embed.weight.device))

    def _decoder(self) -> nn.Module:
        """The transformer without its LM head, LoRA inside."""
        llm = self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm
        return llm.base_model


def pack(sizes: list[int], room: int) -> list[list[int]]:
    """Share sequences out into as few rows as `room` positions each allow, the longest first, always into the emptiest.

    Rows of like length waste the least; one may become longer than `room`. Room 0 gives every sequence its own row.
    """
    if not room:
        return [[i] for i in range(len(sizes))]
    rows: list[list[int]] = [[] for _ in range(min(math.ceil(sum(sizes) / room), len(sizes)))]
    filled = [0] * len(rows)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = filled.index(min(filled))
        rows[row].append(i)
        filled[row] += sizes[i]
    return rows


def _mask(lengths: list[int], device: torch.device) -> Tensor:
    places = torch.arange(max(lengths), device=device)
    return (places[None] < torch.tensor(lengths, device=device)[:, None]).long()
