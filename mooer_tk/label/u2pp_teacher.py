"""A trained U2++ model as a teacher: transcripts of its own language."""

import numpy as np
import torch

from mooer_tk.errors import UserError
from mooer_tk.u2pp.recogniser import Recogniser


class U2ppTeacher:
    """Transcribes by attention rescoring, or by what the model's config names last.

    Args:
        folder: exp/NAME, or an exported model.
        threads: CPU threads; 0 lets torch decide.
        beam: beam size of the CTC's n-best.
    """

    def __init__(self, folder: str, *, threads: int = 0, beam: int = 1) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.recogniser = Recogniser(folder, [f"decode.beam={beam}"])

    def label(self, utterances: list[np.ndarray], tasks: list[str]) -> list[dict[str, str]]:
        """Label a few utterances of similar length: samples (T,) at 16 kHz each -> {"asr": text} each."""
        if tasks != ["asr"]:
            raise UserError(f"--tasks {' '.join(tasks)}: a U2++ model transcribes only; Whisper translates as well.")
        return [{"asr": text} for text in self.recogniser.texts(utterances)]
