"""Decode cached states, or audio shards with a U2++ model: hypotheses, n-best lists and guard counts (stage 7)."""

import argparse
from pathlib import Path

from mooer_tk.config import load_config
from mooer_tk.model_dir import U2PP, model_folder, read_info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("states", type=Path, help="directory of shards (stage 3)")
    parser.add_argument("out", type=Path, help="directory for the hypotheses")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="exp/NAME, or an exported model (U2++ too)")
    which.add_argument("--warm-start", type=Path, help="directory of a warm start: CTC-greedy, without the LLM")
    parser.add_argument("--task", choices=("asr", "ast", "asr_ast"), default="asr")
    parser.add_argument("--nbest", type=int, default=1, help="hypotheses kept per utterance (at most the beam)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, such as decode.beam=1")


def run(args: argparse.Namespace) -> int:
    """Decode."""
    from mooer_tk.decode.directory import decode_directory

    if args.warm_start:
        from mooer_tk.decode.ctc import decode_ctc

        decode_ctc(args.states, args.warm_start, args.out)
        return 0
    if read_info(args.model).get("system") == U2PP:
        from mooer_tk.u2pp.recogniser import decode_audio

        decode_audio(args.states, args.model, args.out, args.set, args.nbest, args.task)
        return 0
    config = load_config(model_folder(args.model) / "config.yaml", args.set).decode if args.set else None
    decode_directory(args.states, args.model, args.out, task=args.task, config=config, nbest=args.nbest)
    return 0
