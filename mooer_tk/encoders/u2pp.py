"""The encoder of a trained U2++ model, dense or with experts, as a speech encoder of the LLM."""

from pathlib import Path

import numpy as np
from torch import Tensor

from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.encoders.log_mel import LogMel
from mooer_tk.precision import autocast
from mooer_tk.u2pp.encoder import RATE
from mooer_tk.u2pp.model import load_model


class U2ppEncoder(SpeechEncoder):
    """Log-mel features -> states of the whole utterance (full context).

    Args:
        folder: exp/NAME, or an exported model.
        precision: of the matrix products (mooer_tk/precision.py).
    """

    frame_ms = RATE * LogMel.frame_ms

    def __init__(self, folder: Path | str, precision: str = "float32") -> None:
        super().__init__()
        model, config, _ = load_model(folder)
        self.encoder, self.front, self.precision = model.encoder, LogMel(config.model.mels), precision
        self.dim = self.encoder.norm.normalized_shape[0]

    def features(self, samples: np.ndarray) -> Tensor:
        """Samples (T,) at 16 kHz -> log-mel features (frames, mels)."""
        return self.front.features(samples)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, mels), lengths (B,) -> states (B, T', D), lengths (B,)."""
        with autocast(self.precision, features.device.type):
            states, lengths, _ = self.encoder(features, lengths)
        return states.float(), lengths
