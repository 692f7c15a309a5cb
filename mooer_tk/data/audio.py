"""Audio files in, 16 kHz mono float32 out; anything suspicious is an error that names the file.

PyAV (FFmpeg's libraries) decodes every container, so that wav, flac, mp3, ogg, opus, m4a and raw g722 take the same
road, and its resampler brings them to one rate. The sample rate is read from the file, never assumed.
"""

import io
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np

from mooer_tk.data.kaldi_dir import Utterance

SAMPLE_RATE = 16_000


class AudioError(Exception):
    """One recording cannot be used; the message says which and why. Stages count it as a skip."""


def load_audio(source: str | Path, *, allow_pipe: bool = False) -> np.ndarray:
    """Decode a file, or a Kaldi pipe `command |`, to mono float32 at 16 kHz.

    Args:
        source: path of a file in any format FFmpeg knows, or a shell command that ends in `|`.
        allow_pipe: run shell commands found in the data; off by default, because data is not code.

    Returns:
        Samples in [-1, 1], shape (T,).

    Raises:
        AudioError: missing, empty, truncated or undecodable file, non-finite samples, or a pipe without permission.
    """
    source = str(source)
    if source.rstrip().endswith("|"):
        return _decode(_run_pipe(source.rstrip()[:-1], allow_pipe), source)
    path = Path(source)
    if not path.is_file():
        raise AudioError(f"missing file: {path}")
    if path.stat().st_size == 0:
        raise AudioError(f"empty file: {path} has 0 bytes")
    return _decode(path, source)


def load_utterance(utterance: Utterance, *, allow_pipe: bool = False) -> np.ndarray:
    """Load one utterance of a data directory, cut to its segment; same returns and errors as `load_audio`."""
    if utterance.end < 0 and utterance.start == 0:
        return load_audio(utterance.source, allow_pipe=allow_pipe)
    samples = _last_recording(utterance.source, allow_pipe)
    stop = len(samples) if utterance.end < 0 else round(utterance.end * SAMPLE_RATE)
    # Kaldi's segment times are rounded to 10 ms; more than half a second past the end is a wrong table.
    if stop > len(samples) + SAMPLE_RATE // 2 or round(utterance.start * SAMPLE_RATE) >= len(samples):
        raise AudioError(
            f"segment outside the recording: {utterance.utt} asks for {utterance.start}-{utterance.end} s "
            f"of {utterance.source}, which has {len(samples) / SAMPLE_RATE:.2f} s"
        )
    return samples[round(utterance.start * SAMPLE_RATE) : stop].copy()


@lru_cache(maxsize=1)
def _last_recording(source: str, allow_pipe: bool) -> np.ndarray:
    """A recording that is cut into segments: they come one after the other, and it may be hours long."""
    return load_audio(source, allow_pipe=allow_pipe)


def _run_pipe(command: str, allowed: bool) -> io.BytesIO:
    if not allowed:
        raise AudioError(f"pipe not allowed: '{command} |' would run a shell command from the data; pass --allow-pipe")
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-200:]
        raise AudioError(f"pipe failed: '{command}' exited with {done.returncode}: {tail}")
    return io.BytesIO(done.stdout)


def _decode(source: Path | io.BytesIO, name: str) -> np.ndarray:
    import av

    pieces: list[np.ndarray] = []
    decoded = 0
    try:
        # Raw g722 carries no header, so its format is told by the suffix.
        raw = "g722" if name.endswith(".g722") else None
        with av.open(str(source) if isinstance(source, Path) else source, format=raw) as container:
            if not container.streams.audio:
                raise AudioError(f"no audio stream: {name}")
            stream = container.streams.audio[0]
            stream.codec_context.options = {"err_detect": "explode"}
            promised = _promised_seconds(container, stream) * _riff_share(source)
            # Channels are averaged here: the resampler's own mix would raise equal channels by 3 dB, past full scale.
            resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
            rate = 0
            for frame in container.decode(stream):
                rate = frame.sample_rate
                decoded += frame.samples
                _refuse_non_finite(frame, name)
                pieces.extend(out.to_ndarray().mean(axis=0) for out in resampler.resample(frame))
            pieces.extend(out.to_ndarray().mean(axis=0) for out in resampler.resample(None))
    except av.FFmpegError as error:
        raise AudioError(f"undecodable: {name}: {error.strerror or error}") from error
    if not decoded:
        raise AudioError(f"no samples: {name} decodes to nothing")
    # Headers round to a packet or so; a file that stops earlier than that was cut off in transfer.
    if promised and decoded / rate < 0.98 * promised - 0.1:
        raise AudioError(f"truncated: {name} promises {promised:.2f} s and holds {decoded / rate:.2f} s")
    return np.concatenate(pieces).astype(np.float32, copy=False)


def _refuse_non_finite(frame: object, name: str) -> None:
    # The resampler may turn a NaN into silence, so look before it.
    if frame.format.name in ("flt", "fltp", "dbl", "dblp") and not np.isfinite(frame.to_ndarray()).all():
        raise AudioError(f"non-finite samples: {name} holds NaN or infinity")


def _riff_share(source: Path | io.BytesIO) -> float:
    """How many times longer a wav file says it is than it is; 1 for whole files and other formats.

    FFmpeg takes the length of a wav from the size of the file, so that a cut file looks whole to it.
    """
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as file:
        head, size = file.read(8), file.seek(0, io.SEEK_END)
    promised = int.from_bytes(head[4:], "little")
    # Programs that write to a pipe cannot know the length; they leave 0 or a number near 2 or 4 GiB.
    if head[:4] != b"RIFF" or promised % 2**31 > 2**31 - 2**16:
        return 1.0
    return max((promised + 8) / size, 1.0)


def _promised_seconds(container: object, stream: object) -> float:
    """The duration that the header promises, in seconds; 0 where there is no header to believe (g722, mp3)."""
    if container.format.name not in ("wav", "flac") or not stream.duration:
        return 0.0
    return float(stream.duration * stream.time_base)
