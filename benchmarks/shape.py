"""Training speed of a config's shape with random weights on the best device at hand: tokens/s, MFU, hours for a corpus.

  python -m benchmarks.shape egs/mt5k/mooer/conf/mooer_7b.yaml --batch 16 --profile

Neither weights nor data are needed: encoder states, prompts and answers are noise of the usual lengths.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mooer_tk.adapters.handover import Handover
from mooer_tk.adapters.table import build_adapter, resolve_stack
from mooer_tk.config import Config, load_config
from mooer_tk.llm.causal_lm import add_lora
from mooer_tk.llm.counting import llm_shape, meta_encoder, training_flops
from mooer_tk.llm.prompt import named_prompt
from mooer_tk.llm.speech_llm import Batch, SpeechLLM
from mooer_tk.train.processes import Processes
from mooer_tk.train.watch import memory_gib, peak_flops

TOKENS_PER_SECOND = 5  # of answer, for a second of speech


class NoTokenizer:
    """Stands for a tokeniser that is not there: one token for every four letters."""

    eos_token_id = 2

    def encode(self, text: str, **_: Any) -> list[int]:
        """Ids of no meaning."""
        return [5] * max(len(text) // 4, 1)


def build(config: Config, device: torch.device) -> tuple[SpeechLLM, float, int]:
    """The config's model with random weights on the device; milliseconds between states, and their size."""
    from transformers import AutoModelForCausalLM

    encoder = meta_encoder(config)
    frame_ms, dim = encoder.frame_ms, encoder.dim
    resolve_stack(config.adapter, frame_ms, config.encoder.name)
    with device:
        llm = AutoModelForCausalLM.from_config(llm_shape(config), dtype=getattr(torch, config.llm.dtype))
        llm = add_lora(llm.requires_grad_(False), config.llm)
        table = llm.get_input_embeddings().weight
        adapter = build_adapter(config.adapter, dim, table.shape[1])
        model = SpeechLLM(adapter, None, Handover("raw", table, None), llm, NoTokenizer(), named_prompt(config.prompt))
    model.precision, model.pack = config.train.precision, config.train.data.pack_positions
    if config.train.checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    return model.to(device).train(), frame_ms, dim


def batch_of(size: int, seconds: float, frame_ms: float, dim: int, device: torch.device) -> Batch:
    """Utterances of around `seconds`, their lengths as unlike as those of a bucket."""
    lengths = (torch.linspace(0.95, 1.05, size) * 1000 * seconds / frame_ms).long()
    states = torch.randn(size, int(lengths.max()), dim, device=device)
    answers = [[7] * round(TOKENS_PER_SECOND * seconds) for _ in range(size)]
    nothing: list[list[int]] = [[] for _ in range(size)]
    return Batch([f"u{i}" for i in range(size)], states, lengths.to(device), ["asr"] * size, answers, nothing)


def measure(config: Config, size: int, seconds: float, steps: int, hours: float) -> dict[str, Any]:
    """Time `steps` training steps of one process after two to warm up."""
    device = Processes.join().device
    model, frame_ms, dim = build(config, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    begun, flops = 0.0, 0.0
    for step in range(steps + 2):
        if step == 2:
            _settle(device)
            begun = time.perf_counter()
        batch = batch_of(size, seconds, frame_ms, dim, device)
        loss, tokens = model(batch)["ce"]
        (loss / tokens).backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        flops += training_flops(model, model.fill, tokens) if step >= 2 else 0.0
    _settle(device)
    taken = time.perf_counter() - begun
    speech = steps * size * seconds
    return {
        "LLM": config.llm.model,
        "batch": f"{size} x {seconds:g} s",
        "positions/s": round(steps * model.fill.positions / taken),
        "answer tokens/s": round(steps * size * round(TOKENS_PER_SECOND * seconds) / taken),
        "MFU %": round(100 * flops / taken / peak_flops(device, config.train.precision), 1),
        "memory GiB": memory_gib(device),
        f"hours for {hours:g} h of speech": round(hours * taken / speech, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Read the command line, print one row, and where the time goes."""
    from mooer_tk.score.tables import print_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="experiment YAML")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--batch", type=int, default=8, help="utterances (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps to time (%(default)s)")
    parser.add_argument("--hours", type=float, default=5000.0, help="corpus to project to (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="print the operations that take the most time")
    args = parser.parse_args()
    config = load_config(args.config, args.set)
    print_table([measure(config, args.batch, args.seconds, args.steps, args.hours)])
    if args.profile:
        from torch.profiler import profile

        with profile() as found:
            measure(config, args.batch, args.seconds, 2, args.hours)
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=key, row_limit=20))


if __name__ == "__main__":
    main()
