"""UME (arXiv 2412.17507): a trained dense model grows into a mixture of experts that starts with the same output."""

import torch
from torch import Tensor, nn

from mooer_tk.errors import UserError
from mooer_tk.moe.layer import MoE, mixtures
from mooer_tk.weights import load_strictly

ROUTER_DEVIATION = 0.02


def upcycle(weights: dict[str, Tensor], grown: nn.Module, *, seed: int = 0) -> None:
    """Fill `grown`, a model with experts, with the weights of its dense twin.

    Every expert becomes a copy of the dense layer in whose place it stands; the routers start at random. As the
    weights of a frame's experts sum to 1, the output is the dense model's whatever the routers say. Equal experts give
    a router no gradient, so it is its random start, and the balance loss, that lets them grow apart.

    Raises:
        UserError: no experts in `grown`, or weights of another shape.
    """
    places = mixtures(grown)
    if not places:
        raise UserError("the model to grow has no experts: set model.moe.experts (mooer upcycle --experts 8).")
    random = torch.Generator().manual_seed(seed)
    filled = dict(weights)
    for name, moe in places.items():
        dense = {key: filled.pop(key) for key in weights if key.startswith(f"{name}.")}
        for number in range(len(moe.experts)):
            filled |= {f"{name}.experts.{number}{key.removeprefix(name)}": value for key, value in dense.items()}
        shape = moe.router.weight.shape
        filled[f"{name}.router.weight"] = torch.randn(shape, generator=random) * ROUTER_DEVIATION
    load_strictly(grown, filled, "the dense model")


def freeze_all_but_experts(module: nn.Module) -> None:
    """Leave experts and routers trainable, and nothing else (UME)."""
    module.requires_grad_(False)
    for moe in mixtures(module).values():
        moe.requires_grad_(True)


def train_experts_only(module: nn.Module, mode: bool) -> None:
    """`train(mode)` for a module after `freeze_all_but_experts`: what is frozen stays in eval mode."""
    for part in module.modules():
        part.training = False
    for part in mixtures(module).values():
        MoE.train(part, mode)
