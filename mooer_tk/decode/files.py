"""Transcribe or translate audio files with a trained model: the road from a wav to its text in one place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mooer_tk.config import DecodeConfig
from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_audio
from mooer_tk.decode.directory import make_batch
from mooer_tk.decode.generate import generate
from mooer_tk.encoders.table import build_encoder
from mooer_tk.llm.checkpoint import load_model

PIECE_SECONDS = 20.0  # MooER was trained on at most 20 s; longer files are cut at their quietest places


@dataclass(frozen=True)
class Transcript:
    """What was heard in one file: `texts` holds "asr" and/or "ast"; `error` says why there is none."""

    file: str
    seconds: float
    texts: dict[str, str]
    score: float | None = None
    error: str | None = None


class FileTranscriber:
    """An exported model with its encoder, loaded once.

    Args:
        model_dir: exp/NAME, or an exported model.
        beam: beam size; None takes the model's.
    """

    def __init__(self, model_dir: Path, beam: int | None = None) -> None:
        self.model, config = load_model(model_dir)
        self.encoder = build_encoder(config.encoder)
        self.decode = config.decode if beam is None else DecodeConfig(**{**vars(config.decode), "beam": beam})

    def __call__(self, file: str, task: str) -> Transcript:
        """Transcribe one file; a file that cannot be used gives a Transcript with `error`."""
        self.model.prompt.check_task(task)
        try:
            samples = load_audio(file)
        except AudioError as error:
            return Transcript(file, 0.0, {}, error=str(error))
        found: list[dict[str, str]] = []
        scores = []
        for piece in cut_at_quiet(samples, PIECE_SECONDS):
            states = self.encoder.encode([piece])
            batch = make_batch([file], states, task)
            ((best,),) = generate(self.model, batch, self.decode, seconds=[len(piece) / SAMPLE_RATE])
            found.append(self.model.prompt.parts(best.text, task))
            scores.append(best.score)
        texts = {part: " ".join(one[part] for one in found if one[part]) for part in found[0]}
        return Transcript(file, len(samples) / SAMPLE_RATE, texts, score=float(np.mean(scores)))


def cut_at_quiet(samples: np.ndarray, longest: float) -> list[np.ndarray]:
    """Cut samples (T,) into pieces of at most `longest` seconds, at the quietest place of the last half of each."""
    most, frame = round(longest * SAMPLE_RATE), SAMPLE_RATE // 50
    pieces = []
    while len(samples) > most:
        room = samples[most // 2 : most]
        energy = (room[: len(room) // frame * frame].reshape(-1, frame) ** 2).mean(1)
        # A pause is more than one quiet frame: look at 200 ms, whole ones only, so that no edge seems quiet.
        pause = min(10, len(energy))
        smooth = np.convolve(energy, np.ones(pause), mode="valid")
        cut = most // 2 + int(smooth.argmin()) * frame + pause * frame // 2
        pieces.append(samples[:cut])
        samples = samples[cut:]
    return [*pieces, samples]
