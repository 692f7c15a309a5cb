"""Write a trained model in another layout, strictly: what does not fit is an error that lists it.

mooer export exp/mooer released/asr --layout mooer                      adapter_project.pt, lora_weights/
mooer export pretrained/asr exp/mooer_7b/model --config conf/mooer_7b.yaml   MooER's release -> mooer_tk's layout
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mooer_tk.config import load_config
from mooer_tk.progress import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", type=Path, help="exp/NAME, an exported model, or a release of MooER")
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--layout", choices=("mooer_tk", "mooer"), default="mooer_tk")
    parser.add_argument("--config", type=Path, help="the YAML of a release, which has none of its own")


def run(args: argparse.Namespace) -> int:
    """Read, check, write."""
    from mooer_tk.llm.checkpoint import read_parts, write_parts
    from mooer_tk.llm.release import write_release

    parts = read_parts(args.model, load_config(args.config) if args.config else None)
    if args.layout == "mooer":
        write_release(args.out, parts.adapter, parts.lora, parts.config)
    else:
        write_parts(args.out, parts, {"from": str(args.model)})
    log(f"{args.out}: {args.model} in the layout of {args.layout}")
    return 0
