"""`mooer COMMAND ...`: the single entry point; each command is a module of this package, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings

from mooer_tk import __version__
from mooer_tk.errors import UserError, nearest

# command -> (module, what it does); the order is the order of the stages.
COMMANDS = {
    "config": ("config", "show a config as it resolves"),
    "fetch": ("fetch", "bring models and packages into the cache, checked by SHA-256"),
    "label": ("label", "let a teacher transcribe or translate a data directory, and report on it"),
    "states": ("states", "run the frozen encoder over a data directory and cache its states in shards"),
    "train": ("train", "train: the adapter's warm start, or adapter + LoRA"),
    "average": ("average", "average the best checkpoints of a run and export one model"),
    "export": ("export", "write a model in another layout, such as MooER's release"),
    "decode": ("decode", "decode cached states or a data directory with a trained model"),
    "score": ("score", "normalise and score hypotheses: WER, CER, BLEU, chrF with intervals"),
    "params": ("params", "count the parameters of a config and estimate its memory"),
    "transcribe": ("transcribe", "transcribe or translate audio files with a trained model"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; a UserError is printed without a traceback and gives exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"mooer_tk {__version__}")
        return 0
    _quiet_libraries()
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"unknown command '{argv[0]}': {nearest(argv[0], COMMANDS)}")
        module = importlib.import_module(f"mooer_tk.bin.{COMMANDS[argv[0]][0]}")
        parser = argparse.ArgumentParser(
            prog=f"mooer {argv[0]}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(parser)
        return module.run(parser.parse_args(argv[1:]))
    except UserError as error:
        print(f"mooer {argv[0]}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mooer {argv[0]}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _quiet_libraries() -> None:
    """Notes of libraries to their developers, and bars that last a second, are not for our users."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _overview() -> str:
    lines = [f"  {name:<11} {what}" for name, (_, what) in COMMANDS.items()]
    return "usage: mooer COMMAND [options]   (mooer COMMAND --help)\n\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
