"""`mooer COMMAND ...`: the single entry point; each command is a module of this package, imported when it is called."""

import argparse
import importlib
import sys

from mooer_tk import __version__
from mooer_tk.errors import UserError, exit_status, nearest
from mooer_tk.progress import quiet_libraries

# command, which is a module's name -> what it does; the order is the order of the stages.
COMMANDS = {
    "config": "show a config as it resolves",
    "label": "let a teacher transcribe or translate a data directory",
    "states": "run the frozen encoder over a data directory and cache its states in shards",
    "train": "train: the adapter's warm start, adapter + LoRA, or a U2++ recogniser",
    "upcycle": "grow a trained dense U2++ model into a mixture of experts",
    "average": "average the best checkpoints of a run and export one model",
    "decode": "decode cached states or a data directory with a trained model",
    "score": "normalise and score hypotheses: WER, CER, BLEU, chrF with intervals",
    "params": "count the parameters of a config and estimate its memory",
    "transcribe": "transcribe or translate audio files with a trained model",
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
    quiet_libraries()
    return exit_status(f"mooer {argv[0]}", lambda: _run(argv[0], argv[1:]))


def _run(command: str, words: list[str]) -> int:
    if command not in COMMANDS:
        raise UserError(f"unknown command '{command}': {nearest(command, COMMANDS)}")
    module = importlib.import_module(f"mooer_tk.bin.{command}")
    parser = argparse.ArgumentParser(
        prog=f"mooer {command}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(words))


def _overview() -> str:
    lines = [f"  {name:<11} {what}" for name, what in COMMANDS.items()]
    return "usage: mooer COMMAND [options]   (mooer COMMAND --help)\n\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
