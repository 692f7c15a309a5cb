"""Turn a GGUF file into an ordinary transformers folder, once, so that later loads take seconds and no gguf."""

from __future__ import annotations

from pathlib import Path

from mooer_tk.data.atomic import replacing_dir


def convert(package: Path | str, target: Path | str) -> None:
    """Write `target/` with the de-quantised fp32 model (safetensors) and tokeniser of `package/model.gguf`.

    A model loaded from GGUF refuses `save_pretrained`, so its weights move into a fresh model of the same config.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(package), "gguf_file": "model.gguf"}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), strict=True)
    with replacing_dir(target) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
