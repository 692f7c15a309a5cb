"""A mixture of experts in place of a feed-forward layer (U2++ MoE, arXiv 2404.16407; WeNet's MoEFFNLayer).

Each frame goes through the `top_k` experts whose router logits are largest, weighted by the softmax over those alone.
Frames are sorted by expert and every expert multiplies its own stretch, so that the work is that of `top_k` dense
layers, whatever the number of experts.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mooer_tk.errors import UserError

BALANCE, Z_LOSS = "balance", "z"


class FeedForward(nn.Module):
    """The dense layer: Linear to `hidden`, activation, dropout, Linear back."""

    def __init__(self, dim: int, hidden: int, dropout: float, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout, self.activation = nn.Dropout(dropout), activation

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); `inside` is not needed here."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class MoE(nn.Module):
    """Experts that are each a `FeedForward`, and a router without a bias.

    Args:
        dim, hidden, dropout, activation: of each expert.
        experts: how many there are.
        top_k: how many a frame goes through.
        noise: deviation of the normal noise on the router's logits in training.

    Attributes:
        losses: of the last pass: "balance", experts * sum_i f_i P_i over the shares f of frames and the mean
            probabilities P (Switch Transformer, arXiv 2101.03961, equation 4), 1 when all is even; "z", the mean
            squared log-sum of the logits (ST-MoE, arXiv 2202.08906, equation 5).
        load: frames that each expert (E,) has had since it was last zeroed.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        dropout: float,
        activation: Callable[[Tensor], Tensor],
        *,
        experts: int,
        top_k: int,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise UserError(f"{top_k} of {experts} experts for a frame (top_k): choose 1 to {experts}.")
        self.router = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(dim, hidden, dropout, activation) for _ in range(experts))
        self.top_k, self.noise = top_k, noise
        self.losses: dict[str, Tensor] = {}
        self.register_buffer("load", torch.zeros(experts), persistent=False)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); where `inside` (B, T) is False is padding: no expert sees it, it gives 0."""
        frames = x.flatten(0, 1) if inside is None else x[inside]
        chosen, weights = self.route(frames)
        # Sorted by expert, the frames of each lie together.
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        stretches = frames[order // self.top_k].split(counts.tolist())
        found = [expert(one) for expert, one in zip(self.experts, stretches, strict=True) if len(one)]
        mixed = torch.zeros_like(frames, dtype=found[0].dtype if found else x.dtype)
        if found:
            found = torch.cat(found) * weights.flatten()[order, None]
            mixed = mixed.index_add(0, order // self.top_k, found.to(mixed.dtype))
        self.load += counts
        if inside is None:
            return mixed.view(x.shape)
        return torch.zeros(x.shape, dtype=mixed.dtype, device=x.device).masked_scatter(inside[..., None], mixed)

    def route(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, D) -> the experts of each (N, k) and their weights (N, k), which sum to 1; float32 throughout."""
        with torch.autocast(frames.device.type, enabled=False):
            logits = self.router(frames.float())
            if self.training and self.noise:
                logits = logits + self.noise * torch.randn_like(logits)
            kept, chosen = logits.topk(self.top_k)
            if self.training:
                self.losses = self._losses(logits, chosen)
            return chosen, kept.softmax(-1)

    def _losses(self, logits: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        size = max(len(logits), 1)
        share = torch.bincount(chosen.flatten(), minlength=len(self.experts)) / (size * self.top_k)
        probability = logits.softmax(-1).sum(0) / size
        z = logits.logsumexp(-1).square().sum() / size
        return {BALANCE: len(self.experts) * (share * probability).sum(), Z_LOSS: z}


def mixtures(module: nn.Module) -> dict[str, MoE]:
    """The mixtures of a module by name, in its own order."""
    return {name: part for name, part in module.named_modules() if isinstance(part, MoE)}


def active(module: nn.Module) -> int:
    """Parameters that one frame goes through: all but those of the experts that its routers do not choose."""
    idle = [one.experts[0] for one in mixtures(module).values() for _ in range(len(one.experts) - one.top_k)]
    count = sum(p.numel() for p in module.parameters())
    return count - sum(p.numel() for expert in idle for p in expert.parameters())
