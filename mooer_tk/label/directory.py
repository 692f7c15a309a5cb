"""Label a Kaldi data directory: `<set>` with human text -> `<set>_pl` with the teacher's."""

import itertools
from pathlib import Path

from mooer_tk.data.atomic import fingerprint, is_done, mark_done
from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_utterance
from mooer_tk.data.kaldi_dir import TABLES, Utterance, read_table, read_utterances, write_table
from mooer_tk.data.result_log import ResultLog
from mooer_tk.data.skips import report_skips
from mooer_tk.label.u2pp_teacher import U2ppTeacher
from mooer_tk.label.whisper_teacher import LONGEST_SECONDS, WhisperTeacher
from mooer_tk.model_dir import is_u2pp, model_files
from mooer_tk.progress import log, track

BATCH_UTTS = 4


def label_directory(
    data_dir: Path,
    out: Path,
    *,
    teacher: str,
    language: str,
    tasks: list[str],
    beam: int = 1,
    threads: int = 0,
    max_skip: float = 0.05,
    allow_pipe: bool = False,
) -> None:
    """Write `out/` with the teacher's `text` (asr) and `text.en` (ast).

    Labels are kept in `labels.jsonl` as they come, so that a killed run goes on at its batch. The human tables stay
    where they are, in `data_dir`; utils/label_report.py compares them with the labels.
    """
    utterances = read_utterances(data_dir)
    settings = {"teacher": teacher, "language": language, "tasks": tasks, "beam": beam}
    # A model of our own may have been trained again in the same place.
    own = model_files(teacher) if is_u2pp(teacher) else []
    mark = fingerprint(settings, *own, utterances)
    if is_done(out, mark):
        log(f"{out} is up to date")
        return
    out.mkdir(parents=True, exist_ok=True)
    log_of_labels = ResultLog(out / "labels.jsonl", mark)
    labels = log_of_labels.results
    # Whole batches: a teacher hears an utterance in the window of its batch, so its company must not change. Those
    # with a skip are read again, for what was skipped may have been mended since.
    batches = [utterances[i : i + BATCH_UTTS] for i in range(0, len(utterances), BATCH_UTTS)]
    missing = [batch for batch in batches if any("skipped" in labels.get(u.utt, {"skipped": ""}) for u in batch)]
    if missing:
        hears = build_teacher(teacher, language, threads=threads, beam=beam)
        left = [utterance for batch in missing for utterance in batch]
        done = len(utterances) - len(left)
        counted = track(left, f"labelling {data_dir}", len(utterances), done=done)
        while batch := list(itertools.islice(counted, BATCH_UTTS)):
            log_of_labels.add(_label(hears, batch, tasks, allow_pipe))

    skipped = {}
    for utt, label in labels.items():
        if "skipped" in label:
            skipped[utt] = label["skipped"]
        elif not all(label[task] for task in tasks):
            skipped[utt] = "empty label: the teacher heard nothing"
    log(report_skips(f"labels of {data_dir}", skipped, len(utterances), out / "skipped.tsv", max_share=max_skip))
    kept = {utt: label for utt, label in labels.items() if utt not in skipped}
    for name in TABLES:
        if (data_dir / name).is_file():
            table = read_table(data_dir / name)
            wanted = table if name == "wav.scp" and (data_dir / "segments").is_file() else kept
            write_table(out / name, {utt: value for utt, value in table.items() if utt in wanted})
    for task, name in (("asr", "text"), ("ast", "text.en")):
        if task in tasks:
            write_table(out / name, {utt: label[task] for utt, label in kept.items()})
    mark_done(out, mark, **settings, utterances=len(kept), skipped=len(skipped))


def build_teacher(name: str, language: str, *, threads: int = 0, beam: int = 1) -> WhisperTeacher | U2ppTeacher:
    """The teacher of a name: the directory of a U2++ model (exp/NAME), or one of Whisper's."""
    if is_u2pp(name):
        return U2ppTeacher(name, threads=threads, beam=beam)
    return WhisperTeacher(name, language, threads=threads, beam=beam)


def _label(
    teacher: WhisperTeacher | U2ppTeacher, batch: list[Utterance], tasks: list[str], allow_pipe: bool
) -> list[dict]:
    results, waves = [], {}
    for utterance in batch:
        try:
            samples = load_utterance(utterance, allow_pipe=allow_pipe)
            if len(samples) > LONGEST_SECONDS * SAMPLE_RATE:
                raise AudioError(f"too long: {utterance.utt} is longer than {LONGEST_SECONDS} s; cut it with segments")
            waves[utterance.utt] = samples
        except AudioError as error:
            results.append({"utt": utterance.utt, "skipped": str(error)})
    if waves:
        labels = teacher.label(list(waves.values()), tasks)
        results += [{"utt": utt, **label} for utt, label in zip(waves, labels, strict=True)]
    return results
