"""Loading a causal LM of transformers, and putting LoRA on it with peft."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mooer_tk.config import LLMConfig
from mooer_tk.errors import UserError
from mooer_tk.models import resolve_model

LORA_FILE = "adapter_model.safetensors"


def load_llm(config: LLMConfig) -> tuple[nn.Module, Any]:
    """Load the frozen LLM and its tokeniser; eval mode, no gradients.

    Raises:
        UserError: unknown dtype, or a tokeniser without an eos token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, config.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"llm.dtype '{config.dtype}' is no torch type; use float32 or bfloat16.")
    path = str(resolve_model(config.model).path)
    llm = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: the tokeniser has no eos token; an instruct model is needed.")
    return llm.requires_grad_(False).eval(), tokenizer


def logits_of(llm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The LM head on chosen states (N, H) -> logits (N, vocabulary), float32, scaled as in the LLM's own forward."""
    config = llm.config.get_text_config()
    logits = llm.get_output_embeddings()(hidden).float()
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2 and 3
        logits = cap * torch.tanh(logits / cap)
    return logits


def add_lora(llm: nn.Module, config: LLMConfig) -> nn.Module:
    """Wrap the LLM with trainable LoRA layers; of rank 0 it stays as it is, frozen.

    Raises:
        UserError: a target module that the LLM does not have.
    """
    from peft import get_peft_model

    if config.lora.rank == 0:
        return llm
    names = {name.rsplit(".", 1)[-1] for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    unknown = set(config.lora.targets) - names
    if unknown:
        raise UserError(f"llm.lora.targets {sorted(unknown)} are no linear layers of this LLM; it has {sorted(names)}.")
    return get_peft_model(llm, _lora_config(config))


def _lora_config(config: LLMConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.targets,
        bias="none",
        task_type="CAUSAL_LM",
    )


def lora_weights(llm: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA's parameters by the names that peft gives them in a file; none for an LLM without LoRA."""
    return {name.replace(".default", ""): p for name, p in llm.named_parameters() if ".lora_" in name}


def write_lora(folder: Path, weights: dict[str, torch.Tensor], config: LLMConfig) -> None:
    """Write peft's own layout: adapter_config.json and adapter_model.safetensors."""
    settings = _lora_config(config)
    settings.base_model_name_or_path = config.model
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, folder / LORA_FILE)
