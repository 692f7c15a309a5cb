"""Any causal LM of transformers: its head on chosen positions gives what its own forward gives there."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mooer_tk.config import LLMConfig, LoraConfig
from mooer_tk.llm.causal_lm import add_lora, logits_of

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 90, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
KINDS = {
    "qwen2": {},
    "llama": {"tie_word_embeddings": True},
    "mistral": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 0.05},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 4])
def test_the_head_on_chosen_positions_is_the_llms_own(kind, rank):
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **HEADS, **KINDS[kind]))
    llm = add_lora(llm.requires_grad_(False), LLMConfig(lora=LoraConfig(rank=rank))).eval()
    inputs = torch.randn(2, 7, 32)
    inner = llm.get_base_model() if rank else llm
    hidden = inner.base_model(inputs_embeds=inputs).last_hidden_state
    expected = llm(inputs_embeds=inputs).logits[:, 3:]
    torch.testing.assert_close(logits_of(llm, hidden[:, 3:]), expected, atol=1e-5, rtol=1e-5)
    trained = [name for name, p in llm.named_parameters() if p.requires_grad]
    assert bool(trained) == bool(rank) and all(".lora_" in name for name in trained)
