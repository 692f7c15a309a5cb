"""Log-mel features in the place of states: the front end of models that bring their own encoder (mooer_tk/u2pp)."""

import numpy as np
import torch
from torch import Tensor

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.features.fbank import HOP, WINDOW, fbank


class LogMel(SpeechEncoder):
    """Features (features/fbank.py) every 10 ms, unchanged; a wave shorter than a window is padded to one frame."""

    frame_ms = 1000 * HOP / SAMPLE_RATE

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.dim = mels

    def features(self, samples: np.ndarray) -> Tensor:
        """Samples (T,) at 16 kHz -> (frames, mels)."""
        wave = np.pad(np.asarray(samples, dtype=np.float32), (0, max(WINDOW - len(samples), 0)))
        return fbank(torch.from_numpy(wave)[None], torch.tensor([len(wave)]), self.dim)[0][0]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What came in."""
        return features, lengths
