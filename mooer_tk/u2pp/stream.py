"""Recognition while the audio arrives: chunks of the encoder with caches, a growing prefix beam, and endpoints."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.errors import UserError
from mooer_tk.features.fbank import HOP, WINDOW
from mooer_tk.u2pp.encoder import CONTEXT, RATE
from mooer_tk.u2pp.recogniser import Recogniser
from mooer_tk.u2pp.search import PrefixBeam, rescore
from mooer_tk.u2pp.units import BLANK

FRAME_SECONDS = RATE * HOP / SAMPLE_RATE
DEFAULT_CHUNK = 16


@dataclass(frozen=True)
class Heard:
    """What is heard between two times (seconds): a partial result may still change, a final one does not."""

    text: str
    begin: float
    end: float
    final: bool


class Stream:
    """One stream of audio; what it keeps is bounded by `longest`, however long it runs.

    A final result comes after `pause` seconds without a new unit, or when a segment is `longest` seconds long; it is
    rescored by the decoders if the last mode of the search is attention_rescoring. Silence gives no result.

    Args:
        recogniser: a model; its decode.chunk counts (16 where that is -1), and decode.left_chunks.
        pause: seconds.
        longest: seconds.
    """

    def __init__(self, recogniser: Recogniser, *, pause: float = 0.8, longest: float = 20.0) -> None:
        self.recogniser, self.config = recogniser, recogniser.config
        self.chunk = self.config.chunk if self.config.chunk > 0 else DEFAULT_CHUNK
        self.left = self.config.left_chunks * self.chunk if self.config.left_chunks >= 0 else -1
        self.pause, self.longest = pause, longest
        self.samples = np.zeros(0, dtype=np.float32)
        self.features = torch.zeros(0, recogniser.front.dim)
        self.frames = 0  # encoder frames that were heard in all
        self._new_segment()

    def _new_segment(self) -> None:
        self.begin = self.frames
        self.caches, self.states = None, []
        self.beam, self.text, self.silent = PrefixBeam(self.config.beam), "", 0

    def accept(self, samples: np.ndarray) -> list[Heard]:
        """Take in the next samples (T,) at 16 kHz, any number of them; returns what is new.

        Raises:
            UserError: samples that are not finite.
        """
        if not np.isfinite(samples).all():
            raise UserError("the audio holds values that are no numbers: look at what feeds the stream.")
        self.samples = np.concatenate([self.samples, samples.astype(np.float32)])
        count = (len(self.samples) - WINDOW) // HOP + 1
        if count > 0:
            self.features = torch.cat([self.features, self.recogniser.front.features(self.samples)])
            self.samples = self.samples[count * HOP :]
        heard: list[Heard] = []
        needed = RATE * (self.chunk - 1) + CONTEXT
        while len(self.features) >= needed:
            heard += self._hear(self.features[:needed])
            self.features = self.features[RATE * self.chunk :]
        return heard

    def finish(self) -> list[Heard]:
        """The audio has ended, maybe abruptly: hear what is left; the stream can be used anew."""
        # But for the very first ones, features of less than a frame were part of the last frame.
        heard = self._hear(self.features) if len(self.features) >= (CONTEXT if self.frames else 1) else []
        heard += self._final()
        self.samples, self.features = self.samples[:0], self.features[:0]
        return heard

    @torch.inference_mode()
    def _hear(self, features: Tensor) -> list[Heard]:
        model = self.recogniser.model
        features = features[None].to(model.encoder.mean.device)
        states, self.caches = model.encoder.next_chunk(features, self.caches, self.left)
        self.states.append(states[0])
        self.frames += states.shape[1]
        log_probs = model.log_probs(states)[0]
        self.beam.advance(log_probs.cpu())
        spoken = (log_probs.argmax(-1) != BLANK).nonzero().flatten()
        self.silent = states.shape[1] - 1 - int(spoken[-1]) if len(spoken) else self.silent + states.shape[1]
        text = self.recogniser.units.decode(list(self.beam.best()[0].tokens))
        length = (self.frames - self.begin) * FRAME_SECONDS
        if self.silent * FRAME_SECONDS >= self.pause or length >= self.longest:
            return self._final()
        if text == self.text:
            return []
        self.text = text
        return [self._heard(text, final=False)]

    @torch.inference_mode()
    def _final(self) -> list[Heard]:
        nbest = self.beam.best()
        if self.states and nbest[0].tokens and self.config.modes[-1] == "attention_rescoring":
            nbest = rescore(self.recogniser.model, torch.cat(self.states), nbest, self.config)
        text = self.recogniser.units.decode(list(nbest[0].tokens))
        heard = [self._heard(text, final=True)] if text else []
        self._new_segment()
        return heard

    def _heard(self, text: str, *, final: bool) -> Heard:
        return Heard(text, round(self.begin * FRAME_SECONDS, 2), round(self.frames * FRAME_SECONDS, 2), final)
