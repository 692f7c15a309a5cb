"""Transcribe or translate audio files (wav, flac, mp3, ogg, ...; any rate, mono or stereo) with a trained model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--model", type=Path, required=True, help="exp/NAME, an exported model, or a release of MooER")
    parser.add_argument("--config", type=Path, help="the YAML of a release, which has none of its own")
    parser.add_argument(
        "--task", choices=("asr", "ast", "asr_ast"), default="asr", help="transcript, English translation, or both"
    )
    parser.add_argument("--beam", type=int, help="beam size (default: the model's)")
    parser.add_argument("--json", action="store_true", help="one JSON object a file instead of plain text")


def run(args: argparse.Namespace) -> int:
    """Print one transcript a file; status 1 when a file could not be used."""
    from mooer_tk.decode.files import FileTranscriber

    transcriber = FileTranscriber(args.model, args.beam, args.config)
    failed = False
    for file in args.files:
        transcript = transcriber(file, args.task)
        failed |= transcript.error is not None
        if args.json:
            facts = {key: value for key, value in asdict(transcript).items() if value is not None}
            print(json.dumps(facts, ensure_ascii=False), flush=True)
        elif transcript.error:
            print(f"mooer transcribe: {transcript.error}", file=sys.stderr)
        else:
            name = f"{file}: " if len(args.files) > 1 else ""
            for text in transcript.texts.values():
                print(f"{name}{text}", flush=True)
    return 1 if failed else 0
