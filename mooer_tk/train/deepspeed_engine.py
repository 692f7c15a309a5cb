"""DeepSpeed's ZeRO-2 and ZeRO-3 behind the loop of the plain engine.

What is trained stays float32, and so do the optimizer's states; matrix products are bfloat16 where `precision` says
so, and the frozen LLM's weights where `llm.dtype` does. DeepSpeed's own bf16 mode would round the adapter's
statistics as well.
"""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mooer_tk.config import TrainConfig
from mooer_tk.errors import UserError
from mooer_tk.train.engine import Engine
from mooer_tk.train.processes import Processes

TAG = "engine"


class DeepSpeedEngine(Engine):
    """ZeRO-2 shares out gradients and optimizer states among the processes, ZeRO-3 the weights too.

    Its checkpoints are a part for each process, and DeepSpeed unpickles them: go on from your own runs only.

    Raises:
        UserError: DeepSpeed is not installed, or a setting that it cannot serve.
    """

    def __init__(self, module: nn.Module, groups: list[dict], config: TrainConfig, processes: Processes) -> None:
        if config.zero_stage not in (1, 2, 3):
            raise UserError(f"train.zero_stage is {config.zero_stage}: DeepSpeed's stages are 1, 2 and 3.")
        if config.max_bad_steps:
            raise UserError("train.max_bad_steps needs train.engine=torch: DeepSpeed cannot take back a micro-batch.")
        super().__init__(module, groups, config, processes)
        deepspeed = _import(processes)
        self.in_step = config.zero_stage == 3
        self.gathered = deepspeed.zero.GatheredParameters
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": config.accumulate,
            "gradient_clipping": config.optim.clip,
            "zero_optimization": {"stage": config.zero_stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=self.module, optimizer=self.optimizer, config=settings, dist_init_required=False
        )

    def __call__(self, batch: Any) -> dict[str, tuple[Tensor, int]]:
        return self.engine(batch)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed divides by both; the loss is normalised already.
        self.engine.backward(loss * self.processes.size * self.config.accumulate)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, rate: float) -> float:
        """As in the base class, but DeepSpeed knows the norm only once the step is taken."""
        self._set_rate(rate)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), TAG, exclude_frozen_parameters=True, save_latest=False)

    def load(self, folder: Path) -> None:
        found, _ = self.engine.load_checkpoint(str(folder), TAG, load_module_strict=False)
        if found is None:
            raise UserError(f"{folder}/{TAG} is no checkpoint of DeepSpeed: remove {folder}, an older one will do.")

    def weights(self) -> dict[str, Tensor]:
        if not self.in_step:
            return super().weights()
        with self.gathered(self.trained):
            return {name: tensor.clone() for name, tensor in super().weights().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Nothing to do: `load` brings the weights too, in the parts that each process holds."""


def _import(processes: Processes) -> Any:
    # A process that was started alone has none of the variables that DeepSpeed reads.
    if processes.size == 1 and "RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        os.environ |= {name: value for name, value in alone.items() if name not in os.environ}
    os.environ.setdefault("DS_ACCELERATOR", processes.device.type)
    try:
        import deepspeed
        from deepspeed.ops import __compatible_ops__ as ops
    except ImportError as error:
        raise UserError("DeepSpeed is not installed: tools/install.sh --extras deepspeed") from error
    if processes.device.type == "cpu":
        # Compiling it takes minutes, and a lock that a killed job leaves makes every later one wait for ever.
        ops["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if processes.device.type == "cuda" else "gloo")
    return deepspeed
