"""The processes of one run: who is who, sums over all of them, and what one of them has to tell the others.

Started by torchrun, by the deepspeed launcher or by Slurm's srun, which all say it in the environment; without them
there is one process.
"""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist

# An evaluation by generation keeps the others waiting for longer than torch's half an hour at times.
PATIENCE = timedelta(hours=4)
# What srun calls the things that torch.distributed reads.
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}
SLURM |= {"MASTER_ADDR": "SLURM_LAUNCH_NODE_IPADDR"}


@dataclass(frozen=True)
class Processes:
    """This process among `size` equals.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: where its tensors live.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls) -> Self:
        """Read the environment and meet the others; a second call in the same process meets the same ones."""
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
        if "RANK" not in os.environ and tasks > 1:
            os.environ |= {name: os.environ[slurm] for name, slurm in SLURM.items() if slurm in os.environ}
            os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000))
        size = int(os.environ.get("WORLD_SIZE", "1"))
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(int(os.environ.get("RANK", "0")) if size > 1 else 0, size, device)

    @property
    def main(self) -> bool:
        """True for the one that writes what all of them share."""
        return self.rank == 0

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Add up the values of all processes by name; names that some of them lack count as 0 there."""
        return add_by_name(self.gather(values))

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; every process gets them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_all(self, values: list[Any]) -> list[Any]:
        """One list of the values of all processes, by rank."""
        return [value for some in self.gather(values) for value in some]

    def add_up(self, tensors: list[torch.Tensor]) -> None:
        """Replace tensors by their sums over the processes, in one message a dtype."""
        if self.size == 1:
            return
        for dtype in sorted({one.dtype for one in tensors}, key=str):
            some = [one for one in tensors if one.dtype == dtype]
            flat = torch.cat([one.flatten() for one in some])
            dist.all_reduce(flat)
            for one, total in zip(some, flat.split([one.numel() for one in some]), strict=True):
                one.copy_(total.view_as(one))

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the company; nothing can be shared afterwards."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def add_by_name(some: list[dict[str, float]]) -> dict[str, float]:
    """Sums by name; a name that some of them lack counts as 0 there."""
    total: dict[str, float] = {}
    for one in some:
        for name, value in one.items():
            total[name] = total.get(name, 0) + value
    return total
