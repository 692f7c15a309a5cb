"""MooER's released files: `adapter_project.pt` and `lora_weights/`, read and written strictly.

    <folder>/adapter_project.pt                     encoder_projector.linear1.weight, ...bias, ...linear2...
             lora_weights/adapter_config.json       peft's own
             lora_weights/adapter_model.bin         or .safetensors

             paraformer_encoder/paraformer-encoder.pth, am.mvn
             config.yaml                            ours: MooER's own releases have none

A release may keep the encoder's files elsewhere: encoder.model in the config says where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mooer_tk.config import Config, dump
from mooer_tk.data.atomic import replacing_dir, write_text
from mooer_tk.encoders.paraformer import ParaformerEncoder
from mooer_tk.errors import UserError
from mooer_tk.llm.causal_lm import write_lora
from mooer_tk.weights import read_tensors

ADAPTER, LORA = "adapter_project.pt", "lora_weights"
OURS, THEIRS = "adapter.", "encoder_projector."
HINT = "Bring the file again."


def is_release(folder: Path) -> bool:
    """True for a folder in MooER's layout."""
    return (folder / ADAPTER).is_file()


def read_release(folder: Path, config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Adapter weights by our names, and LoRA weights by peft's; `config.llm.lora` becomes what the files say.

    Args:
        config: the experiment's config: encoder, adapter and LLM of the release.

    Raises:
        UserError: a file that is missing, broken, or would run code when read, or an adapter key that is not MooER's.
    """
    weights = read_tensors(folder / ADAPTER, HINT)
    strange = sorted(name for name in weights if not name.startswith(THEIRS))
    if strange:
        raise UserError(
            f"{folder / ADAPTER} holds {len(strange)} keys that are no adapter's: {', '.join(strange)}. "
            f"Only {THEIRS}* belongs there."
        )
    adapter = {OURS + name.removeprefix(THEIRS): value.float() for name, value in weights.items()}
    # MooER's adapter does not standardise its input.
    dim = adapter.get(OURS + "linear1.weight", torch.empty(0, 0)).shape[1] // config.adapter.stack
    adapter |= {OURS + "mean": torch.zeros(dim), OURS + "std": torch.ones(dim)}
    if not (folder / LORA).is_dir():
        config.llm.lora.rank = 0
        return adapter, {}
    config.llm.lora.rank, config.llm.lora.alpha, config.llm.lora.targets = _lora_facts(folder / LORA)
    # Of the two, .safetensors.
    file = max((folder / LORA).glob("adapter_model.*"), default=None)
    if file is None:
        raise UserError(f"{folder / LORA} holds no adapter_model.safetensors or adapter_model.bin: copy it there.")
    return adapter, read_tensors(file, HINT)


def _lora_facts(folder: Path) -> tuple[int, int, list[str]]:
    try:
        facts: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return facts["r"], facts["lora_alpha"], sorted(facts["target_modules"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder}/adapter_config.json: {error!r}. {HINT}") from error


def write_release(folder: Path, adapter: dict[str, Tensor], lora: dict[str, Tensor], config: Config) -> None:
    """Write MooER's layout atomically, a Paraformer encoder with it.

    The standardisation of the states, which MooER's code does not know, is folded into the first linear layer.

    Args:
        adapter: weights by our names, with mean and std.
        lora: LoRA weights by peft's names; none for a frozen LLM.

    Raises:
        UserError: a model that MooER's code cannot run.
    """
    if config.adapter.name != "linear" or config.adapter.handover != "raw":
        raise UserError(
            "MooER's code feeds the LLM a linear adapter's raw output; this model has "
            f"adapter.name={config.adapter.name} and adapter.handover={config.adapter.handover}."
        )
    stack = config.adapter.stack
    mean, std = (adapter[OURS + name].repeat(stack) for name in ("mean", "std"))
    weight = adapter[OURS + "linear1.weight"] / std
    folded = {
        "linear1.weight": weight,
        "linear1.bias": adapter[OURS + "linear1.bias"] - weight @ mean,
        "linear2.weight": adapter[OURS + "linear2.weight"],
        "linear2.bias": adapter[OURS + "linear2.bias"],
    }
    with replacing_dir(folder) as target:
        torch.save({THEIRS + name: value.contiguous() for name, value in folded.items()}, target / ADAPTER)
        if config.encoder.name == "paraformer":
            ParaformerEncoder.load(config.encoder.model).save(target / "paraformer_encoder")
        if lora:
            write_lora(target / LORA, lora, config.llm)
        write_text(target / "config.yaml", dump(config))
