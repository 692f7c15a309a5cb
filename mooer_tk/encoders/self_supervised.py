"""W2v-BERT 2.0, HuBERT, wav2vec 2.0 and WavLM of transformers: a state every 20 ms."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.errors import UserError
from mooer_tk.precision import autocast

KINDS = ("wav2vec2-bert", "hubert", "wav2vec2", "wavlm")


class SelfSupervisedEncoder(SpeechEncoder):
    """A transformers folder of one of `KINDS`, with its own front end.

    Args:
        path: folder with config.json, preprocessor_config.json and weights.
        precision: of the matrix products (mooer_tk/precision.py).
    """

    def __init__(self, path: Path | str, precision: str = "float32") -> None:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

        super().__init__()
        config = AutoConfig.from_pretrained(str(path))
        if config.model_type not in KINDS:
            raise UserError(f"{path} is a {config.model_type}, not {', '.join(KINDS)}: choose another encoder.name.")
        self.model = AutoModel.from_pretrained(str(path), dtype=torch.float32)
        self.front_end = AutoFeatureExtractor.from_pretrained(str(path))
        self.precision = precision
        self.dim = config.hidden_size
        self.reads_samples = config.model_type != "wav2vec2-bert"
        # W2v-BERT reads two stacked frames of 10 ms; the others convolve the samples.
        hop = math.prod(config.conv_stride) if self.reads_samples else self.front_end.stride * SAMPLE_RATE // 100
        self.frame_ms = 1000 * hop / SAMPLE_RATE
        # Norms over the whole length see the padding (wav2vec2-base, hubert-base): no mask helps, only no padding.
        self.alone = getattr(config, "feat_extract_norm", "layer") == "group"

    def features(self, samples: np.ndarray) -> Tensor:
        """Samples (T,) at 16 kHz -> (T, 1) samples, or (frames, 160) stacked filter banks."""
        out = self.front_end(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        if self.reads_samples:
            return out.input_values[0][:, None]
        return out.input_features[0][: int(out.attention_mask[0].sum())]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F), lengths (B,) -> states (B, T', D), lengths (B,)."""
        places = torch.arange(features.shape[1], device=features.device)
        # A lone utterance needs no mask, and models with group norms were trained without.
        mask = None if self.alone else (places[None] < lengths.to(features.device)[:, None]).long()
        with autocast(self.precision, features.device.type):
            states = self.model(features[..., 0] if self.reads_samples else features, attention_mask=mask)
        if self.reads_samples:
            lengths = self.model._get_feat_extract_output_lengths(lengths).long()
        return states.last_hidden_state, lengths
