#!/usr/bin/env python3
"""Speech from text with several synthetic voices: a Kaldi `text` file in, a Kaldi data directory out.

  utils/synthesise_speech.py data/tts/text data/tts/speech --nj 4

The same command goes on where an interrupted one stopped. There are two engines: the program flite
(http://cmuflite.org) and the library of espeak-ng (speak_lib.h), through ctypes. A machine that has none of them finds
them in the cache after: tools/fetch.py flite espeak-ng
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import ctypes.util
import importlib.util
import io
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from mooer_tk.data.atomic import fingerprint, replacing, sweep_leftovers
from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_audio
from mooer_tk.data.kaldi_dir import read_table, write_table
from mooer_tk.data.skips import report_skips
from mooer_tk.errors import UserError, exit_status, nearest
from mooer_tk.models import cache_root
from mooer_tk.progress import log, track

# Mean pitch of flite's voices in Hz (int_f0_target_mean), which a delivery scales.
FLITE_PITCH = {"kal16": 95.0, "slt": 170.0, "rms": 100.0, "awb": 115.0}
# Of the variants tried, those that a recogniser (Whisper base) understands about as well as the plain voices.
ESPEAK_VOICES = ("en-us", "en-us+f2", "en-us+f5", "en-us+m7", "en-gb-x-rp", "en-gb-x-rp+m3")
VOICES = (*(f"flite-{voice}" for voice in FLITE_PITCH), *(f"espeak-{voice}" for voice in ESPEAK_VOICES))
SPEEDS, PITCHES = (0.85, 1.2), (0.9, 1.12)
ESPEAK_SYNCHRONOUS, ESPEAK_CHARS_UTF8, ESPEAK_RATE, ESPEAK_PITCH = 2, 1, 1, 3
ESPEAK_WORDS_PER_MINUTE, ESPEAK_BASE_PITCH = 165, 50
SECONDS_AT_MOST = 60


@dataclass(frozen=True)
class Delivery:
    """How one utterance is spoken: `engine-voice`, speed and pitch relative to the voice's own."""

    voice: str
    speed: float
    pitch: float

    @classmethod
    def draw(cls, utt: str, voices: list[str], seed: int) -> Delivery:
        """The delivery of an utterance: drawn by its id and the seed alone."""
        draw = random.Random(f"{seed} {utt}")
        return cls(draw.choice(voices), round(draw.uniform(*SPEEDS), 2), round(draw.uniform(*PITCHES), 2))


class Flite:
    """The program flite: on the PATH, or unpacked in the cache by `tools/fetch.py flite`."""

    def __init__(self) -> None:
        unpacked = cache_root() / "packages" / "flite" / "usr"
        self.program = shutil.which("flite") or shutil.which("flite", path=unpacked / "bin")
        if not self.program:
            raise UserError("there is no flite on the PATH or in the cache; run: tools/fetch.py flite")
        # The machine's own libasound comes first: the unpacked one is for machines that have none.
        libraries = ":".join(str(path) for path in sorted((unpacked / "lib").glob("*")) if path.is_dir())
        own = os.environ.get("LD_LIBRARY_PATH", "")
        self.environment = {**os.environ, "LD_LIBRARY_PATH": f"{own}:{libraries}".strip(":")}
        self.voices = self._run("-lv").split(":", 1)[-1].split()

    def speak(self, text: str, delivery: Delivery, voice: str) -> np.ndarray:
        """Speak at 16 kHz; samples of shape (T,)."""
        pitch = FLITE_PITCH.get(voice, 110.0) * delivery.pitch
        with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
            settings = {"duration_stretch": 1 / delivery.speed, "int_f0_target_mean": pitch}
            options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value:.3f}")]
            self._run("-voice", voice, *options, "-t", text, "-o", wav.name)
            return load_audio(wav.name)

    def _run(self, *arguments: str) -> str:
        command = [self.program, *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=SECONDS_AT_MOST
        )
        if done.returncode:
            raise AudioError(f"flite failed: {done.stderr.strip() or f'exit status {done.returncode}'}")
        return done.stdout


