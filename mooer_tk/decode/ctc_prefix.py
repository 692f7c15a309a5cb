"""Joint CTC / LLM search: the warm start's CTC head judges every prefix of a transcript while the LLM writes it.

The head's classes are the LLM's own tokens, so both speak of the same prefixes. Prefix probabilities as in Watanabe et
al. 2017, "Hybrid CTC/attention architecture", algorithm 2: an LLM that invents or repeats words, or leaves some out,
pays for it at once.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from mooer_tk.adapters.ctc_head import BLANK

CANDIDATES = 24  # tokens a prefix that are judged, the LLM's best; the others are given up
IMPOSSIBLE = -1e10


class CTCPrefixScorer(LogitsProcessor):
    """Add `weight` times the CTC log-probability of each prefix to the LLM's scores.

    It acts on rows that begin with a transcript, up to its end: eos, or the joiner where a translation follows.

    Args:
        log_probs: of the CTC head (B, T, 1 + V).
        lengths: frames (B,).
        tokens: LLM token of class i + 1 (V,), sorted.
        eos, joiner: token ids that end a transcript.
        tasks: of each utterance: asr, asr_ast, or another one that is left alone.
        beam: hypotheses an utterance; they stand side by side in the rows of `__call__`.
        weight: of the CTC log-probability; the LLM's has 1.
    """

    def __init__(
        self,
        log_probs: Tensor,
        lengths: Tensor,
        *,
        tokens: Tensor,
        eos: int,
        joiner: int,
        tasks: list[str],
        beam: int,
        weight: float,
    ) -> None:
        inside = torch.arange(log_probs.shape[1], device=log_probs.device)[None] < lengths[:, None]
        log_probs = log_probs.masked_fill(~inside[..., None], IMPOSSIBLE)
        # A padded frame is a sure blank: it changes no prefix.
        log_probs[..., BLANK] = log_probs[..., BLANK].masked_fill(~inside, 0.0)
        self.log_probs = log_probs.repeat_interleave(beam, 0)
        self.tokens, self.beam, self.weight = tokens, beam, weight
        self.terminators = torch.tensor([eos, joiner], device=tokens.device)
        self.chosen = self._rows([task in ("asr", "asr_ast") for task in tasks])
        self.joined = self._rows([task == "asr_ast" for task in tasks])
        # Of the last step: the row of each prefix, the candidates (rows, K) with their states and scores.
        self.last: tuple[dict[tuple, int], Tensor, Tensor, Tensor] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary), `input_ids` (rows, tokens so far)."""
        active = self.chosen & ~torch.isin(input_ids, self.terminators).any(1)
        if not active.any():
            return scores
        states, before = self._states(input_ids, active)
        known = torch.cat([self.tokens, self.terminators])
        llm, places = scores.float().log_softmax(-1)[:, known].topk(min(CANDIDATES, len(known)), dim=-1)
        candidates = known[places]
        classes = torch.searchsorted(self.tokens, candidates).clamp_max(len(self.tokens) - 1) + 1
        ends = torch.isin(candidates, self.terminators)
        previous = input_ids[:, -1] if input_ids.shape[1] else torch.full_like(candidates[:, 0], -1)
        grown, prefix = self._extend(states, classes, candidates == previous[:, None])
        prefix = torch.where(ends, states[:, -1].logsumexp(-1)[:, None], prefix)
        joint = llm + self.weight * (prefix - before[:, None]).clamp_min(IMPOSSIBLE)
        joint = joint.masked_fill((candidates == self.terminators[1]) & ~self.joined[:, None], float("-inf"))
        rows = {self._key(row, ids): row for row, ids in enumerate(input_ids.tolist())}
        self.last = (rows, candidates, grown, prefix)
        fused = torch.full_like(scores, float("-inf")).scatter(1, candidates, joint.to(scores.dtype))
        return torch.where(active[:, None], fused, scores)

    def _rows(self, flags: list[bool]) -> Tensor:
        return torch.tensor(flags, device=self.tokens.device).repeat_interleave(self.beam)

    def _key(self, row: int, ids: list[int]) -> tuple:
        return (row // self.beam, *ids)

    def _states(self, input_ids: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """For each row's prefix: forward variables (rows, T, 2), ending in token or blank, and its log-probability."""
        if self.last is None:
            blank = self.log_probs[..., BLANK].cumsum(1)
            return torch.stack([torch.full_like(blank, IMPOSSIBLE), blank], -1), blank.new_zeros(len(blank))
        rows, candidates, grown, prefix = self.last
        # Rows that are through need no state; any will do.
        parents = [rows[self._key(row, ids[:-1])] if active[row] else 0 for row, ids in enumerate(input_ids.tolist())]
        place = (candidates[parents] == input_ids[:, -1:]).int().argmax(1)
        return grown[parents, place], prefix[parents, place]

    def _extend(self, states: Tensor, classes: Tensor, repeated: Tensor) -> tuple[Tensor, Tensor]:
        """Forward variables (rows, K, T, 2) and log-probability (rows, K) of the prefixes grown by `classes`."""
        token = self.log_probs.gather(2, classes[:, None].expand(-1, self.log_probs.shape[1], -1))  # rows, T, K
        blank = self.log_probs[..., BLANK]
        either = states.logsumexp(-1)
        # How the old prefix may end before the new token starts: a repeated token needs a blank between.
        free = torch.where(repeated[:, None], states[..., 1:], either[..., None])
        # Only a first token can stand on the first frame.
        start = torch.full_like(free[:, :1], 0.0 if self.last is None else IMPOSSIBLE)
        free = torch.cat([start.expand(-1, -1, token.shape[2]), free[:, :-1]], 1) + token
        in_token, in_blank = free[:, 0], torch.full_like(free[:, 0], IMPOSSIBLE)
        grown = [torch.stack([in_token, in_blank], -1)]
        for t in range(1, token.shape[1]):
            in_blank = torch.logaddexp(in_blank, in_token) + blank[:, t, None]
            in_token = torch.logaddexp(in_token + token[:, t], free[:, t])
            grown.append(torch.stack([in_token, in_blank], -1))
        return torch.stack(grown, 2), free.logsumexp(1)
