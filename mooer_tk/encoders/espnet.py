"""Encoders of ESPnet2 models (Conformer, E-Branchformer, ...): a folder with config.yaml and one .pth, as packed there.

ESPnet is an optional extra (tools/install_espnet.sh). Only its encoder classes are used; its default front end, log-mel
energies after librosa's definition, is computed here, so that torchaudio and librosa are not needed.
"""

import importlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.errors import UserError, nearest
from mooer_tk.precision import autocast
from mooer_tk.weights import load_strictly, read_tensors

CLASSES = {
    "conformer": "conformer_encoder.ConformerEncoder",
    "branchformer": "branchformer_encoder.BranchformerEncoder",
    "e_branchformer": "e_branchformer_encoder.EBranchformerEncoder",
    "transformer": "transformer_encoder.TransformerEncoder",
}
SUBSAMPLING = {"linear": 1, "conv2d1": 1, "conv2d2": 2, "conv2d": 4, "conv2d6": 6, "conv2d8": 8}
FLOOR = 1e-10


class ESPnetEncoder(SpeechEncoder):
    """Log-mel energies -> normalisation -> an ESPnet encoder.

    Args:
        config: the model's config.yaml as a dict.
        precision: of the matrix products (mooer_tk/precision.py).
    """

    alone = True  # the convolutions see the padding

    def __init__(self, config: dict[str, Any], precision: str = "float32") -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        front, kind, shape = config.get("frontend_conf") or {}, config["encoder"], config.get("encoder_conf") or {}
        if config.get("frontend", "default") != "default":
            raise UserError(f"ESPnet frontend '{config['frontend']}' is not supported: choose a model with 'default'.")
        if kind not in CLASSES:
            raise UserError(f"ESPnet encoder '{kind}' is not supported here: {nearest(kind, CLASSES)}")
        rate = {"16k": 16_000}.get(front.get("fs", "16k"), front.get("fs"))
        if rate != SAMPLE_RATE:
            raise UserError(f"this ESPnet model hears {rate} Hz, and here is {SAMPLE_RATE} Hz: choose one of fs: 16k.")
        self.fft, self.hop = front.get("n_fft", 512), front.get("hop_length", 128)
        self.window, bins = front.get("win_length") or self.fft, front.get("n_mels", 80)
        low, high = front.get("fmin") or 0.0, front.get("fmax") or SAMPLE_RATE / 2
        mel = mel_filter_bank(self.fft // 2 + 1, bins, low, high, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("mel", torch.from_numpy(mel).float(), persistent=False)
        self.norm = config.get("normalize")
        self.normalize = nn.Module()
        if self.norm == "global_mvn":
            for name in ("mean", "std"):
                self.normalize.register_buffer(name, torch.zeros(bins))
        self.encoder = _class(kind)(input_size=bins, **shape)
        self.precision = precision
        self.dim = self.encoder.output_size()
        layer = shape.get("input_layer", "conv2d")
        if layer not in SUBSAMPLING:
            raise UserError(f"ESPnet input_layer '{layer}' is not supported here: {nearest(str(layer), SUBSAMPLING)}")
        self.frame_ms = 1000 * self.hop * SUBSAMPLING[layer] / SAMPLE_RATE

    @classmethod
    def load(cls, path: Path | str, precision: str = "float32") -> Self:
        """Load a folder; encoder and normalisation must fit, the rest of the recogniser is left.

        Raises:
            UserError: no such files, a model that is not supported here, or keys that do not fit.
        """
        folder = Path(path)
        weights = sorted(folder.glob("*.pth"))
        if not (folder / "config.yaml").is_file() or len(weights) != 1:
            raise UserError(f"{folder} must hold ESPnet's config.yaml and one .pth file; found {len(weights)} of them.")
        encoder = cls(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), precision)
        found = read_tensors(weights[0], "Unpack the ESPnet model again, or choose another one.")
        ours = {name: value for name, value in found.items() if name.startswith(("encoder.", "normalize."))}
        load_strictly(encoder, ours, str(weights[0]))
        return encoder

    def features(self, samples: np.ndarray) -> Tensor:
        """Samples (T,) at 16 kHz -> normalised log-mel energies (frames, mels)."""
        wave = torch.from_numpy(np.asarray(samples, dtype=np.float32))
        window = torch.hann_window(self.window)
        spectrum = torch.stft(wave, self.fft, self.hop, self.window, window, center=True, return_complex=True)
        energies = (spectrum.abs().square().T @ self.mel).clamp_min(FLOOR).log()
        if self.norm == "global_mvn":
            return (energies - self.normalize.mean) / self.normalize.std
        return energies - energies.mean(0) if self.norm == "utterance_mvn" else energies

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, mels), lengths (B,) -> states (B, T', D), lengths (B,)."""
        with autocast(self.precision, features.device.type):
            states, lengths, _ = self.encoder(features, lengths)
        return states, lengths


def _class(kind: str) -> type:
    module, name = CLASSES[kind].split(".")
    try:
        return getattr(importlib.import_module(f"espnet2.asr.encoder.{module}"), name)
    except ImportError as error:
        raise UserError(f"ESPnet encoders need ESPnet ({error}). Install it beside: tools/install_espnet.sh") from error
