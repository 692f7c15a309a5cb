"""The Conformer encoder of U2++: macaron feed-forward layers, relative positions, causal convolution, chunk masks.

One model hears whole utterances, or chunk by chunk: in training the chunk is drawn anew for every batch (U2,
arXiv 2012.05481, section 3.2; U2++, arXiv 2106.05642).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mooer_tk.moe.layer import FeedForward, MoE
from mooer_tk.u2pp.attention import RelativeAttention
from mooer_tk.u2pp.config import LossConfig, ModelConfig

RATE = 4  # feature frames of an encoder frame
CONTEXT = 7  # feature frames that one encoder frame is made of
FULL = -1


def feed_forward(config: ModelConfig, hidden: int, activation: type[nn.Module]) -> FeedForward | MoE:
    """A dense layer or a mixture, as the config says."""
    moe = config.moe
    if not moe.experts:
        return FeedForward(config.dim, hidden, config.dropout, activation())
    options = {"experts": moe.experts, "top_k": moe.top_k, "noise": moe.noise}
    return MoE(config.dim, hidden, config.dropout, activation(), **options)


def draw_chunk(frames: int, config: LossConfig) -> tuple[int, int]:
    """Chunk size and left chunks of one training batch of `frames` encoder frames (WeNet's rule)."""
    if not config.dynamic_chunk:
        return FULL, FULL
    chunk = int(torch.randint(1, max(frames, 2), ()))
    if chunk > frames // 2:
        return FULL, FULL
    chunk = chunk % max(config.longest_chunk, 1) + 1
    left = int(torch.randint(0, max((frames - 1) // chunk, 1), ())) if config.dynamic_left else FULL
    return chunk, left


def chunk_mask(frames: int, chunk: int, left: int, device: torch.device) -> Tensor:
    """(frames, frames), True where row may look at column: its own chunk and `left` chunks before it (-1: all)."""
    if chunk < 0:
        return torch.ones(frames, frames, dtype=torch.bool, device=device)
    own = torch.arange(frames, device=device) // chunk
    behind = own[:, None] - own
    return (behind >= 0) & ((behind <= left) if left >= 0 else torch.ones_like(behind, dtype=torch.bool))


class Convolution(nn.Module):
    """Pointwise, GLU, causal depth-wise convolution, LayerNorm, swish, pointwise."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, D) after the inputs `cache` (B, D, kernel - 1) -> (B, T, D), and the last kernel - 1 inputs."""
        past = self.depthwise.kernel_size[0] - 1
        x = nn.functional.glu(self.inward(x), -1).transpose(1, 2)
        x = nn.functional.pad(x, (past, 0)) if cache is None else torch.cat([cache, x], 2)
        found = self.norm(self.depthwise(x).transpose(1, 2))
        return self.outward(nn.functional.silu(found)), x[:, :, x.shape[2] - past :]


@dataclass
class LayerCache:
    """What a layer keeps: keys and values (2, B, heads, P, D / heads), and convolution inputs (B, D, kernel - 1)."""

    known: Tensor
    past: Tensor


class ConformerLayer(nn.Module):
    """Half a feed-forward layer, attention, convolution, the other half, each behind a LayerNorm (arXiv 2005.08100)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in range(5))
        self.macaron, self.ffn = (feed_forward(config, config.ffn, nn.SiLU) for _ in range(2))
        self.attention = RelativeAttention(config.dim, config.heads, config.dropout)
        self.convolution = Convolution(config.dim, config.kernel)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, inside: Tensor, mask: Tensor, cache: LayerCache | None) -> tuple[Tensor, LayerCache]:
        """Frames (B, T, D), where they are real (B, T), where they look -> (B, T, D), and what the next ones need."""
        before, attend, convolve, after, last = self.norms
        x = x + 0.5 * self.dropout(self.macaron(before(x), inside))
        found, known = self.attention(attend(x), mask, cache.known if cache else None)
        x = x + self.dropout(found)
        found, past = self.convolution(convolve(x), cache.past if cache else None)
        x = x + self.dropout(found)
        x = x + 0.5 * self.dropout(self.ffn(after(x), inside))
        return last(x), LayerCache(known, past)


class ConformerEncoder(nn.Module):
    """Normalised log-mel features, a fourfold subsampling, Conformer layers, a LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("std", torch.ones(config.mels))
        channels = config.channels or config.dim
        self.conv1, self.conv2 = nn.Conv2d(1, channels, 3, 2), nn.Conv2d(channels, channels, 3, 2)
        self.inward = nn.Linear(channels * (((config.mels - 1) // 2 - 1) // 2), config.dim)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))
        self.norm, self.dropout = nn.LayerNorm(config.dim), nn.Dropout(config.dropout)

    def forward(
        self, features: Tensor, lengths: Tensor, chunk: int = FULL, left: int = FULL
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, T, mels), lengths (B,) -> states (B, T', D), lengths (B,), and where they are real (B, T').

        `chunk` frames of 40 ms are heard at once, and `left` chunks before them (-1: all there are).
        """
        x, lengths = self.subsample(features), encoder_frames(lengths)
        inside = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
        mask = chunk_mask(x.shape[1], chunk, left, x.device) & inside[:, None]
        for layer in self.layers:
            x, _ = layer(x, inside, mask, None)
        return self.norm(x), lengths, inside

    def subsample(self, features: Tensor) -> Tensor:
        """Features (B, T, mels) -> (B, T', D), T' as of `encoder_frames`; what is too short is padded to one."""
        x = (features - self.mean) / self.std
        x = nn.functional.pad(x, (0, 0, 0, max(CONTEXT - x.shape[1], 0)))[:, None]
        x = self.conv2(self.conv1(x).relu()).relu()
        x = self.inward(x.transpose(1, 2).flatten(2))
        return self.dropout(x * x.shape[-1] ** 0.5)

    def next_chunk(
        self, features: Tensor, caches: list[LayerCache] | None, left: int
    ) -> tuple[Tensor, list[LayerCache]]:
        """One chunk of a stream: features (1, RATE * (c - 1) + CONTEXT, mels) -> states (1, c, D), and the caches.

        Equals rows of `forward` with the same chunk; the caches hold at most `left` frames (-1: all).
        """
        x = self.subsample(features)
        inside = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        past = caches[0].known.shape[3] if caches else 0
        mask = torch.ones(1, x.shape[1], past + x.shape[1], dtype=torch.bool, device=x.device)
        new = []
        for number, layer in enumerate(self.layers):
            x, cache = layer(x, inside, mask, caches[number] if caches else None)
            keep = cache.known.shape[3] if left < 0 else min(left, cache.known.shape[3])
            known = cache.known[:, :, :, cache.known.shape[3] - keep :]
            new.append(LayerCache(known, cache.past))
        return self.norm(x), new


def encoder_frames(lengths: Tensor) -> Tensor:
    """Feature frames (B,) -> encoder frames (B,), at least 1."""
    return (((lengths - 1) // 2 - 1) // 2).clamp_min(1)
