"""A Q-Former over windows: learned queries look at a second or so of states at a time (BLIP-2; SALMONN's windows)."""

import torch
from torch import Tensor, nn

from mooer_tk.adapters.base import Adapter

QUERIES, LAYERS, HEADS = 10, 2, 8


class QFormerAdapter(Adapter):
    """Windows of QUERIES * `stack` states, QUERIES learned queries each, a small Transformer decoder, Linear to `out`.

    Queries of a window attend to each other and to the window's real states.
    """

    def __init__(self, dim: int, out: int, stack: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(dim, stack, dropout)
        self.queries = nn.Parameter(torch.randn(QUERIES, dim) * dim**-0.5)
        layer = nn.TransformerDecoderLayer(dim, HEADS, hidden, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, LAYERS, nn.LayerNorm(dim))
        self.linear = nn.Linear(dim, out)

    def embed(self, states: Tensor, lengths: Tensor) -> Tensor:
        """See Adapter."""
        batch, time, _ = states.shape
        window = QUERIES * self.rate
        windows = nn.functional.pad(states, (0, 0, 0, -time % window)).unflatten(1, (-1, window)).flatten(0, 1)
        place = torch.arange(windows.shape[0] // batch * window, device=states.device).unflatten(0, (-1, window))
        outside = (place[None] >= lengths.to(states.device)[:, None, None]).flatten(0, 1)
        # Attention over nothing has no value: a window without speech looks at one state of silence.
        outside[:, 0] = False
        found = self.decoder(self.queries.expand(len(windows), -1, -1), windows, memory_key_padding_mask=outside)
        return self.linear(found).unflatten(0, (batch, -1)).flatten(1, 2)[:, : time // self.rate]
