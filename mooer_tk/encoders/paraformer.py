"""Paraformer's encoder: 50 layers of SANM, self-attention with a memory (Gao et al., arXiv 2206.08317; FunASR, MooER).

    layer(x) = h + FFN(LN(h)),  h = x + attention(LN(x)) + memory(values)      (the first, 560 -> 512, without x)
    memory(v) = v + depthwise convolution of v over time, padding masked

Parameters are named as in FunASR's model.pt and MooER's paraformer-encoder.pth, so both load strictly.
"""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.errors import UserError
from mooer_tk.features.cmvn import CMVN, read_cmvn
from mooer_tk.features.fbank import fbank, low_frame_rate
from mooer_tk.precision import autocast
from mooer_tk.weights import load_strictly, read_tensors

HEADS = 4  # the one number of the shape that the weights do not show
WEIGHT_FILES = ("paraformer-encoder.pth", "model.pt")
EPS = 1e-12
HINT = "Bring the file again, from MooER's release or FunASR's Paraformer, or give encoder.model another folder."


class ParaformerEncoder(SpeechEncoder):
    """fbank -> LFR (7 frames every 6) -> CMVN -> SANM layers: a state every 60 ms.

    Args:
        cmvn: normalisation of the stacked features, also their size.
        size, inner, layers, kernel, heads: width, width of the feed-forward, SANM layers, frames of the memory, heads.
        precision: of the matrix products (mooer_tk/precision.py); positions and norms are float32.
    """

    def __init__(
        self,
        cmvn: CMVN,
        *,
        size: int = 512,
        inner: int = 2048,
        layers: int = 50,
        kernel: int = 11,
        heads: int = HEADS,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.cmvn, self.precision = cmvn, precision
        self.dim, self.frame_ms = size, 60.0
        self.encoders0 = nn.ModuleList([SANMLayer(len(cmvn.shift), size, inner, kernel, heads)])
        self.encoders = nn.ModuleList([SANMLayer(size, size, inner, kernel, heads) for _ in range(layers - 1)])
        self.after_norm = nn.LayerNorm(size, eps=EPS)

    @classmethod
    def load(cls, path: Path | str, precision: str = "float32") -> Self:
        """Load a folder with `paraformer-encoder.pth` or FunASR's `model.pt`, and `am.mvn`; the shape is read from it.

        Raises:
            UserError: a file that is missing or broken, or a key that is missing, unused or of a wrong shape.
        """
        folder = Path(path)
        file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
        if file is None:
            raise UserError(f"{folder} holds no Paraformer: expected {' or '.join(WEIGHT_FILES)}, and am.mvn.")
        weights = read_weights(file)
        cmvn = read_cmvn(folder / "am.mvn")
        try:
            inner, _ = weights["encoders0.0.feed_forward.w_1.weight"].shape
            kernel = weights["encoders0.0.self_attn.fsmn_block.weight"].shape[-1]
            size = len(weights["after_norm.weight"])
        except KeyError as error:
            raise UserError(f"{file} has no key {error}: it is no Paraformer encoder. {HINT}") from error
        layers = 1 + len({name.split(".")[1] for name in weights if name.startswith("encoders.")})
        with torch.device("meta"):
            encoder = cls(cmvn, size=size, inner=inner, layers=layers, kernel=kernel, precision=precision)
        load_strictly(encoder, weights, str(file), assign=True)
        return encoder

    def features(self, samples: np.ndarray) -> Tensor:
        """Samples (T,) at 16 kHz -> normalised stacked features (frames, 560)."""
        wave = torch.from_numpy(np.asarray(samples, dtype=np.float32))[None]
        energies, frames = fbank(wave, torch.tensor([len(samples)]))
        return self.cmvn(low_frame_rate(energies, frames.clamp_min(1))[0])[0]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, 560), lengths (B,) -> states (B, T, 512), the same lengths."""
        inside = torch.arange(features.shape[1], device=features.device)[None] < lengths.to(features.device)[:, None]
        hidden = features.float() * self.dim**0.5
        hidden = hidden + sinusoids(hidden.shape[1], hidden.shape[2], hidden.device)
        hidden = hidden.to(self.after_norm.weight.dtype)
        with autocast(self.precision, features.device.type):
            for layer in (*self.encoders0, *self.encoders):
                hidden = layer(hidden, inside)
            return self.after_norm(hidden), lengths


class SANMLayer(nn.Module):
    """One layer, pre-norm; no residual around the attention when it changes the width."""

    def __init__(self, in_size: int, size: int, inner: int, kernel: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_size, eps=EPS)
        self.norm2 = nn.LayerNorm(size, eps=EPS)
        self.self_attn = SANMAttention(in_size, size, kernel, heads)
        self.feed_forward = nn.ModuleDict({"w_1": nn.Linear(size, inner), "w_2": nn.Linear(inner, size)})

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """Hidden (B, T, in_size), inside (B, T) true on real frames -> (B, T, size)."""
        attended = self.self_attn(self.norm1(hidden), inside)
        hidden = hidden + attended if hidden.shape[-1] == attended.shape[-1] else attended
        return hidden + self.feed_forward["w_2"](self.feed_forward["w_1"](self.norm2(hidden)).relu())


class SANMAttention(nn.Module):
    """Multi-head attention plus a memory: a depthwise convolution (FSMN) over the values."""

    def __init__(self, in_size: int, size: int, kernel: int, heads: int) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.linear_q_k_v = nn.Linear(in_size, 3 * size)
        self.linear_out = nn.Linear(size, size)
        self.fsmn_block = nn.Conv1d(size, size, kernel, groups=size, bias=False)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """Hidden (B, T, in_size) -> (B, T, size); padded frames are neither attended to nor remembered."""
        query, key, value = self.linear_q_k_v(hidden).chunk(3, -1)
        seen = value * inside[..., None]
        left = (self.kernel - 1) // 2
        memory = self.fsmn_block(nn.functional.pad(seen.transpose(1, 2), (left, self.kernel - 1 - left)))
        split = [one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (query, key, value)]
        attended = nn.functional.scaled_dot_product_attention(*split, attn_mask=inside[:, None, None])
        return self.linear_out(attended.transpose(1, 2).flatten(2)) + memory.transpose(1, 2) + seen


def sinusoids(frames: int, size: int, device: torch.device) -> Tensor:
    """Positions 1, 2, ... as sines then cosines (frames, size), in float32: bfloat16 has one number for 256 and 257."""
    rates = torch.exp(torch.arange(size // 2, device=device) * (-np.log(10_000.0) / (size / 2 - 1)))
    angles = torch.arange(1, frames + 1, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The encoder's weights of MooER's or FunASR's file, without the `encoder.` that the latter puts before them.

    Raises:
        UserError: a file that cannot be read.
    """
    found = read_tensors(file, HINT)
    found = found.get("state_dict", found)
    # model.pt is the whole recogniser: decoder and predictor are not ours to load.
    inner = {name.removeprefix("encoder."): value for name, value in found.items() if name.startswith("encoder.")}
    return {name: value.float() for name, value in (inner or found).items()}
