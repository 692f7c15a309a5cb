"""Attention of the Conformer, with relative positions, and of the Transformer decoders."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def sinusoids(places: Tensor, dim: int) -> Tensor:
    """Sinusoidal encodings (N, dim) of places (N,), which may be negative; float32."""
    rates = torch.exp(torch.arange(0, dim, 2, device=places.device) * (-math.log(10_000.0) / dim))
    angles = places.float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim]


class Attention(nn.Module):
    """Multi-head attention: queries (B, Q, D) over `memory` (B, K, D), where `mask` (B or 1, Q, K) is True."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        query, key, value = (self._split(p(y)) for p, y in ((self.query, x), (self.key, memory), (self.value, memory)))
        return self._join(query, key, value, mask[:, None])

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(found.transpose(1, 2).flatten(2))


class RelativeAttention(Attention):
    """Self-attention with relative positions (Transformer-XL, arXiv 1901.02860, section 3.3; Conformer)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__(dim, heads, dropout)
        self.position = nn.Linear(dim, dim, bias=False)
        self.content_bias, self.place_bias = (nn.Parameter(torch.zeros(heads, dim // heads)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames (B, T, D) and what came before them -> (B, T, D), and keys and values of all of it.

        Args:
            x: new frames.
            mask: (B or 1, T, P + T), True where a frame may look.
            cache: keys and values (2, B, heads, P, D / heads) of P frames before `x`.
        """
        query, *new = (self._split(project(x)) for project in (self.query, self.key, self.value))
        known = torch.stack(new) if cache is None else torch.cat([cache, torch.stack(new)], 3)
        key, value = known
        frames, seen = query.shape[2], key.shape[2]
        # Distances from each frame to each one it sees, the farthest first: seen - 1 ... 1 - frames.
        distances = torch.arange(seen - 1, -frames, -1, device=x.device)
        places = self._split(self.position(sinusoids(distances, x.shape[-1]).to(x.dtype))[None])
        by_distance = (query + self.place_bias[:, None]) @ places.transpose(-1, -2)
        row, column = torch.arange(frames, device=x.device)[:, None], torch.arange(seen, device=x.device)
        index = (frames - 1 - row + column).expand(*by_distance.shape[:2], -1, -1)
        bias = by_distance.gather(-1, index) / math.sqrt(query.shape[-1])
        bias = bias.masked_fill(~mask[:, None], torch.finfo(bias.dtype).min)
        return self._join(query + self.content_bias[:, None].to(query.dtype), key, value, bias.to(query.dtype)), known
