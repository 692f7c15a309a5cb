"""What all adapters share: standardised states, padding that is the mean state, and lengths."""

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """Encoder states (B, T, D), lengths (B,) -> embeddings (B, T', H), lengths (B,) of lengths // rate, at least 1.

    Args:
        dim: size D of an encoder state.
        rate: encoder states per embedding; up to rate - 1 states at the end are dropped, as the paper's code does,
            except that an utterance shorter than that is padded to give one embedding.
        dropout: on the states, in training only.

    The states are standardised with the training set's mean and deviation, which `set_statistics` stores here.
    """

    def __init__(self, dim: int, rate: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.dropout = nn.Dropout(dropout)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the per-dimension mean and deviation (D,) of the training states."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-5))

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        time, out = states.shape[1], (lengths // self.rate).clamp_min(1)
        # A tail that is dropped in one company must not be seen in another.
        used = lengths.minimum(out * self.rate)
        inside = torch.arange(time, device=states.device)[None] < used.to(states.device)[:, None]
        # Padding is the mean state, so that an utterance gives the same in any company.
        states = ((states - self.mean) / self.std).masked_fill(~inside[..., None], 0.0)
        keep = max(time // self.rate, 1) * self.rate
        states = nn.functional.pad(states, (0, 0, 0, max(keep - time, 0)))[:, :keep]
        return self.embed(self.dropout(states), used), out

    def embed(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Standardised states (B, T' * rate, D), zero beyond `lengths` -> embeddings (B, T', H)."""
        raise NotImplementedError
