"""Building a speech LLM from its config, and the exported model: one directory that holds all that was trained.

    <model>/config.yaml          the resolved config
            prompt.json          the prompt object
            adapter.safetensors  adapter, its statistics, and the CTC head with the tokens it knows
            lora/                peft's own layout; absent where the LLM was left frozen
            info.json            where the model comes from

Every key must fit: a missing, unused or wrongly shaped one is an error that names it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mooer_tk import __version__
from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.handover import Handover
from mooer_tk.adapters.table import build_adapter
from mooer_tk.config import Config, dump, load_config
from mooer_tk.data.atomic import replacing_dir, write_json, write_text
from mooer_tk.errors import UserError
from mooer_tk.llm.causal_lm import LORA_FILE, add_lora, load_llm, lora_weights, write_lora
from mooer_tk.llm.prompt import Prompt, named_prompt
from mooer_tk.llm.speech_llm import SpeechLLM
from mooer_tk.model_dir import model_folder, read_info
from mooer_tk.weights import check_fit, load_strictly, read_tensors

TOKENS = "head.tokens"


def build_model(
    config: Config,
    dim: int,
    *,
    adapter: dict[str, Tensor] | None = None,
    llm: tuple[nn.Module, Any] | None = None,
    prompt: Prompt | None = None,
) -> SpeechLLM:
    """Make the model of a config.

    Args:
        config: the experiment's config.
        dim: size of an encoder state.
        adapter: weights of adapter and CTC head as `load_adapter` reads them; None starts at random, without a head.
        llm: an LLM that is already loaded with its tokeniser.
        prompt: the prompt of a checkpoint; None takes the config's.
    """
    model, tokenizer = llm or load_llm(config.llm)
    table = model.get_input_embeddings().weight
    network = build_adapter(config.adapter, dim, table.shape[1], dropout=config.train.state_dropout)
    head = None
    if adapter is not None:
        head = EmbeddingCTCHead(adapter[TOKENS], table) if TOKENS in adapter else None
        load_strictly(nn.ModuleDict({"adapter": network, **({"head": head} if head else {})}), adapter, "the adapter")
    handover = Handover(config.adapter.handover, table, head)
    return SpeechLLM(
        network, head, handover, add_lora(model, config.llm), tokenizer, prompt or named_prompt(config.prompt)
    )


def load_adapter(path: Path) -> dict[str, Tensor]:
    """Read adapter and CTC head as a warm start or an exported model has them.

    Raises:
        UserError: a missing or broken file.
    """
    return read_tensors(path, "Run stage 4 (or 6) again.")


@dataclass
class Parts:
    """What a model's directory holds: config, prompt, size of a state, weights of adapter (and head) and of LoRA."""

    config: Config
    prompt: Prompt
    dim: int
    adapter: dict[str, Tensor]
    lora: dict[str, Tensor]


def write_parts(folder: Path, parts: Parts, info: dict[str, Any]) -> None:
    """Write what `read_parts` reads, atomically."""
    with replacing_dir(folder) as target:
        write_text(target / "config.yaml", dump(parts.config))
        parts.prompt.save(target / "prompt.json")
        save_file(parts.adapter, target / "adapter.safetensors")
        if parts.lora:
            write_lora(target / "lora", parts.lora, parts.config.llm)
        write_json(target / "info.json", {"mooer_tk": __version__, "dim": parts.dim, **info})


def export_run(run: Path, out: Path, weights: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write the model of a run (`mooer train instruct`) from averaged weights.

    Raises:
        UserError: weights that belong neither to the adapter nor to LoRA.
    """
    adapter = {name: value for name, value in weights.items() if name.startswith(("adapter.", "head."))}
    # As peft names them in a file.
    lora = {name.removeprefix("llm.").replace(".default", ""): v for name, v in weights.items() if ".lora_" in name}
    if lost := [name for name in sorted(weights) if name not in adapter and ".lora_" not in name]:
        raise UserError(f"{run}: weights that no export knows: {', '.join(lost)}. Train again with this version.")
    config, prompt = load_config(run / "config.yaml"), Prompt.load(run / "prompt.json")
    write_parts(out, Parts(config, prompt, len(weights["adapter.mean"]), adapter, lora), info)


def read_parts(folder: Path | str) -> Parts:
    """Read an exported model: its own folder, or the `exp/NAME` that it lies below.

    Raises:
        UserError: not a model directory, or files that cannot be read.
    """
    info, folder = read_info(folder), model_folder(folder)
    settings = load_config(folder / "config.yaml")
    lora = read_tensors(folder / "lora" / LORA_FILE, "Run stage 6 again.") if settings.llm.lora.rank else {}
    adapter = load_adapter(folder / "adapter.safetensors")
    return Parts(settings, Prompt.load(folder / "prompt.json"), info["dim"], adapter, lora)


def build_from(parts: Parts, what: str, llm: tuple[nn.Module, Any] | None = None) -> SpeechLLM:
    """The model of `parts`, its LoRA in place and trainable; a key that does not fit is a UserError that lists it."""
    model = build_model(parts.config, parts.dim, adapter=parts.adapter, llm=llm, prompt=parts.prompt)
    own = lora_weights(model.llm)
    check_fit(own, parts.lora, f"the LoRA of {what}")
    for name, parameter in own.items():
        parameter.data.copy_(parts.lora[name])
    return model


def load_model(folder: Path | str) -> tuple[SpeechLLM, Config]:
    """Load a model for decoding, LoRA merged into the LLM; errors as of `read_parts`."""
    parts = read_parts(folder)
    model = build_from(parts, str(folder))
    if parts.lora:
        model.llm = model.llm.merge_and_unload()
    return model.eval(), parts.config


def tokens_in_use(transcripts: list[list[int]]) -> Tensor:
    """Sorted ids (V,) of all tokens that occur in the transcripts."""
    return torch.tensor(sorted({token for transcript in transcripts for token in transcript}), dtype=torch.long)
