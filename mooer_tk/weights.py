"""Weights fit or they are refused: no key is missing, unused or of another shape without an error that names it."""

from __future__ import annotations

from torch import Tensor, nn

from mooer_tk.errors import UserError


def load_strictly(module: nn.Module, weights: dict[str, Tensor], what: str, *, assign: bool = False) -> None:
    """Load weights; raise a UserError that lists missing, unused and wrongly shaped keys.

    `assign` takes the tensors themselves, which fills a module made on the meta device.
    """
    check_fit(module.state_dict(), weights, what)
    module.load_state_dict(weights, assign=assign)


def check_fit(own: dict[str, Tensor], weights: dict[str, Tensor], what: str) -> None:
    """Raise a UserError that lists how `weights` differ in names and shapes from what is asked for."""
    faults = [f"missing {key}" for key in sorted(own.keys() - weights.keys())]
    faults += [f"unused {key}" for key in sorted(weights.keys() - own.keys())]
    faults += [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    if faults:
        raise UserError(
            f"the weights of {what} do not fit ({len(faults)} keys): {'; '.join(faults)}. "
            "Use the config that belongs to them; if it does, the file is cut or of another model."
        )
