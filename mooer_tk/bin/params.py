"""Count a config's parameters without loading anything, and estimate the memory that training it takes.

mooer params conf/mooer_7b.yaml
mooer params conf/mooer_7b.yaml --memory --batch 8 --zero 2 --gpus 8
mooer params conf/moe_1b.yaml --vocabulary 5000
mooer params exp/u2pp/ume
"""

import argparse
from pathlib import Path

from mooer_tk.config import load_config, system_of
from mooer_tk.errors import UserError
from mooer_tk.llm.counting import count, memory
from mooer_tk.model_dir import U2PP, model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("config", type=Path, help="experiment YAML, or a model (exp/NAME)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--memory", action="store_true", help="estimate the memory of each GPU as well")
    parser.add_argument("--batch", type=int, default=8, help="utterances of a micro-batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each of them")
    parser.add_argument("--zero", type=int, default=2, help="ZeRO stage, 0 to 3")
    parser.add_argument("--vocabulary", type=int, default=5000, help="U2++: units, where model.units names none")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share what ZeRO shares out")


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    if args.config.is_dir():
        args.config = model_folder(args.config) / "config.yaml"
    if system_of(args.config) == U2PP:
        return _u2pp(args)
    config = load_config(args.config, args.set)
    shape = count(config)
    for name in ("encoder", "adapter", "lora", "llm"):
        print(f"{name:<10} {getattr(shape, name):>15,}")
    whole = shape.encoder + shape.adapter + shape.lora + shape.llm
    print(f"{'trainable':<10} {shape.trainable:>15,}   {100 * shape.trainable / whole:.2f} % of {whole:,}")
    print(f"{'LoRA':<10} {'':>15}   {100 * shape.lora / shape.llm:.2f} % of the LLM")
    if args.memory:
        parts = memory(config, shape, batch=args.batch, zero=args.zero, gpus=args.gpus, seconds=args.seconds)
        print(f"\nan estimate for {args.batch} utterances of {args.seconds:g} s, ZeRO {args.zero}, {args.gpus} GPUs")
        for name, gib in parts.items():
            print(f"  {name:<36} {gib:>7.2f} GiB")
        print(f"  {'each GPU':<36} {sum(parts.values()):>7.2f} GiB")
    return 0


def _u2pp(args: argparse.Namespace) -> int:
    """Parameters of the parts of a U2++ model, and those that one frame goes through."""
    import torch

    from mooer_tk.moe.layer import active
    from mooer_tk.u2pp.config import U2ppConfig
    from mooer_tk.u2pp.model import U2pp
    from mooer_tk.u2pp.units import Units

    if args.memory:
        raise UserError("--memory is estimated for LLMs; --dry-run of mooer train u2pp measures a step of U2++.")
    model = load_config(args.config, args.set, U2ppConfig).model
    # A model's directory holds its units.
    beside = args.config.parent / model.units
    vocabulary = Units(beside if beside.is_file() else model.units).size if model.units else args.vocabulary
    with torch.device("meta"):
        whole = U2pp(model, vocabulary)
    print(f"{'':<10} {'parameters':>15} {'active':>15}   ({vocabulary:,} units, {model.layers} layers of {model.dim})")
    for name, part in (*whole.named_children(), ("all", whole)):
        print(f"{name:<10} {sum(p.numel() for p in part.parameters()):>15,} {active(part):>15,}")
    return 0
