"""Beam search of a batch, with scores and a guard against an LLM that talks on after the speech has ended."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from mooer_tk.config import DecodeConfig
from mooer_tk.decode.ctc_prefix import CTCPrefixScorer
from mooer_tk.llm.speech_llm import Batch, SpeechLLM


@dataclass(frozen=True)
class Hypothesis:
    """One answer: its text, its length-normalised log-probability, and whether the length cap ended it."""

    text: str
    score: float
    capped: bool


@torch.no_grad()
def generate(
    model: SpeechLLM, batch: Batch, config: DecodeConfig, *, seconds: list[float], nbest: int = 1
) -> list[list[Hypothesis]]:
    """Decode a batch: the `nbest` best hypotheses of every utterance, best first.

    Args:
        seconds: durations of the utterances, for the cap on their answers.
    """
    inputs, mask = model.prefix(batch)
    tokenizer = model.tokenizer
    eos = tokenizer.eos_token_id
    allowed = caps(seconds, config.tokens_per_second, config.max_new_tokens)
    nbest = min(nbest, config.beam)
    out = model.llm.generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        num_beams=config.beam,
        num_return_sequences=nbest,
        max_new_tokens=max(allowed) + 1,
        do_sample=False,
        length_penalty=config.length_penalty if config.beam > 1 else None,
        repetition_penalty=config.repetition_penalty,
        sequence_bias=[[[eos], config.eos_bias]] if config.eos_bias else None,
        logits_processor=[*_ctc_scorer(model, batch, config), LengthCap(allowed, config.beam, eos)],
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos,
        eos_token_id=eos,
        return_dict_in_generate=True,
        # Without them transformers gives a beam search's own scores neither.
        output_scores=True,
    )
    scores = out.sequences_scores if config.beam > 1 else _greedy_scores(model, out, eos)
    results = []
    for i in range(len(batch.utts)):
        rows = range(i * nbest, (i + 1) * nbest)
        results.append(
            [_hypothesis(out.sequences[r].tolist(), float(scores[r]), allowed[i], eos, tokenizer) for r in rows]
        )
    return results


def _ctc_scorer(model: SpeechLLM, batch: Batch, config: DecodeConfig) -> list[CTCPrefixScorer]:
    """The CTC head's voice in the search, if it is wanted, there is one, and there are transcripts to score."""
    if config.ctc_weight == 0 or model.head is None or set(batch.tasks) == {"ast"}:
        return []
    return [
        CTCPrefixScorer(
            *model.ctc(batch),
            tokens=model.head.tokens,
            eos=model.tokenizer.eos_token_id,
            joiner=model.tokenizer.encode(model.prompt.joiner, add_special_tokens=False)[0],
            tasks=batch.tasks,
            beam=config.beam,
            weight=config.ctc_weight,
        )
    ]


def _hypothesis(ids: list[int], score: float, allowed: int, eos: int, tokenizer: object) -> Hypothesis:
    length = ids.index(eos) if eos in ids else len(ids)
    return Hypothesis(tokenizer.decode(ids[:length], skip_special_tokens=True).strip(), score, length >= allowed)


def _greedy_scores(model: SpeechLLM, out: object, eos: int) -> Tensor:
    """Mean log-probability of each greedy answer, eos included."""
    steps = model.llm.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    ended = (out.sequences == eos).cumsum(1)
    inside = (ended == 0) | ((ended == 1) & (out.sequences == eos))
    return (steps.masked_fill(~inside, 0.0)).sum(1) / inside.sum(1).clamp_min(1)


class LengthCap(LogitsProcessor):
    """Force eos when an answer has as many tokens as its speech allows, utterance by utterance.

    The cap is a row's own, so a transcript does not depend on the company it is decoded in.

    Args:
        caps: tokens allowed per utterance (B,).
        beam: rows per utterance.
        eos: id of the eos token.
    """

    def __init__(self, caps: list[int], beam: int, eos: int) -> None:
        self.caps = torch.tensor(caps).repeat_interleave(beam)
        self.eos = eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary); `input_ids` (rows, tokens so far) starts empty with inputs_embeds."""
        over = input_ids.shape[1] >= self.caps.to(scores.device)
        if over.any():
            scores = scores.clone()
            scores[over] = float("-inf")
            scores[over, self.eos] = 0.0
        return scores


def caps(seconds: list[float], tokens_per_second: float, most: int) -> list[int]:
    """Tokens allowed for utterances of these durations; five are always allowed for the shortest."""
    return [min(most, round(5 + tokens_per_second * one)) for one in seconds]
