"""Let a teacher transcribe or translate a data directory (stage 2)."""

import argparse
from pathlib import Path

from mooer_tk.label.directory import label_directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data_dir", type=Path, metavar="DATA", help="Kaldi data directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="data directory to write, with the teacher's text")
    teachers = "whisper-base, whisper-tiny.en, a folder of theirs, or a U2++ model (exp/NAME)"
    parser.add_argument("--teacher", default="whisper-base", help=teachers)
    parser.add_argument("--language", required=True, help="two-letter code of the speech")
    parser.add_argument("--tasks", nargs="+", default=["asr"], choices=("asr", "ast"), help="ast: translate to English")
    parser.add_argument("--beam", type=int, default=1, help="beam size (1: greedy, several times faster)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: the library decides)")
    parser.add_argument("--max-skip", type=float, default=0.05, help="share of skipped utterances that stops the stage")
    parser.add_argument("--allow-pipe", action="store_true", help="run the shell commands that wav.scp may hold")


def run(args: argparse.Namespace) -> int:
    """Label."""
    label_directory(**vars(args))
    return 0
