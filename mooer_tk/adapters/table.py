"""The table of adapters: a new one is a class and a line here."""

from __future__ import annotations

from mooer_tk.adapters.base import Adapter
from mooer_tk.adapters.conv import ConvAdapter
from mooer_tk.adapters.linear import LinearAdapter
from mooer_tk.adapters.qformer import QFormerAdapter
from mooer_tk.config import AdapterConfig
from mooer_tk.errors import UserError, nearest

ADAPTERS = {"linear": LinearAdapter, "conv": ConvAdapter, "qformer": QFormerAdapter}


def build_adapter(config: AdapterConfig, dim: int, out: int, *, dropout: float = 0.0) -> Adapter:
    """Make the adapter that a config names: states of size `dim` -> embeddings of size `out`; dropout on the states.

    Raises:
        UserError: an unknown name.
    """
    if config.name not in ADAPTERS:
        raise UserError(f"adapter.name '{config.name}' is unknown: {nearest(config.name, ADAPTERS)}")
    return ADAPTERS[config.name](dim, out, config.stack, config.hidden, dropout)
