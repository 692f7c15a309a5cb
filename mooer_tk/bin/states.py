"""Run the frozen encoder over data directories and cache their states in shards (stage 3)."""

import argparse
from functools import cache
from pathlib import Path

import torch

from mooer_tk.config import load_config
from mooer_tk.encoders.table import build_encoder
from mooer_tk.errors import UserError
from mooer_tk.features.state_cache import cache_states


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("pairs", type=Path, nargs="+", metavar="DATA OUT", help="data directories, and where to")
    parser.add_argument("--config", type=Path, help="experiment YAML; its encoder section counts")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--job", type=int, default=0, help="do every NJ-th shard only, from 1 (0: all, and close)")
    parser.add_argument("--nj", type=int, default=1, help="number of jobs")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default 0: torch decides)")
    parser.add_argument("--max-skip", type=float, default=0.05, help="share of skipped utterances that stops the stage")
    parser.add_argument("--audio", action="store_true", help="keep the audio: the encoder runs in training")
    parser.add_argument("--allow-pipe", action="store_true", help="run the shell commands that wav.scp may hold")


def run(args: argparse.Namespace) -> int:
    """Cache the states."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if len(args.pairs) % 2:
        raise UserError("every data directory needs a directory for its shards behind it: DATA OUT [DATA OUT ...]")
    config = load_config(args.config, args.set).encoder
    encoder = cache(lambda: build_encoder(config))
    options = {"job": args.job, "nj": args.nj, "max_skip": args.max_skip, "allow_pipe": args.allow_pipe}
    for turn, (data, out) in enumerate(zip(args.pairs[::2], args.pairs[1::2], strict=True)):
        cache_states(data, out, config, **options, encoder=encoder, turn=turn, audio=args.audio)
    return 0
