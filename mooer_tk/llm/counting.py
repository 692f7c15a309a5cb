"""What a config costs before anyone starts a job: its parameters, counted on the meta device, and memory per GPU."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mooer_tk.adapters.table import build_adapter, resolve_stack
from mooer_tk.config import Config
from mooer_tk.encoders.paraformer import ParaformerEncoder
from mooer_tk.errors import UserError
from mooer_tk.features.cmvn import CMVN
from mooer_tk.llm.causal_lm import add_lora
from mooer_tk.llm.speech_llm import Fill, SpeechLLM
from mooer_tk.models import resolve_model

# Shapes of LLMs that people count before they download them, as their config.json on the model hub says.
_NAMES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
_QWEN2 = {
    "Qwen/Qwen2-7B-Instruct": ((3584, 18944, 28, 4, 152064), False),
    "Qwen/Qwen2-1.5B-Instruct": ((1536, 8960, 12, 2, 151936), True),
}
SHAPES = {
    name: {**dict(zip(_NAMES, sizes, strict=True)), "num_hidden_layers": 28, "tie_word_embeddings": tied}
    for name, (sizes, tied) in _QWEN2.items()
}
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """Parameters of the parts, the LLM's configuration (a transformers object), and milliseconds per embedding."""

    encoder: int
    adapter: int
    lora: int
    llm: int
    llm_config: Any
    frame_ms: float

    @property
    def trainable(self) -> int:
        """Adapter and LoRA."""
        return self.adapter + self.lora


def count(config: Config) -> Shape:
    """Build the model of a config on the meta device and count it; no weight is read or made.

    Raises:
        UserError: an LLM or an encoder whose shape is not known here and cannot be found.
    """
    from transformers import AutoModelForCausalLM

    llm_config, encoder = llm_shape(config), meta_encoder(config)
    # From here on nothing may be read or converted: it would lose its values.
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(llm_config, dtype=torch.bfloat16)
        plain = _size(llm)
        lora = _size(add_lora(llm, config.llm)) - plain if config.llm.lora.rank else 0
        settings = copy.copy(config.adapter)
        resolve_stack(settings, encoder.frame_ms, config.encoder.name)
        adapter = build_adapter(settings, encoder.dim, llm_config.hidden_size)
    return Shape(_size(encoder), _size(adapter), lora, plain, llm_config, encoder.frame_ms * adapter.rate)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def llm_shape(config: Config) -> Any:
    """The LLM's configuration (a transformers object), from its folder, the hub or the table above."""
    from transformers import AutoConfig

    name = config.llm.model
    try:
        return AutoConfig.from_pretrained(str(resolve_model(name).path))
    except UserError:
        if name not in SHAPES:
            raise
    return AutoConfig.for_model("qwen2", **SHAPES[name])


def meta_encoder(config: Config) -> nn.Module:
    """The encoder on the meta device, with its `frame_ms` and `dim`."""
    from transformers import AutoConfig, AutoModel

    if config.encoder.name == "espnet":
        raise UserError("an ESPnet encoder is counted by ESPnet itself: its shape is in its own config.yaml.")
    if config.encoder.name == "paraformer":
        with torch.device("meta"):
            return ParaformerEncoder(CMVN(torch.zeros(560), torch.ones(560)))
    found = AutoConfig.from_pretrained(str(resolve_model(config.encoder.model).path))
    with torch.device("meta"):
        model = AutoModel.from_config(found)
    model = model.encoder if config.encoder.name == "whisper" else model
    model.dim = getattr(found, "d_model", None) or found.hidden_size
    # Whisper, W2v-BERT, HuBERT, wav2vec 2.0 and WavLM all give a state every 20 ms.
    model.frame_ms = 20.0
    return model


def shape_of(model: SpeechLLM, encoder: nn.Module | None, state_ms: float) -> Shape:
    """Count a model that is there; without an encoder (cached states) that counts as nothing."""
    lora = sum(p.numel() for name, p in model.llm.named_parameters() if ".lora_" in name)
    config = model.llm.config.get_text_config()
    whole = _size(model.llm) - lora
    frame_ms = state_ms * model.adapter.rate
    return Shape(_size(encoder) if encoder else 0, _size(model.adapter), lora, whole, config, frame_ms)


def memory(
    config: Config, shape: Shape, *, batch: int, zero: int, gpus: int, seconds: float = 10.0
) -> dict[str, float]:
    """Estimated GiB of each GPU in training: bf16 weights, fp32 optimizer states, activations of a micro-batch.

    ZeRO shares out optimizer states from stage 1 on, gradients from 2 on and weights from 3 on (Rajbhandari et al.,
    arXiv 1910.02054). Activations follow Korthikanti et al., arXiv 2205.05198, section 4, without stored attention
    matrices; every figure is for `batch` utterances of `seconds` with 25 tokens of prompt and 5 a second of answer.

    Args:
        batch: utterances of a micro-batch.
        zero: ZeRO stage, 0 to 3.
        gpus: GPUs that share.
    """
    if zero not in range(4):
        raise UserError(f"ZeRO stage {zero}: stages are 0 to 3.")
    if min(batch, gpus) < 1:
        raise UserError("a batch and a number of GPUs are at least 1.")
    llm = shape.llm_config
    answer = round(5 * seconds)
    tokens = batch * (round(1000 * seconds / shape.frame_ms) + 25 + answer)
    # Bytes a token and layer: inputs of norms, projections and the gated feed-forward, and LoRA's inputs beside them.
    layer = 2 * (10 * llm.hidden_size + 4 * llm.intermediate_size)
    kept = 2 * llm.hidden_size if config.train.checkpointing else layer
    share = {stage: gpus if zero >= stage else 1 for stage in (1, 2, 3)}
    parts = {
        "LLM weights (bf16)": 2 * (shape.llm + shape.lora) / share[3],
        "encoder and adapter weights": 4 * shape.encoder + 2 * shape.adapter,
        "gradients (bf16)": 2 * shape.trainable / share[2],
        "optimizer (fp32 copy, two moments)": 12 * shape.trainable / share[1],
        "activations": tokens * (llm.num_hidden_layers * kept + (layer if config.train.checkpointing else 0)),
        "logits of the answers": 10 * batch * answer * llm.vocab_size,
        "CUDA context and buffers": 1.5 * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def training_flops(model: nn.Module, fill: Fill, answers: int) -> float:
    """Floating-point operations of one micro-batch, forward and backward: those of the model, not of padding.

    Two for each weight and position forward, two backward for what is frozen and four for what is trained; attention
    of a causal LLM sees half of its square. What checkpointing computes again is not counted.

    Args:
        model: a SpeechLLM.
        fill: positions and squared lengths that it saw.
        answers: positions that the LM head was applied to.
    """
    config = model.llm.config.get_text_config()
    head = config.hidden_size * config.vocab_size
    trained = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and n.startswith("llm."))
    adapter = sum(p.numel() for p in model.adapter.parameters())
    inside = sum(p.numel() for p in model.llm.parameters()) - trained
    inside -= head * (1 if config.tie_word_embeddings else 2)
    attention = 3 * 2 * config.hidden_size * config.num_hidden_layers * fill.squares
    return fill.positions * (4.0 * inside + 6.0 * (trained + adapter)) + 4.0 * head * answers + attention
