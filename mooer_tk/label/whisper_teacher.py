"""Whisper as a teacher, through faster-whisper's CTranslate2 model.

Utterances go through windows of k x 10 s instead of 30 s, which cost a third and change few words, in batches, and one
encoder pass serves both tasks.
"""

import numpy as np

from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.errors import UserError
from mooer_tk.models import resolve_model

WHISPER_TASKS = {"asr": "transcribe", "ast": "translate"}
LONGEST_SECONDS, WINDOW_SECONDS = 30, 10


class WhisperTeacher:
    """Transcribes and translates to English.

    Args:
        name: whisper-base, whisper-tiny.en, or a CTranslate2 folder.
        language: two-letter code of the speech.
        threads: CPU threads; 0 lets CTranslate2 decide.
        beam: beam size; 1 is greedy.
    """

    def __init__(self, name: str, language: str, *, threads: int = 0, beam: int = 1) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise UserError("the Whisper teacher needs faster-whisper: pip install 'mooer_tk[label]'") from error
        path = resolve_model(name, "teacher").path
        self.whisper = WhisperModel(str(path), device="auto", compute_type="int8", cpu_threads=threads)
        if language != "en" and not self.whisper.model.is_multilingual:
            raise UserError(f"the teacher {name} knows English only; choose a multilingual one for '{language}'.")
        self.language, self.beam = language, beam

    def label(self, utterances: list[np.ndarray], tasks: list[str]) -> list[dict[str, str]]:
        """Label a few utterances of similar length: samples (T,) at 16 kHz each -> {"asr": text, "ast": text} each."""
        from faster_whisper.tokenizer import Tokenizer

        longest = max(len(samples) for samples in utterances)
        windows = -(-longest // (WINDOW_SECONDS * SAMPLE_RATE))
        length = min(windows * WINDOW_SECONDS, LONGEST_SECONDS) * SAMPLE_RATE
        padded = [np.pad(samples[:length], (0, max(length - len(samples), 0))) for samples in utterances]
        frames = length // self.whisper.feature_extractor.hop_length
        features = np.stack([self.whisper.feature_extractor(one, padding=0)[:, :frames] for one in padded])
        encoded, model = self.whisper.encode(features), self.whisper.model
        labels: list[dict[str, str]] = [{} for _ in utterances]
        for task in tasks:
            tokenizer = Tokenizer(self.whisper.hf_tokenizer, model.is_multilingual, WHISPER_TASKS[task], self.language)
            start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
            answers = model.generate(encoded, [start] * len(utterances), beam_size=self.beam)
            for label, answer in zip(labels, answers, strict=True):
                label[task] = " ".join(tokenizer.decode(answer.sequences_ids[0]).split())
        return labels
