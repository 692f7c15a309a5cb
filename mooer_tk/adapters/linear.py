"""The paper's adapter (MooER section 2): stack k states, Linear, ReLU, Linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearAdapter(nn.Module):
    """Encoder states (B, T, D) -> LLM-sized embeddings (B, T // k, H).

    Args:
        dim: size D of an encoder state.
        out: size H of an LLM embedding.
        stack: states per embedding (k); up to k - 1 states at the end are dropped, as the paper's code does, except
            that an utterance shorter than k is padded to give one embedding.
        hidden: width between the two linear layers.
        dropout: on the stacked states, in training only.

    The states are standardised with the training set's mean and deviation, which `set_statistics` stores here.
    """

    def __init__(self, dim: int, out: int, stack: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.stack = stack
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(dim * stack, hidden)
        self.linear2 = nn.Linear(hidden, out)

    @property
    def rate(self) -> int:
        """Encoder states per embedding."""
        return self.stack

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the per-dimension mean and deviation (D,) of the training states."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-5))

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, D), lengths (B,) -> embeddings (B, T // k, H), lengths // k (at least 1)."""
        batch, time, dim = states.shape
        inside = torch.arange(time, device=states.device)[None] < lengths.to(states.device)[:, None]
        # Padding is the mean state, so that an utterance shorter than k gives the same in any company.
        states = ((states - self.mean) / self.std).masked_fill(~inside[..., None], 0.0)
        keep = max(time // self.stack, 1) * self.stack
        if time < keep:
            states = nn.functional.pad(states, (0, 0, 0, keep - time))
        stacked = states[:, :keep].reshape(batch, keep // self.stack, dim * self.stack)
        embeddings = self.linear2(torch.relu(self.linear1(self.dropout(stacked))))
        return embeddings, (lengths // self.stack).clamp_min(1)
