"""Run a frozen encoder over a data directory once and keep its states in shards (float16), or keep the audio itself."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from mooer_tk.config import EncoderConfig
from mooer_tk.data.array_shards import ShardReader, ShardWriter
from mooer_tk.data.atomic import fingerprint, is_done, mark_done, sweep_leftovers
from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_utterance
from mooer_tk.data.kaldi_dir import Utterance, read_utterances
from mooer_tk.data.skips import report_skips
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.encoders.table import build_encoder
from mooer_tk.model_dir import is_u2pp, model_files
from mooer_tk.progress import log, track

SHARD_UTTS = 100
FORMAT = 2  # of the shards; another one makes them anew
BATCH_UTTS = 4  # larger batches bring nothing on a CPU
SECONDS = (0.1, 30.0)  # the shortest and the longest utterance; longer ones need `segments`


def cache_states(
    data_dir: Path,
    out: Path,
    config: EncoderConfig,
    *,
    job: int = 0,
    nj: int = 1,
    max_skip: float = 0.05,
    allow_pipe: bool = False,
    encoder: Callable[[], SpeechEncoder] | None = None,
    turn: int = 0,
    audio: bool = False,
) -> None:
    """Write the encoder states of every utterance of `data_dir` to shards in `out`.

    Job `job` of `nj` (from 1) writes every nj-th shard (`turn` says whose turn is first) and leaves the closing to a
    last call with job 0, which writes what is missing, checks the skips and marks the directory as done. A killed run
    goes on at its shard, and one that stopped for its skips reads the recordings again that were mended since.
    `encoder` gives an encoder of `config` when one is needed, so that several directories can share it. With `audio`
    the samples are kept instead of states: the encoder then runs in training, where speech can be changed every time.

    Raises:
        UserError: an unsound data directory, or more skipped utterances than `max_skip`.
    """
    utterances = read_utterances(data_dir)
    # A model of our own may have been trained again in the same place.
    own = model_files(config.model) if is_u2pp(config.model) and not audio else []
    mark = fingerprint(*own, [FORMAT, audio], {} if audio else asdict(config), SECONDS, utterances)
    if is_done(out, mark):
        log(f"{out} is up to date")
        return
    shards = [utterances[i : i + SHARD_UTTS] for i in range(0, len(utterances), SHARD_UTTS)]
    mine = [n for n in range(len(shards)) if job == 0 or (n + turn) % nj == job - 1]
    facts = {"audio": True} if audio else {"encoder": asdict(config)}
    writer = ShardWriter(out, {"fingerprint": mark, **facts})
    if job == 0:
        sweep_leftovers(out)
    skipped = ShardReader(out, unfinished=True).skipped

    def mended(number: int) -> bool:
        return any(one.utt in skipped and _is_usable(one, allow_pipe) for one in shards[number])

    missing = [n for n in mine if not writer.is_whole(n) or mended(n)]
    if missing:
        ready = None if audio else (encoder or partial(build_encoder, config))()
        if ready:
            writer.describe(frame_ms=ready.frame_ms)
        _fill(writer, shards, missing, ready.encode if ready else None, allow_pipe, data_dir)
    if job == 0:
        _close(data_dir, out, mark, len(utterances), max_skip)


def _fill(
    writer: ShardWriter,
    shards: list[list[Utterance]],
    missing: list[int],
    encode: Callable[[list[np.ndarray]], list[np.ndarray]] | None,
    allow_pipe: bool,
    data_dir: Path,
) -> None:
    left = [utterance for n in missing for utterance in shards[n]]
    counted = track(left, f"encoding {data_dir}", len(left))

    def items(utterances: list[Utterance], skipped: dict[str, str]) -> Iterator[tuple[str, np.ndarray, float]]:
        batch: list[tuple[str, np.ndarray]] = []
        for place, _ in enumerate(utterances):
            utterance = next(counted)
            try:
                batch.append((utterance.utt, _load(utterance, allow_pipe)))
            except AudioError as error:
                skipped[utterance.utt] = str(error)
            if batch and (len(batch) == BATCH_UTTS or place == len(utterances) - 1):
                arrays = encode([wave for _, wave in batch]) if encode else [wave for _, wave in batch]
                for (utt, wave), array in zip(batch, arrays, strict=True):
                    yield utt, array.astype(np.float16) if encode else array, len(wave) / SAMPLE_RATE
                batch = []

    for number in missing:
        skipped: dict[str, str] = {}
        writer.write(number, items(shards[number], skipped), skipped, audio=encode is None)


def _load(utterance: Utterance, allow_pipe: bool) -> np.ndarray:
    samples = load_utterance(utterance, allow_pipe=allow_pipe)
    if not SECONDS[0] <= len(samples) / SAMPLE_RATE <= SECONDS[1]:
        raise AudioError(f"duration: {len(samples) / SAMPLE_RATE:.2f} s is outside {SECONDS[0]:g}-{SECONDS[1]:g} s")
    return samples


def _is_usable(utterance: Utterance, allow_pipe: bool) -> bool:
    try:
        _load(utterance, allow_pipe)
    except AudioError:
        return False
    return True


def _close(data_dir: Path, out: Path, mark: str, total: int, max_skip: float) -> None:
    reader = ShardReader(out, unfinished=True)
    log(report_skips(f"shards of {data_dir}", reader.skipped, total, out / "skipped.tsv", max_share=max_skip))
    hours = sum(entry.seconds for entry in reader.entries.values()) / 3600
    mark_done(out, mark, utterances=len(reader), hours=round(hours, 4), skipped=len(reader.skipped))
