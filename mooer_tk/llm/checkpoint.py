"""Building a speech LLM from its config, and the exported model: one directory that holds all that was trained.

    <model>/config.yaml          the resolved config
            prompt.json          the prompt object
            adapter.safetensors  adapter, its statistics, and the CTC head with the tokens it knows
            lora/                peft's own layout
            info.json            where the model comes from

Every key must fit: a missing, unused or wrongly shaped one is an error that names it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mooer_tk import __version__
from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.handover import Handover
from mooer_tk.adapters.table import build_adapter
from mooer_tk.config import Config, dump, load_config
from mooer_tk.data.atomic import replacing_dir, write_json, write_text
from mooer_tk.errors import UserError
from mooer_tk.llm.causal_lm import add_lora, load_llm
from mooer_tk.llm.prompt import Prompt, named_prompt
from mooer_tk.llm.speech_llm import SpeechLLM

TOKENS = "head.tokens"


def build_model(
    config: Config,
    dim: int,
    *,
    adapter: dict[str, Tensor] | None = None,
    llm: tuple[nn.Module, Any] | None = None,
    prompt: Prompt | None = None,
    lora: bool = True,
) -> SpeechLLM:
    """Make the model of a config.

    Args:
        config: the experiment's config.
        dim: size of an encoder state.
        adapter: weights of adapter and CTC head as `save_adapter` wrote them; None starts at random, without a head.
        llm: an LLM that is already loaded with its tokeniser.
        prompt: the prompt of a checkpoint; None takes the config's.
        lora: put fresh LoRA layers on the LLM.
    """
    model, tokenizer = llm or load_llm(config.llm)
    table = model.get_input_embeddings().weight
    network = build_adapter(config.adapter, dim, table.shape[1], dropout=config.train.state_dropout)
    head = None
    if adapter is not None:
        head = EmbeddingCTCHead(adapter[TOKENS], table) if TOKENS in adapter else None
        load_strictly(nn.ModuleDict({"adapter": network, **({"head": head} if head else {})}), adapter, "the adapter")
    handover = Handover(config.adapter.handover, table, head, config.adapter.blank_penalty)
    wrapped = add_lora(model, config.llm) if lora else model
    return SpeechLLM(network, head, handover, wrapped, tokenizer, prompt or named_prompt(config.prompt))


def load_strictly(module: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Load weights; raise a UserError that lists missing, unused and wrongly shaped keys."""
    check_fit(module.state_dict(), weights, what)
    module.load_state_dict(weights)


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
            f"the weights of {what} do not fit the config: {'; '.join(faults[:10])}. "
            "Use the config.yaml that was written beside them."
        )


def save_adapter(path: Path, adapter: nn.Module, head: EmbeddingCTCHead | None) -> None:
    """Write adapter and head as one safetensors file."""
    parts = nn.ModuleDict({"adapter": adapter, **({"head": head} if head is not None else {})})
    save_file({name: tensor.contiguous() for name, tensor in parts.state_dict().items()}, path)


def load_adapter(path: Path | str) -> dict[str, Tensor]:
    """Read what `save_adapter` wrote.

    Raises:
        UserError: a missing or broken file.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kinds, all of them about this file
        raise UserError(f"cannot read the adapter {path}: {error}. Run stage 4 (or 6) again.") from error


def export_model(model: SpeechLLM, config: Config, dim: int, folder: Path, info: dict[str, Any]) -> None:
    """Write the model's directory atomically."""
    with replacing_dir(folder) as target:
        write_text(target / "config.yaml", dump(config))
        model.prompt.save(target / "prompt.json")
        save_adapter(target / "adapter.safetensors", model.adapter, model.head)
        model.llm.save_pretrained(target / "lora", save_embedding_layers=False)
        write_json(target / "info.json", {"mooer_tk": __version__, "dim": dim, **info})


def load_model(folder: Path | str) -> tuple[SpeechLLM, Config]:
    """Load an exported model for decoding, LoRA merged into the LLM.

    Raises:
        UserError: not a model directory, or weights that do not fit.
    """
    from peft import PeftConfig, PeftModel

    folder = Path(folder)
    # `exp/NAME` is what people have at hand; the model lies below it.
    folder = folder / "model" if (folder / "model" / "info.json").is_file() else folder
    if not (folder / "info.json").is_file():
        raise UserError(f"{folder} holds no exported model (info.json): give exp/NAME after stage 6 has run.")
    config = load_config(folder / "config.yaml")
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    llm, tokenizer = load_llm(config.llm)
    try:
        weights = load_file(folder / "lora" / "adapter_model.safetensors")
        wrapped = PeftModel(llm, PeftConfig.from_pretrained(str(folder / "lora")))
    except Exception as error:  # safetensors and peft raise their own kinds, all of them about these files
        raise UserError(f"cannot read the LoRA of {folder}/lora: {error}. Run stage 6 again.") from error
    fresh = {name.replace(".default", ""): p for name, p in wrapped.named_parameters() if ".lora_" in name}
    check_fit(fresh, weights, f"{folder}/lora")
    for name, parameter in fresh.items():
        parameter.data.copy_(weights[name])
    model = build_model(
        config,
        info["dim"],
        adapter=load_adapter(folder / "adapter.safetensors"),
        llm=(wrapped.merge_and_unload(), tokenizer),
        prompt=Prompt.load(folder / "prompt.json"),
        lora=False,
    )
    return model.eval(), config


def tokens_in_use(transcripts: list[list[int]]) -> Tensor:
    """Sorted ids (V,) of all tokens that occur in the transcripts."""
    return torch.tensor(sorted({token for transcript in transcripts for token in transcript}), dtype=torch.long)
