"""What computes gradients and takes steps: plain torch, in one process or several, or DeepSpeed.

Both take losses that are normalised by the tokens of the whole global batch, and add up the gradients of the
processes; so a step is the same for any split of its utterances into processes and micro-batches.
"""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mooer_tk.config import TrainConfig
from mooer_tk.errors import UserError, nearest
from mooer_tk.train.processes import Processes

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
ENGINES = ("torch", "deepspeed")


class Engine(ABC):
    """A module in training.

    Args:
        module: takes a batch, gives its losses; what does not require gradients stays as it is.
        groups: parameter groups; "lr_scale" multiplies the learning rate of a step.
        config: the run's settings.
        processes: who takes part.

    Attributes:
        trained: the parameters that are trained.
        in_step: True where every process must run the same modules the same number of times (ZeRO-3).
    """

    in_step = False

    def __init__(self, module: nn.Module, groups: list[dict], config: TrainConfig, processes: Processes) -> None:
        self.module, self.config, self.processes = module.to(processes.device), config, processes
        self.trained: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        optim = config.optim
        if optim.name not in OPTIMIZERS:
            raise UserError(f"optim.name '{optim.name}' is unknown: {nearest(optim.name, OPTIMIZERS)}")
        # Fused: one pass over all weights, which takes a fifth of the time on a CPU.
        settings = {"betas": tuple(optim.betas), "weight_decay": optim.weight_decay, "fused": True}
        self.optimizer = OPTIMIZERS[optim.name](groups, lr=optim.lr, **settings)

    @abstractmethod
    def __call__(self, batch: Any) -> dict[str, tuple[Tensor, int]]:
        """The losses of a micro-batch, summed over its tokens: name -> (sum, tokens)."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch."""

    @abstractmethod
    def step(self, rate: float) -> float:
        """Clip and take a step; returns the norm before clipping. A norm that is not finite takes no step."""

    def forget(self) -> None:
        """Drop the gradients of a step that is not taken."""
        self.optimizer.zero_grad(set_to_none=True)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the optimizer's state; every process calls it."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote; the weights are in place already."""

    def weights(self) -> dict[str, Tensor]:
        """Trained weights and persistent buffers outside the LLM, by name; every process calls it."""
        kept = set(self.module.state_dict())
        trained = {id(parameter) for parameter in self.trained}
        found = {name: p.detach() for name, p in self.module.named_parameters() if id(p) in trained}
        buffers = {name: b for name, b in self.module.named_buffers() if name in kept and not name.startswith("llm.")}
        return {**found, **buffers}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a checkpoint, whose names `weights` has."""
        self.module.load_state_dict(weights, strict=False)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]


class TorchEngine(Engine):
    """Plain torch. Several processes add up their gradients once a step, as DDP would.

    DDP itself averages, and waits for every parameter in every backward pass; here the CTC head may rest on a process
    whose utterances have no transcript, and the sum is what the normalised loss asks for.
    """

    def __call__(self, batch: Any) -> dict[str, tuple[Tensor, int]]:
        return self.module(batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, rate: float) -> float:
        if self.processes.size > 1:
            # What no process has used stays without a gradient: zeros would let Adam go on by its momentum.
            used = torch.tensor([float(p.grad is not None) for p in self.trained], device=self.processes.device)
            self.processes.add_up([used])
            shared = [parameter for parameter, count in zip(self.trained, used.tolist(), strict=True) if count]
            for parameter in shared:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.processes.add_up([parameter.grad for parameter in shared])
        norm = float(nn.utils.clip_grad_norm_(self.trained, self.config.optim.clip or math.inf))
        if math.isfinite(norm):
            self._set_rate(rate)
            self.optimizer.step()
            self.forget()
        return norm

    def save(self, folder: Path) -> None:
        if self.processes.main:
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")

    def load(self, folder: Path) -> None:
        saved = torch.load(folder / "optimizer.pt", map_location=self.processes.device, weights_only=True)
        self.optimizer.load_state_dict(saved)


def build_engine(module: nn.Module, groups: list[dict], config: TrainConfig, processes: Processes) -> Engine:
    """The engine that a config names.

    Raises:
        UserError: an unknown engine, or DeepSpeed where it is not installed.
    """
    if config.engine not in ENGINES:
        raise UserError(f"train.engine '{config.engine}' is unknown: {nearest(config.engine, ENGINES)}")
    if config.engine == "torch":
        return TorchEngine(module, groups, config, processes)
    from mooer_tk.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, groups, config, processes)