class Espeak:
    """The library of espeak-ng: the Python package espeakng_loader, the cache, or the system's; 22.05 kHz inside."""

    def __init__(self) -> None:
        self.path, self.data = _espeak_library()
        self.rate = 0
        self.pieces: list[bytes] = []
        # Kept, because the library calls it later.
        self.callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(self._collect)
        with self._fresh() as library:
            self.voices = [voice for voice in ESPEAK_VOICES if library.espeak_SetVoiceByName(voice.encode()) == 0]

    def speak(self, text: str, delivery: Delivery, voice: str) -> np.ndarray:
        """Speak at 16 kHz; samples of shape (T,)."""
        raw = text.encode()
        self.pieces.clear()
        with self._fresh() as library:
            library.espeak_SetVoiceByName(voice.encode())
            library.espeak_SetParameter(ESPEAK_RATE, round(ESPEAK_WORDS_PER_MINUTE * delivery.speed), 0)
            library.espeak_SetParameter(ESPEAK_PITCH, round(ESPEAK_BASE_PITCH * delivery.pitch), 0)
            status = library.espeak_Synth(raw, len(raw) + 1, 0, 0, 0, ESPEAK_CHARS_UTF8, None, None)
        if status or not self.pieces:
            raise AudioError(f"espeak-ng failed: {f'status {status}' if status else 'it said nothing'}")
        samples = np.frombuffer(b"".join(self.pieces), np.int16).astype(np.float32) / 2**15
        return soxr.resample(samples, self.rate, SAMPLE_RATE)

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[ctypes.CDLL]:
        """The library as just loaded: what it said before changes how it says the same text later."""
        library = ctypes.CDLL(self.path)
        self.rate = library.espeak_Initialize(ESPEAK_SYNCHRONOUS, 0, self.data, 0)
        if self.rate <= 0:
            raise UserError(f"{self.path} cannot read its voices in {self.data}; run: tools/fetch.py espeak-ng")
        if seed := getattr(library, "espeak_ng_SetRandSeed", None):
            seed(ctypes.c_long(1))
        library.espeak_SetSynthCallback(self.callback)
        try:
            yield library
        finally:
            library.espeak_Terminate()
            ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))

    def _collect(self, wav: int | None, samples: int, _events: int) -> int:
        if wav and samples:
            self.pieces.append(ctypes.string_at(wav, 2 * samples))
        return 0


def _espeak_library() -> tuple[str, bytes | None]:
    """Path of the shared library and of its voice data (None: the library knows)."""
    folders = [cache_root() / "packages" / "espeak-ng"]
    if spec := importlib.util.find_spec("espeakng_loader"):
        folders.insert(0, Path(spec.origin).parent)
    for folder in folders:
        for library in sorted([*folder.glob("libespeak-ng.so*"), *folder.glob("libespeak-ng*.dylib")]):
            return str(library), os.fsencode(folder / "espeak-ng-data")
    if system := ctypes.util.find_library("espeak-ng"):
        return system, None
    raise UserError("there is no espeak-ng library on this machine or in the cache; run: tools/fetch.py espeak-ng")


@cache
def _engine(name: str) -> Flite | Espeak:
    return {"flite": Flite, "espeak": Espeak}[name]()


def usable_voices(voices: list[str]) -> list[str]:
    """The voices of `voices` (see `VOICES`) that this machine can speak; the others are named in the log.

    Raises:
        UserError: an unknown voice, or none can be used.
    """
    usable, absent = [], {}
    for voice in voices:
        if voice not in VOICES:
            raise UserError(f"unknown voice '{voice}': {nearest(voice, VOICES)}")
        engine, name = voice.split("-", 1)
        try:
            if name in _engine(engine).voices:
                usable.append(voice)
            else:
                absent[voice] = f"this {engine} does not have it"
        except (UserError, AudioError, OSError) as error:
            absent[voice] = str(error)
    for reason in sorted(set(absent.values())):
        log(f"voices left out: {', '.join(v for v, why in absent.items() if why == reason)}: {reason}")
    if not usable:
        raise UserError("none of the voices can be used: run: tools/fetch.py flite espeak-ng")
    return usable


