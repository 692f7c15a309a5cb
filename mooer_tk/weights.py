"""Weights are read without running code, and fit or are refused: a missing, unused or misshaped key is named."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mooer_tk.errors import UserError


def read_tensors(file: Path, hint: str) -> dict[str, Tensor]:
    """Read a file of safetensors or of torch, which must hold nothing but tensors.

    Raises:
        UserError: a file that is missing, broken, or would run code when read; `hint` says how to mend it.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many kinds, all of them about this file
        raise UserError(f"cannot read the weights {file}: {error}. {hint}") from error


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
