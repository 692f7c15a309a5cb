"""A trained U2++ model at work: waves, files or shards of audio in, hypotheses out."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mooer_tk.config import load_config
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import fingerprint, is_done, mark_done
from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_audio
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.decode.directory import decode_shards
from mooer_tk.decode.files import PIECE_SECONDS, Transcript, cut_at_quiet
from mooer_tk.encoders.log_mel import LogMel
from mooer_tk.errors import UserError, nearest
from mooer_tk.model_dir import model_files, model_folder
from mooer_tk.progress import log
from mooer_tk.u2pp.config import U2ppConfig
from mooer_tk.u2pp.model import load_model
from mooer_tk.u2pp.search import MODES, Found, search


class Recogniser:
    """A model with its units, front end and settings of the search.

    Args:
        folder: exp/NAME, or an exported model.
        overrides: of the search, such as `decode.chunk=16`.
        task: what is asked for; asr is all that it can do.

    Raises:
        UserError: no such model, another task, or a search of no chunk or no beam.
    """

    def __init__(self, folder: Path | str, overrides: list[str] | None = None, task: str = "asr") -> None:
        if task != "asr":
            raise UserError(f"--task {task}: a U2++ model transcribes only.")
        self.model, config, self.units = load_model(folder)
        self.config = load_config(model_folder(folder) / "config.yaml", overrides, U2ppConfig).decode
        if min(self.config.beam, self.config.batch_utts) < 1 or self.config.chunk == 0 or self.config.chunk < -1:
            raise UserError(
                "decode.beam and batch_utts are 1 or more; decode.chunk too, or -1 for the whole utterance."
            )
        if unknown := [mode for mode in self.config.modes or [""] if mode not in MODES]:
            raise UserError(f"decode.modes: '{unknown[0]}' is unknown: {nearest(unknown[0], MODES)}")
        self.front = LogMel(config.model.mels)
        self.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def nbest(self, waves: list[np.ndarray]) -> list[dict[str, list[Found]]]:
        """Samples (T,) at 16 kHz each -> mode -> hypotheses, the best one first."""
        device = self.model.encoder.mean.device
        features = [self.front.features(wave).to(device) for wave in waves]
        lengths = torch.tensor([len(one) for one in features], device=device)
        return search(self.model, torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lengths, self.config)

    def texts(self, waves: list[np.ndarray]) -> list[str]:
        """The best text of each in the last of the config's modes."""
        last = self.config.modes[-1]
        return [self.units.decode(list(found[last][0].tokens)) for found in self.nbest(waves)]

    def __call__(self, file: str, task: str) -> Transcript:
        """Transcribe one file; a file that cannot be used gives a Transcript with `error`."""
        try:
            samples = load_audio(file)
        except AudioError as error:
            return Transcript(file, 0.0, {}, error=str(error))
        texts = [self.texts([piece])[0] for piece in cut_at_quiet(samples, PIECE_SECONDS)]
        return Transcript(file, len(samples) / SAMPLE_RATE, {"asr": " ".join(text for text in texts if text)})


def decode_audio(
    shards: Path, folder: Path, out: Path, overrides: list[str], nbest: int = 1, task: str = "asr"
) -> None:
    """Write `out/<mode>/hyp` for every mode of the search, and all n-bests to `out/nbest.jsonl`.

    Args:
        shards: directory of audio shards (`mooer states --audio`).
        folder: exp/NAME, or an exported model.
        overrides: of the search, such as `decode.modes=[ctc_greedy]`.
    """
    reader = ShardReader(shards, audio=True)
    recogniser = Recogniser(folder, overrides, task)
    settings = asdict(recogniser.config)
    mark = fingerprint(reader.meta, *model_files(folder), settings, nbest, sorted(reader))
    if is_done(out, mark):
        log(f"{out} is up to date")
        return

    def answer(utts: list[str]) -> list[dict]:
        found = recogniser.nbest([reader[utt] for utt in utts])
        return [{mode: [_plain(one, recogniser) for one in some[:nbest]] for mode, some in f.items()} for f in found]

    results = decode_shards(reader, out, mark, recogniser.config.batch_utts, answer, f"decoding {shards}")
    for mode in recogniser.config.modes:
        write_table(out / mode / "hyp", {utt: results[utt]["nbest"][mode][0]["text"] for utt in reader})
    log(f"{out}: {len(reader)} utterances decoded: {', '.join(recogniser.config.modes)}")
    mark_done(out, mark, model=str(folder), decode=settings)


def _plain(found: Found, recogniser: Recogniser) -> dict[str, object]:
    return {"text": recogniser.units.decode(list(found.tokens)), "score": round(found.score, 4)}
