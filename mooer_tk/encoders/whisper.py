"""Whisper's encoder (Radford et al., arXiv 2212.04356) over windows of k x 10 s instead of always 30 s.

It was trained on 30 s windows that end in silence. Windows of 10 s keep its states (cosine 0.99) at a third of the
cost; windows cut to the utterance's own length break it, so silence always follows the speech up to the window's end.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.errors import UserError
from mooer_tk.precision import autocast

HOP = 160  # samples per feature frame (10 ms)
LONGEST = 3000  # feature frames that Whisper has positions for


class WhisperEncoder(SpeechEncoder):
    """The encoder half of a transformers Whisper folder.

    Args:
        path: folder with config.json and safetensors.
        window_s: the window is the smallest multiple of this that holds the utterance (seconds); 30 is Whisper's own.
        precision: of the matrix products (mooer_tk/precision.py).
    """

    def __init__(self, path: Path | str, window_s: float = 10.0, precision: str = "float32") -> None:
        from transformers import WhisperFeatureExtractor, WhisperModel

        super().__init__()
        if not 1 <= window_s <= 30:
            raise UserError(f"encoder.window_s is {window_s}: Whisper's windows are 1 to 30 s long.")
        self.model = WhisperModel.from_pretrained(str(path), dtype=torch.float32).encoder
        config = self.model.config
        self.dim = config.d_model
        self.precision = precision
        self.frame_ms = 20.0
        self.window = round(window_s * SAMPLE_RATE / HOP)
        self.front_end = WhisperFeatureExtractor(feature_size=config.num_mel_bins)

    def features(self, samples: np.ndarray) -> Tensor:
        """Log-mel frames of the whole windows: samples (T,) -> (k * window, mels).

        The silence that fills the last window is a part of the input; `speech_frames` tells how much is speech.
        """
        frames = -(-len(samples) // HOP)
        padded = min(-(-frames // self.window) * self.window, LONGEST)
        if frames > LONGEST:
            raise ValueError(f"utterance of {frames / 100:.1f} s: Whisper takes at most {LONGEST / 100:.0f} s")
        wave = np.pad(samples, (0, padded * HOP - len(samples)))
        out = self.front_end(wave, sampling_rate=SAMPLE_RATE, padding=False, return_tensors="pt")
        return out.input_features[0].T

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, mels), T a whole number of windows -> states (B, T / 2, D), lengths / 2 rounded up."""
        model = self.model
        with autocast(self.precision, features.device.type):
            hidden = torch.nn.functional.gelu(model.conv1(features.transpose(1, 2).to(model.conv1.weight.dtype)))
            hidden = torch.nn.functional.gelu(model.conv2(hidden)).transpose(1, 2)
            # The residual stream has the weights' type, float32, even if the products are bfloat16.
            positions = model.embed_positions.weight[: hidden.shape[1]]
            hidden = hidden.to(positions.dtype) + positions
            for layer in model.layers:
                hidden = layer(hidden, None)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            return model.layer_norm(hidden), -(-lengths // 2)

    def encode_features(self, features: list[Tensor], samples: list[int]) -> list[Tensor]:
        """Encode utterances, grouped by their number of windows, and keep the states that hold speech."""
        results: dict[int, Tensor] = {}
        for frames in {len(one) for one in features}:
            members = [i for i, one in enumerate(features) if len(one) == frames]
            states, _ = self(torch.stack([features[i] for i in members]), torch.full((len(members),), frames))
            results |= {i: one[: -(-samples[i] // (2 * HOP))] for i, one in zip(members, states, strict=True)}
        return [results[i] for i in range(len(features))]

    def speech_frames(self, samples: int, features: Tensor) -> int:
        """Frames of 10 ms that hold speech; silence fills the last window."""
        return min(-(-samples // HOP), len(features))
