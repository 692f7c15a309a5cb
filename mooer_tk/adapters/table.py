"""The table of adapters: a new one is a class and a line here."""

from __future__ import annotations

from torch import nn

from mooer_tk.adapters.linear import LinearAdapter
from mooer_tk.config import AdapterConfig
from mooer_tk.errors import UserError, nearest

ADAPTERS = {
    "linear": lambda dim, out, c, dropout: LinearAdapter(dim, out, stack=c.stack, hidden=c.hidden, dropout=dropout),
}


def build_adapter(config: AdapterConfig, dim: int, out: int, *, dropout: float = 0.0) -> nn.Module:
    """Make the adapter that a config names: states of size `dim` -> embeddings of size `out`; dropout on the states.

    Raises:
        UserError: an unknown name.
    """
    if config.name not in ADAPTERS:
        raise UserError(f"adapter.name '{config.name}' is unknown: {nearest(config.name, ADAPTERS)}")
    return ADAPTERS[config.name](dim, out, config, dropout)