def synthesise(
    text: Path, out: Path, *, voices: list[str], nj: int = 1, seed: int = 0, most: int = 0, max_skip: float = 0.01
) -> str:
    """Speak every line of a Kaldi `text` file; what an earlier run has spoken is kept.

    Args:
        text: lines `utt words...`.
        out: becomes a data directory with 16 kHz FLAC files, wav.scp, text, utt2spk (the voice) and utt2dur (s).
        voices: names of `VOICES`; each utterance draws one, a speed and a pitch by its id and the seed.
        nj: number of processes.
        most: speak only the first so many lines in id order; 0 means all.
        max_skip: largest share of utterances that may fail.

    Returns:
        A one-line summary.

    Raises:
        UserError: no sentence, no usable voice, too many failures, a full disk.
    """
    sentences = dict(sorted(read_table(text, allow_empty=False).items())[: most or None])
    if not sentences:
        raise UserError(f"{text} holds no sentence to speak. Write lines such as 'utt1 some words' to it.")
    voices = usable_voices(voices)
    deliveries = {utt: Delivery.draw(utt, voices, seed) for utt in sentences}
    folder = out.resolve() / "wav"
    files = {u: folder / f"{u}.{fingerprint(sentences[u], *astuple(deliveries[u]))[:8]}.flac" for u in sentences}
    sweep_leftovers(folder)
    waiting = [utt for utt in sentences if not files[utt].exists()]
    work = [(sentences[utt], deliveries[utt], files[utt]) for utt in waiting]
    done = len(sentences) - len(waiting)
    failures = track(_speak_all(work, nj), f"speaking {text}", len(sentences), done=done)
    skipped = {utt: failure for utt, failure in zip(waiting, failures, strict=True) if failure}
    # Again: processes of a killed run may have outlived the first sweep by a sentence.
    sweep_leftovers(folder)
    spoken = {utt: file for utt, file in files.items() if utt not in skipped}
    seconds = {utt: soundfile.info(file).duration for utt, file in spoken.items()}
    summary = report_skips(f"speech of {text}", skipped, len(sentences), out / "skipped.tsv", max_share=max_skip)
    write_table(out / "text", {utt: sentences[utt] for utt in spoken})
    write_table(out / "utt2spk", {utt: deliveries[utt].voice for utt in spoken})
    write_table(out / "utt2dur", {utt: f"{duration:.3f}" for utt, duration in seconds.items()})
    # Last, because wav.scp is what makes the folder a data directory.
    write_table(out / "wav.scp", {utt: str(file) for utt, file in spoken.items()})
    return f"{summary}; {sum(seconds.values()) / 3600:.2f} h, {len(voices)} voices"


def _speak_all(work: list[tuple[str, Delivery, Path]], nj: int) -> Iterator[str]:
    """Speak every item; yield "" or why it failed, in order."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(nj, 1), mp_context=spawn, initializer=_end_with_parent) as pool:
        try:
            yield from pool.map(_speak, *zip(*work, strict=True), chunksize=4) if work else ()
        except BrokenProcessPool as error:
            raise UserError(
                "a speech process died (out of memory, or the engine crashed). Run the same command again to go on; "
                "if it dies at the same place, leave a voice out with --voices."
            ) from error


def _end_with_parent() -> None:
    # A pool's processes outlive a parent that was killed, and would wait for work for ever.
    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _speak(text: str, delivery: Delivery, file: Path) -> str:
    engine, voice = delivery.voice.split("-", 1)
    try:
        samples = _engine(engine).speak(text, delivery, voice)
    except (AudioError, subprocess.TimeoutExpired) as error:
        return str(error)
    if not len(samples) or np.abs(samples).max() < 1e-3:
        return f"silence: {delivery.voice} said nothing"
    # Encoded in memory, because libsndfile hides why a write to a full disk failed.
    flac = io.BytesIO()
    soundfile.write(flac, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    with replacing(file) as temporary:
        temporary.write_bytes(flac.getvalue())
    return ""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, speak, print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="Kaldi text file: utterance id, then the words")
    parser.add_argument("out", type=Path, help="data directory to write; 16 kHz FLAC files go to its wav/")
    parser.add_argument("--voices", default=",".join(VOICES), help="voices to draw from (default: %(default)s)")
    parser.add_argument("--max", type=int, default=0, help="speak only the first N lines in id order")
    parser.add_argument("--nj", type=int, default=2, help="number of processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws voice, speed and pitch (default: %(default)s)")
    parser.add_argument("--max-skip", type=float, default=0.01, help="largest share that may fail (%(default)s)")
    return exit_status(Path(__file__).name, lambda: _run(parser.parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    voices = args.voices.replace(",", " ").split()
    settings = {"nj": args.nj, "seed": args.seed, "most": args.max, "max_skip": args.max_skip}
    print(synthesise(args.text, args.out, voices=voices, **settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
