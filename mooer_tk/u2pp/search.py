"""The four searches of U2++: CTC greedy, CTC prefix beam, attention, and attention rescoring of the CTC's n-best."""

import heapq
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mooer_tk.u2pp.config import SearchConfig
from mooer_tk.u2pp.decoder import Decoder
from mooer_tk.u2pp.model import U2pp
from mooer_tk.u2pp.units import BLANK

MODES = ("ctc_greedy", "ctc_prefix_beam", "attention", "attention_rescoring")


@dataclass(frozen=True)
class Found:
    """One hypothesis: unit ids and a score (natural log)."""

    tokens: tuple[int, ...]
    score: float


class PrefixBeam:
    """CTC prefix beam search that takes frames as they come (Graves 2006; Hannun et al., arXiv 1408.2873).

    Every prefix has two log-probabilities: of the paths that end in a blank, and of those that do not. A frame extends
    the prefixes by its `beam` most probable units.
    """

    def __init__(self, beam: int) -> None:
        self.beam = beam
        self.prefixes: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}

    def advance(self, log_probs: Tensor) -> None:
        """Take in frames (T, vocabulary)."""
        values, units = log_probs.topk(min(self.beam, log_probs.shape[-1]))
        for frame, ids in zip(values.tolist(), units.tolist(), strict=True):
            self._take(list(zip(ids, frame, strict=True)))

    def _take(self, frame: list[tuple[int, float]]) -> None:
        grown: dict[tuple[int, ...], list[float]] = {}

        def add(prefix: tuple[int, ...], place: int, score: float) -> None:
            if score == -math.inf:
                return
            scores = grown.setdefault(prefix, [-math.inf, -math.inf])
            scores[place] = _log_add(scores[place], score)

        for prefix, (blank, other) in self.prefixes.items():
            both = _log_add(blank, other)
            for unit, score in frame:
                if unit == BLANK:
                    add(prefix, 0, both + score)
                elif prefix and unit == prefix[-1]:
                    add(prefix, 1, other + score)
                    add((*prefix, unit), 1, blank + score)
                else:
                    add((*prefix, unit), 1, both + score)
        best = heapq.nlargest(self.beam, grown.items(), key=lambda one: _log_add(*one[1]))
        self.prefixes = {prefix: (scores[0], scores[1]) for prefix, scores in best}

    def best(self) -> list[Found]:
        """The prefixes, the most probable first."""
        found = [Found(prefix, _log_add(*scores)) for prefix, scores in self.prefixes.items()]
        return sorted(found, key=lambda one: -one.score)


def _log_add(one: float, other: float) -> float:
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def ctc_greedy(log_probs: Tensor) -> Found:
    """The best path of frames (T, vocabulary), repeats merged and blanks dropped."""
    values, units = log_probs.max(-1)
    merged = torch.unique_consecutive(units)
    return Found(tuple(merged[merged != BLANK].tolist()), float(values.sum()))


def ctc_prefix_beam(log_probs: Tensor, beam: int) -> list[Found]:
    """The n-best of frames (T, vocabulary)."""
    search = PrefixBeam(beam)
    search.advance(log_probs)
    return search.best()


def attention(model: U2pp, states: Tensor, config: SearchConfig) -> list[Found]:
    """Beam search of the left-to-right decoder over the states (T, D) of one utterance; at most a token a frame."""
    states, beam = states[None], config.beam
    prefixes, scores, finished = torch.full((1, 1), model.ends), torch.zeros(1), []
    pasts = None
    for _ in range(states.shape[1]):
        size = len(prefixes)
        here = states.expand(size, -1, -1)
        heard = torch.ones(here.shape[:2], dtype=torch.bool, device=states.device)
        last = prefixes[:, -1:].to(states.device)
        logits, pasts = model.left(last, torch.ones(size, dtype=torch.long), here, heard, pasts)
        total = scores[:, None] + logits[:, -1].float().log_softmax(-1).cpu()
        # Neither a blank nor what is unknown can be written.
        total[:, :2] = -math.inf
        scores, flat = total.flatten().topk(min(beam, total.numel()))
        rows, tokens = flat // total.shape[1], flat % total.shape[1]
        prefixes = torch.cat([prefixes[rows], tokens[:, None]], 1)
        ended = (tokens == model.ends).tolist()
        for prefix, score, end in zip(prefixes.tolist(), scores.tolist(), ended, strict=True):
            if end and score > -math.inf:
                finished.append(Found(tuple(prefix[1:-1]), score))
        going = torch.tensor([not end for end in ended])
        prefixes, scores = prefixes[going], scores[going]
        pasts = [one[rows[going].to(one.device)] for one in pasts]
        # Scores only fall: nothing that goes on can overtake the beam of what has ended.
        best = heapq.nlargest(beam, (one.score for one in finished))
        if not len(prefixes) or (len(best) == beam and best[-1] >= float(scores.max())):
            break
    if not finished:
        finished = [Found(tuple(p[1:]), s) for p, s in zip(prefixes.tolist(), scores.tolist(), strict=True)]
    return heapq.nlargest(beam, finished, key=lambda one: one.score)


def rescore(model: U2pp, states: Tensor, nbest: list[Found], config: SearchConfig) -> list[Found]:
    """The CTC's n-best over states (T, D), scored by both decoders as well (U2++, equation 8)."""
    answers = [list(one.tokens) for one in nbest]
    left = _spell(model, model.left, states, answers)
    weight = config.reverse_weight if model.right is not None else 0.0
    right = _spell(model, model.right, states, [a[::-1] for a in answers]) if weight else left
    scores = (1 - weight) * left + weight * right
    found = [Found(o.tokens, float(s) + config.ctc_weight * o.score) for o, s in zip(nbest, scores, strict=True)]
    return sorted(found, key=lambda one: -one.score)


def _spell(model: U2pp, decoder: Decoder, states: Tensor, answers: list[list[int]]) -> Tensor:
    """Log-probability (N,) of each answer and the end behind it."""
    inputs, targets, lengths = model.teach(answers, states.device)
    states = states.expand(len(answers), -1, -1)
    heard = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    log_probs = decoder(inputs, lengths, states, heard)[0].float().log_softmax(-1)
    chosen = log_probs.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return chosen.masked_fill(targets < 0, 0.0).sum(-1)


@torch.inference_mode()
def search(model: U2pp, features: Tensor, lengths: Tensor, config: SearchConfig) -> list[dict[str, list[Found]]]:
    """Search features (B, T, mels), lengths (B,) in every mode of the config: mode -> n-best of each utterance."""
    states, lengths, _ = model.encoder(features, lengths, config.chunk, config.left_chunks)
    log_probs = model.log_probs(states)
    found = []
    for row, scores, length in zip(states, log_probs, lengths.tolist(), strict=True):
        found.append(_search_one(model, row[:length], scores[:length], config))
    return found


def _search_one(model: U2pp, states: Tensor, log_probs: Tensor, config: SearchConfig) -> dict[str, list[Found]]:
    nbest = ctc_prefix_beam(log_probs, config.beam) if {MODES[1], MODES[3]} & set(config.modes) else []
    ways = {
        "ctc_greedy": lambda: [ctc_greedy(log_probs)],
        "ctc_prefix_beam": lambda: nbest,
        "attention": lambda: attention(model, states, config),
        "attention_rescoring": lambda: rescore(model, states, nbest, config),
    }
    return {mode: ways[mode]() for mode in config.modes}
