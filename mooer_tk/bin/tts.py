"""Speak a Kaldi text file with several synthetic voices; the result is a Kaldi data directory.

The same command goes on where an interrupted one stopped. Voices come from: mooer fetch flite espeak-ng
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mooer_tk.data.speech_synthesis import VOICES, synthesise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mooer tts`."""
    parser.add_argument("text", type=Path, help="Kaldi text file: utterance id, then the words")
    parser.add_argument("out", type=Path, help="data directory to write; 16 kHz FLAC files go to its wav/")
    parser.add_argument("--voices", default=",".join(VOICES), help="voices to draw from (default: %(default)s)")
    parser.add_argument("--max", type=int, default=0, help="speak only the first N lines in id order")
    parser.add_argument("--nj", type=int, default=2, help="number of processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws voice, speed and pitch (default: %(default)s)")
    parser.add_argument(
        "--max-skip", type=float, default=0.01, help="largest share that may fail (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Speak, then print a summary."""
    voices = args.voices.replace(",", " ").split()
    print(
        synthesise(
            args.text, args.out, voices=voices, nj=args.nj, seed=args.seed, most=args.max, max_skip=args.max_skip
        )
    )
    return 0
