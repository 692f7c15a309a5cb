#!/usr/bin/env python3
"""Convert between MooER's released files and mooer_tk's model directory, strictly: what does not fit is listed.

  tools/mooer_release.py read pretrained/asr exp/mooer_7b/model --config egs/mt5k/mooer/conf/mooer_7b.yaml
  tools/mooer_release.py write exp/mine released/asr

A release is:

    adapter_project.pt                     encoder_projector.linear1.weight, ...bias, ...linear2...
    lora_weights/adapter_config.json       peft's own; absent where the LLM was left frozen
                 adapter_model.bin         or .safetensors
    paraformer_encoder/paraformer-encoder.pth, am.mvn
    config.yaml                            ours: MooER's own releases have none, so `read` asks for one

Its encoder may lie elsewhere: encoder.model in the config says where. `write` folds the standardisation of the states,
which MooER's code does not know, into the first linear layer.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mooer_tk.adapters.table import build_adapter
from mooer_tk.config import Config, dump, load_config
from mooer_tk.data.atomic import replacing_dir, write_text
from mooer_tk.encoders.paraformer import ParaformerEncoder
from mooer_tk.errors import UserError, exit_status
from mooer_tk.llm.causal_lm import add_lora, lora_weights, write_lora
from mooer_tk.llm.checkpoint import Parts, read_parts, write_parts
from mooer_tk.llm.counting import llm_shape
from mooer_tk.llm.prompt import named_prompt
from mooer_tk.progress import log, quiet_libraries
from mooer_tk.weights import check_fit, read_tensors

ADAPTER, LORA = "adapter_project.pt", "lora_weights"
OURS, THEIRS = "adapter.", "encoder_projector."
HINT = "Bring the file again."


def main(argv: list[str] | None = None) -> int:
    """Read the command line, convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    read = ways.add_parser("read", help="a release -> mooer_tk's model directory")
    read.add_argument("release", type=Path, metavar="RELEASE", help="folder with adapter_project.pt")
    read.add_argument("out", type=Path, metavar="OUT", help="model directory to write, such as exp/mooer_7b/model")
    read.add_argument("--config", type=Path, help="the YAML of a release, which has none of its own")
    write = ways.add_parser("write", help="a model of mooer_tk -> a release")
    write.add_argument("model", type=Path, metavar="MODEL", help="exp/NAME, or an exported model")
    write.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    args = parser.parse_args(argv)
    quiet_libraries()
    return exit_status(Path(__file__).name, lambda: _read(args) if args.way == "read" else _write(args))


def _read(args: argparse.Namespace) -> int:
    own = args.release / "config.yaml"
    if args.config is None and not own.is_file():
        raise UserError(f"{args.release} has no config of its own: name it, --config conf/mooer_7b.yaml.")
    parts = read_release(args.release, load_config(args.config or own))
    write_parts(args.out, parts, {"from": str(args.release)})
    log(f"{args.out}: the release {args.release} as a model of mooer_tk")
    return 0


def _write(args: argparse.Namespace) -> int:
    write_release(args.out, read_parts(args.model))
    log(f"{args.out}: {args.model} in the layout of MooER's release")
    return 0


def read_release(folder: Path, config: Config) -> Parts:
    """What a release holds; rank, alpha and targets of `llm.lora` are what its files say, not the config.

    Args:
        config: the release's encoder, adapter and LLM.

    Raises:
        UserError: a file that is missing, broken, or would run code when read, or keys that do not fit the config.
    """
    config = copy.deepcopy(config)
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
    lora: dict[str, Tensor] = {}
    config.llm.lora.rank = 0
    if (folder / LORA).is_dir():
        config.llm.lora.rank, config.llm.lora.alpha, config.llm.lora.targets = _lora_facts(folder / LORA)
        # Of the two, .safetensors.
        file = max((folder / LORA).glob("adapter_model.*"), default=None)
        if file is None:
            raise UserError(f"{folder / LORA} holds no adapter_model.safetensors or adapter_model.bin: copy it there.")
        lora = read_tensors(file, HINT)
    parts = Parts(config, named_prompt(config.prompt), dim, adapter, lora)
    _check_fit(parts, str(folder))
    return parts


def _lora_facts(folder: Path) -> tuple[int, int, list[str]]:
    try:
        facts: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return facts["r"], facts["lora_alpha"], sorted(facts["target_modules"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder}/adapter_config.json: {error!r}. {HINT}") from error


def _check_fit(parts: Parts, what: str) -> None:
    """Raise a UserError that lists the keys which do not fit the config's model; no weight of the LLM is read."""
    from transformers import AutoModelForCausalLM

    config, shape = parts.config, llm_shape(parts.config)
    with torch.device("meta"):
        adapter = build_adapter(config.adapter, parts.dim, shape.hidden_size)
        llm = add_lora(AutoModelForCausalLM.from_config(shape), config.llm)
    check_fit({OURS + name: value for name, value in adapter.state_dict().items()}, parts.adapter, f"{what}'s adapter")
    check_fit(lora_weights(llm), parts.lora, f"{what}'s LoRA")


def write_release(folder: Path, parts: Parts) -> None:
    """Write MooER's layout atomically, a Paraformer encoder with it.

    Raises:
        UserError: a model that MooER's code cannot run, or keys that do not fit its config.
    """
    config = parts.config
    if config.adapter.name != "linear" or config.adapter.handover != "raw":
        raise UserError(
            "MooER's code feeds the LLM a linear adapter's raw output; this model has "
            f"adapter.name={config.adapter.name} and adapter.handover={config.adapter.handover}."
        )
    # A CTC head may stand beside the adapter: MooER's code has none.
    parts = replace(parts, adapter={name: value for name, value in parts.adapter.items() if name.startswith(OURS)})
    _check_fit(parts, "the model")
    adapter = {name.removeprefix(OURS): value for name, value in parts.adapter.items()}
    mean, std = (adapter[name].repeat(config.adapter.stack) for name in ("mean", "std"))
    weight = adapter["linear1.weight"] / std
    folded = {
        "linear1.weight": weight,
        "linear1.bias": adapter["linear1.bias"] - weight @ mean,
        "linear2.weight": adapter["linear2.weight"],
        "linear2.bias": adapter["linear2.bias"],
    }
    with replacing_dir(folder) as target:
        torch.save({THEIRS + name: value.contiguous() for name, value in folded.items()}, target / ADAPTER)
        if config.encoder.name == "paraformer":
            _write_encoder(Path(config.encoder.model), target / "paraformer_encoder")
        if parts.lora:
            write_lora(target / LORA, parts.lora, config.llm)
        write_text(target / "config.yaml", dump(config))


def _write_encoder(source: Path, target: Path) -> None:
    """The encoder alone, which the source may hold as a part of FunASR's whole recogniser."""
    target.mkdir()
    torch.save(ParaformerEncoder.load(source).state_dict(), target / "paraformer-encoder.pth")
    shutil.copyfile(source / "am.mvn", target / "am.mvn")


if __name__ == "__main__":
    sys.exit(main())
