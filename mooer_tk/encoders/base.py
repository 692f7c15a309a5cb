"""The contract of a speech encoder: 16 kHz samples in, states and their lengths out."""

from abc import abstractmethod
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn


class SpeechEncoder(nn.Module):
    """A frozen encoder with the front end that it needs.

    Attributes:
        dim: size D of a state, read from the model.
        frame_ms: time between two states, in milliseconds.
        alone: padding changes the states, so each utterance is encoded by itself.
    """

    dim: int
    frame_ms: float
    alone: bool = False

    @abstractmethod
    def features(self, samples: np.ndarray) -> Tensor:
        """Front end of one utterance: samples (T,) at 16 kHz -> features (frames, F)."""

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) and lengths (B,) in frames -> states (B, T', D) and lengths (B,)."""

    def freeze(self) -> Self:
        """Stop gradients for good; `train()` leaves a frozen encoder in eval mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch modes, unless every parameter is frozen: then dropout must stay off."""
        frozen = not any(parameter.requires_grad for parameter in self.parameters())
        return super().train(mode and not frozen)

    @torch.inference_mode()
    def encode(self, utterances: list[np.ndarray]) -> list[np.ndarray]:
        """Encode a few utterances at once: samples (T,) each -> states (T', D) each, float32."""
        states = self.encode_features([self.features(one) for one in utterances], [len(one) for one in utterances])
        return [one.float().cpu().numpy() for one in states]

    def encode_features(self, features: list[Tensor], samples: list[int]) -> list[Tensor]:
        """What `features` gave of a few utterances, and their samples -> states (T', D) each."""
        if self.alone:
            return [self(one[None], torch.tensor([len(one)]))[0][0] for one in features]
        lengths = torch.tensor([len(one) for one in features])
        states, lengths = self(nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
        return [one[:length] for one, length in zip(states, lengths.tolist(), strict=True)]

    def speech_frames(self, samples: int, features: Tensor) -> int:
        """How many of the features' frames are speech; the rest is silence that the front end adds."""
        return len(features)
