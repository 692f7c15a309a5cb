"""The paper's adapter (MooER section 2): stack k states, Linear, ReLU, Linear."""

from torch import Tensor, nn

from mooer_tk.adapters.base import Adapter


class LinearAdapter(Adapter):
    """Stack `stack` states of size `dim`, Linear to `hidden`, ReLU, Linear to `out`."""

    def __init__(self, dim: int, out: int, stack: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(dim, stack, dropout)
        self.linear1 = nn.Linear(dim * stack, hidden)
        self.linear2 = nn.Linear(hidden, out)

    def embed(self, states: Tensor, lengths: Tensor) -> Tensor:
        """See Adapter."""
        stacked = states.unflatten(1, (-1, self.rate)).flatten(2)
        return self.linear2(self.linear1(stacked).relu())
