"""Guards of generation: what keeps an LLM from talking on after the speech has ended."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor


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
