"""The table of adapters: a new one is a class and a line here."""

from mooer_tk.adapters.base import Adapter
from mooer_tk.adapters.conv import ConvAdapter
from mooer_tk.adapters.linear import LinearAdapter
from mooer_tk.adapters.qformer import QFormerAdapter
from mooer_tk.config import AdapterConfig
from mooer_tk.errors import UserError, nearest

ADAPTERS = {"linear": LinearAdapter, "conv": ConvAdapter, "qformer": QFormerAdapter}


def resolve_stack(config: AdapterConfig, state_ms: float | None, where: str) -> None:
    """Turn `frame_ms` into `stack` in place, where it is set.

    Args:
        config: the adapter's settings.
        state_ms: milliseconds between two encoder states; None where that is not known.
        where: where they come from, for messages.

    Raises:
        UserError: no multiple of the time between states, or that time is not known.
    """
    if not config.frame_ms:
        return
    if not state_ms:
        raise UserError(f"{where} does not tell its time between states: set adapter.stack instead of frame_ms.")
    stack = round(config.frame_ms / state_ms)
    if stack < 1 or abs(stack * state_ms - config.frame_ms) > 1e-6:
        raise UserError(
            f"adapter.frame_ms is {config.frame_ms:g}, no multiple of the {state_ms:g} ms between states in {where}: "
            f"choose {', '.join(f'{n * state_ms:g}' for n in range(1, 6))} or a greater multiple."
        )
    config.stack = stack


def build_adapter(config: AdapterConfig, dim: int, out: int, *, dropout: float = 0.0) -> Adapter:
    """Make the adapter that a config names: states of size `dim` -> embeddings of size `out`; dropout on the states.

    Raises:
        UserError: an unknown name.
    """
    if config.name not in ADAPTERS:
        raise UserError(f"adapter.name '{config.name}' is unknown: {nearest(config.name, ADAPTERS)}")
    return ADAPTERS[config.name](dim, out, config.stack, config.hidden, dropout)
