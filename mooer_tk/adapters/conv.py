"""A convolutional adapter: each embedding also sees its neighbours' states."""

from torch import Tensor, nn

from mooer_tk.adapters.base import Adapter

CONTEXT = 3  # embeddings' worth of states that the convolution sees: its own, and one on either side


class ConvAdapter(Adapter):
    """Conv1d of stride `stack` over three embeddings' worth of states, ReLU, Linear to `out`."""

    def __init__(self, dim: int, out: int, stack: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(dim, stack, dropout)
        self.conv = nn.Conv1d(dim, hidden, CONTEXT * stack, stride=stack, padding=stack)
        self.linear = nn.Linear(hidden, out)

    def embed(self, states: Tensor, lengths: Tensor) -> Tensor:
        """See Adapter."""
        return self.linear(self.conv(states.transpose(1, 2)).relu().transpose(1, 2))
