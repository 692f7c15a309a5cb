"""Loading a causal LM of transformers, and putting LoRA on it with peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mooer_tk.config import LLMConfig
from mooer_tk.errors import UserError
from mooer_tk.hub.models import resolve_model


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


def add_lora(llm: nn.Module, config: LLMConfig) -> nn.Module:
    """Wrap the LLM with trainable LoRA layers.

    Raises:
        UserError: a target module that the LLM does not have.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.rsplit(".", 1)[-1] for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    unknown = set(config.lora.targets) - names
    if unknown:
        raise UserError(f"llm.lora.targets {sorted(unknown)} are no linear layers of this LLM; it has {sorted(names)}.")
    return get_peft_model(
        llm,
        LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=config.lora.targets,
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )
