"""Transcribe or translate audio files (wav, flac, mp3, ogg, ...; any rate, mono or stereo) with a trained model.

With --stream a U2++ model tells what it hears while the audio arrives; - is raw 16-bit mono at 16 kHz from a pipe:
  arecord -q -t raw -f S16_LE -r 16000 | mooer transcribe - --stream --model exp/u2pp
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_audio
from mooer_tk.errors import UserError
from mooer_tk.model_dir import U2PP, read_info

if TYPE_CHECKING:
    from mooer_tk.u2pp.recogniser import Recogniser

PIECE_SAMPLES = SAMPLE_RATE // 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--model", type=Path, required=True, help="exp/NAME, or an exported model")
    parser.add_argument("--task", choices=("asr", "ast", "asr_ast"), default="asr", help="ast: English translation")
    parser.add_argument("--stream", action="store_true", help="U2++: partial results as the audio arrives")
    parser.add_argument("--chunk", type=int, default=-1, help="U2++: frames of 40 ms heard at once (all; --stream: 16)")
    parser.add_argument("--left-chunks", type=int, default=-1, help="U2++: chunks that are remembered; -1: all")
    parser.add_argument("--beam", type=int, help="beam size (default: the model's)")
    parser.add_argument("--json", action="store_true", help="one JSON object a file instead of plain text")


def run(args: argparse.Namespace) -> int:
    """Print one transcript a file; status 1 when a file could not be used."""
    if "-" in args.files and not args.stream:
        raise UserError("- is a stream of samples: give --stream, or name a file.")
    if read_info(args.model).get("system") == U2PP:
        from mooer_tk.u2pp.recogniser import Recogniser

        beam = [] if args.beam is None else [f"decode.beam={args.beam}"]
        chunks = [f"decode.chunk={args.chunk}", f"decode.left_chunks={args.left_chunks}"]
        transcriber = Recogniser(args.model, beam + chunks, args.task)
        if args.stream:
            return _stream(args, transcriber)
    elif args.stream:
        raise UserError(f"--stream needs a U2++ model, and {args.model} is none.")
    else:
        from mooer_tk.decode.files import FileTranscriber

        transcriber = FileTranscriber(args.model, args.beam)
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


def _stream(args: argparse.Namespace, recogniser: "Recogniser") -> int:
    """Feed every file in pieces of a tenth of a second, and print what is heard, line by line."""
    from mooer_tk.u2pp.stream import Stream

    failed = False
    for file in args.files:
        stream = Stream(recogniser)
        try:
            for piece in _pieces(file):
                _print_heard(args, file, stream.accept(piece))
        except AudioError as error:
            failed = True
            if args.json:
                print(json.dumps({"file": file, "error": str(error)}, ensure_ascii=False), flush=True)
            else:
                print(f"mooer transcribe: {error}", file=sys.stderr)
        _print_heard(args, file, stream.finish())
    return 1 if failed else 0


def _pieces(file: str) -> Iterator[np.ndarray]:
    if file != "-":
        samples = load_audio(file)
        yield from (samples[i : i + PIECE_SAMPLES] for i in range(0, len(samples), PIECE_SAMPLES))
        return
    # Ctrl-C ends what feeds the pipe too, and the last words come with the pipe's end; a second one ends it all.
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))
    while raw := sys.stdin.buffer.read(2 * PIECE_SAMPLES):
        # A pipe that breaks may leave half a sample.
        yield np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.float32) / 2**15
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _print_heard(args: argparse.Namespace, file: str, heard: list) -> None:
    for one in heard:
        if args.json:
            print(json.dumps({"file": file, **asdict(one)}, ensure_ascii=False), flush=True)
        else:
            print(f"{one.begin:7.2f} -{one.end:7.2f}  {one.text}{'' if one.final else ' ...'}", flush=True)
