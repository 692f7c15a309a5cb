"""Kaldi's log-mel filter bank in pure torch, and low frame rate stacking: the front end of FunASR and MooER.

80 mel bins from 20 Hz to 8 kHz, 25 ms Hamming windows every 10 ms, no dither, samples scaled to int16, edges snipped
(MooER's speech_processor; Kaldi's feat/feature-fbank.cc for the formulas). Needs no torchaudio.
"""

from functools import cache

import torch
from torch import Tensor

from mooer_tk.data.audio import SAMPLE_RATE

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the power of two that holds a window
LOW_HZ = 20.0
PREEMPHASIS = 0.97
INT16 = 2.0**15


def fbank(samples: Tensor, lengths: Tensor, bins: int = 80) -> tuple[Tensor, Tensor]:
    """Log-mel energies of a batch.

    Args:
        samples: (B, T) at 16 kHz in [-1, 1]; what lies beyond a length is not looked at.
        lengths: (B,) samples.

    Returns:
        Features (B, frames, bins) and (B,) frames; an utterance shorter than a window has no frame.
    """
    frames = (lengths - WINDOW).div(HOP, rounding_mode="floor").add(1).clamp_min(0)
    missing = WINDOW - samples.shape[1]
    samples = torch.nn.functional.pad(samples, (0, max(missing, 0)))
    pieces = samples.float().unfold(1, WINDOW, HOP)[:, : max(int(frames.max()), 1)] * INT16
    pieces = pieces - pieces.mean(-1, keepdim=True)
    previous = torch.cat([pieces[..., :1], pieces[..., :-1]], -1)
    window = torch.hamming_window(WINDOW, periodic=False, device=samples.device)
    spectrum = torch.fft.rfft((pieces - PREEMPHASIS * previous) * window, FFT).abs().square()
    energies = spectrum @ _mel_weights(bins).to(samples.device)
    return energies.clamp_min(torch.finfo(torch.float32).eps).log(), frames


@cache
def _mel_weights(bins: int) -> Tensor:
    """Kaldi's triangles on the mel scale (FFT / 2 + 1, bins)."""
    from transformers.audio_utils import mel_filter_bank

    shape = (FFT // 2 + 1, bins, LOW_HZ, SAMPLE_RATE / 2, SAMPLE_RATE)
    return torch.from_numpy(mel_filter_bank(*shape, mel_scale="kaldi", triangularize_in_mel_space=True)).float()


def low_frame_rate(features: Tensor, lengths: Tensor, stack: int = 7, step: int = 6) -> tuple[Tensor, Tensor]:
    """Stack `stack` frames every `step` frames: (B, T, F) -> (B, ceil(T / step), stack * F), lengths (B,).

    Before the first frame stand copies of it, (stack - 1) / 2 of them, and after the last as many as are needed
    (FunASR's apply_lfr).
    """
    out = -(-lengths // step)
    first = torch.arange(int(out.max()), device=features.device) * step - (stack - 1) // 2
    wanted = (first[:, None] + torch.arange(stack, device=features.device))[None]
    wanted = wanted.clamp_min(0).minimum((lengths.to(features.device) - 1).clamp_min(0)[:, None, None])
    rows = torch.arange(len(features), device=features.device)[:, None, None]
    return features[rows, wanted].flatten(2), out
