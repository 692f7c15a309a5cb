"""Average the best checkpoints of a run and export one model (stage 6)."""

from __future__ import annotations

import argparse
from pathlib import Path

from mooer_tk.config import git_hash, load_config
from mooer_tk.data.atomic import fingerprint, is_done, mark_done
from mooer_tk.errors import UserError
from mooer_tk.progress import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", type=Path, help="directory of an instruct run (stage 5)")
    parser.add_argument("out", type=Path, help="directory for the exported model")
    parser.add_argument("--best", type=int, default=3, help="how many checkpoints, by dev criterion")


def run(args: argparse.Namespace) -> int:
    """Average and export."""
    from mooer_tk.llm.checkpoint import TOKENS, build_model, export_model
    from mooer_tk.train.checkpoints import average, best, list_checkpoints

    chosen = best(list_checkpoints(args.run / "checkpoints"), args.best)
    mark = fingerprint([(path.name, state) for path, state in chosen], args.run / "done.json")
    if is_done(args.out, mark):
        log(f"{args.out} is up to date")
        return 0
    weights = average([path for path, _ in chosen])
    config = load_config(args.run / "config.yaml")
    dim = len(weights["adapter.mean"])
    adapter = {key: value for key, value in weights.items() if key.startswith(("adapter.", "head."))}
    model = build_model(config, dim, adapter=adapter if TOKENS in adapter else None)
    missing, unused = model.load_state_dict(weights, strict=False)
    lost = [key for key in missing if ".lora_" in key or key.startswith(("adapter.", "head."))]
    if lost or unused:
        raise UserError(f"checkpoint and model differ: missing {lost[:5]}, unused {unused[:5]}")
    names = [path.name for path, _ in chosen]
    export_model(model, config, dim, args.out, {"git": git_hash(), "run": str(args.run), "averaged": names})
    mark_done(args.out, mark)
    log(f"{args.out}: the average of {', '.join(names)}")
    return 0
