"""The Whisper teacher on real speech: right words, and nothing lost by a kill."""

import json

import numpy as np
import pytest
import soundfile

from mooer_tk.data.kaldi_dir import read_table, read_utterances
from mooer_tk.errors import UserError
from mooer_tk.label import directory
from mooer_tk.label.directory import label_directory
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser

pytest.importorskip("faster_whisper")
pytestmark = pytest.mark.usefixtures("tiny_teacher")
SETTINGS = {"teacher": "whisper-tiny.en", "language": "en", "tasks": ["asr"], "threads": 1}


@pytest.fixture
def data(tmp_path, prompts, write_data):
    texts = {name: text for name, (_, text) in prompts.items()}
    speakers = {name: "allison" for name in prompts}
    return write_data(
        tmp_path / "data", {name: path for name, (path, _) in prompts.items()}, text=texts, utt2spk=speakers
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, prompts, write_data):
    folder = tmp_path_factory.mktemp("label")
    texts = {name: text for name, (_, text) in prompts.items()}
    data = write_data(folder / "data", {name: path for name, (path, _) in prompts.items()}, text=texts)
    label_directory(data, folder / "out", **SETTINGS)
    return folder / "out"


def test_the_teacher_hears_what_was_said(undisturbed, prompts):
    heard = read_table(undisturbed / "text")
    said = {name: text for name, (_, text) in prompts.items()}
    assert heard.keys() == said.keys()
    rate = error_rate(said, heard, unit="word", normaliser=get_normaliser("whisper-en")).rate
    assert rate < 30
    done = json.loads((undisturbed / "done.json").read_text())
    assert (done["teacher"], done["language"], done["tasks"], done["beam"]) == ("whisper-tiny.en", "en", ["asr"], 1)


def test_the_result_is_a_sound_data_directory(undisturbed, data, tmp_path):
    label_directory(data, tmp_path / "out", **SETTINGS)
    labelled = tmp_path / "out"
    assert read_utterances(labelled) == read_utterances(data)
    assert read_table(labelled / "utt2spk") == read_table(data / "utt2spk")
    assert read_table(labelled / "text") == read_table(undisturbed / "text")


def test_a_killed_run_goes_on_and_equals_an_undisturbed_one(data, tmp_path, undisturbed, mooer, kill_mooer):
    out = tmp_path / "out"
    words = ["label", data, out, "--teacher", "whisper-tiny.en", "--language", "en", "--threads", 1]
    log = out / "labels.jsonl"
    kill_mooer(words, lambda: log.is_file() and log.read_bytes().count(b"\n") > 4, moment=0.2)
    assert not (out / "done.json").exists() and not (out / "text").exists()
    # A kill may tear a batch: its utterances must be heard together again.
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:3]) + "\n" + lines[3][:10])
    assert mooer(*words) == 0
    for name in ("text", "wav.scp", "skipped.tsv", "done.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


class Echo:
    """A teacher that says who is in the batch, in place of Whisper."""

    calls: list[list[int]] = []

    def __init__(self, *_, **__):
        Echo.calls = []

    def label(self, utterances, tasks):
        Echo.calls.append([len(samples) for samples in utterances])
        company = "-".join(str(len(samples)) for samples in utterances)
        return [{task: f"{task} {len(samples)} of {company}" for task in tasks} for samples in utterances]


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(directory, "WhisperTeacher", Echo)


@pytest.fixture
def tones(tmp_path, write_data):
    """Ten recordings, each 10 ms longer than the one before."""
    for i in range(10):
        soundfile.write(tmp_path / f"{i}.wav", np.sin(np.arange(1600 + 160 * i) / 9), 16_000)
    return write_data(tmp_path / "data", {f"u{i}": tmp_path / f"{i}.wav" for i in range(10)})


@pytest.mark.parametrize(("kept", "batches"), [(1, 3), (3, 3), (5, 2), (8, 1), (9, 1), (10, 0)])
def test_wherever_it_was_killed_the_batches_stay_the_same(echo, tones, tmp_path, kept, batches):
    label_directory(tones, tmp_path / "whole", **SETTINGS)
    label_directory(tones, tmp_path / "out", **SETTINGS)
    lines = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    (tmp_path / "out" / "labels.jsonl").write_text("\n".join(lines[: kept + 1]) + "\n")
    (tmp_path / "out" / "done.json").unlink()
    Echo.calls.clear()
    label_directory(tones, tmp_path / "out", **SETTINGS)
    assert (tmp_path / "out" / "text").read_bytes() == (tmp_path / "whole" / "text").read_bytes()
    assert len(Echo.calls) == batches


def test_bad_recordings_are_named_stop_the_stage_and_are_read_again_when_mended(echo, tones, tmp_path):
    good = (tmp_path / "3.wav").read_bytes()
    (tmp_path / "3.wav").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"9 of 10 .*empty file.*skipped\.tsv.*--max-skip"):
        label_directory(tones, out, **SETTINGS)
    assert (out / "skipped.tsv").read_text().startswith("u3\tempty file")
    label_directory(tones, out, **SETTINGS, max_skip=0.2)
    kept = [f"u{i}" for i in range(10) if i != 3]
    assert list(read_table(out / "text")) == list(read_table(out / "wav.scp")) == kept
    (tmp_path / "3.wav").write_bytes(good)
    (out / "done.json").unlink()
    label_directory(tones, out, **SETTINGS)
    assert len(Echo.calls) == 1
    label_directory(tones, tmp_path / "whole", **SETTINGS)
    assert (out / "text").read_bytes() == (tmp_path / "whole" / "text").read_bytes()


def test_both_tasks_are_written_as_transcript_and_translation(echo, tones, tmp_path):
    label_directory(tones, tmp_path / "out", **{**SETTINGS, "tasks": ["asr", "ast"]})
    assert read_table(tmp_path / "out" / "text")["u2"].startswith("asr 1920 of")
    assert read_table(tmp_path / "out" / "text.en")["u2"].startswith("ast 1920 of")


def test_an_utterance_of_which_nothing_was_heard_is_counted(echo, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Echo, "label", lambda self, utts, tasks: [{"asr": "" if len(u) == 1600 else "word"} for u in utts]
    )
    label_directory(tones, tmp_path / "out", **SETTINGS, max_skip=0.1)
    assert (tmp_path / "out" / "skipped.tsv").read_text() == "u0\tempty label: the teacher heard nothing\n"
    assert "u0" not in read_table(tmp_path / "out" / "text")


def test_other_settings_label_anew(echo, tones, tmp_path):
    label_directory(tones, tmp_path / "out", **SETTINGS)
    label_directory(tones, tmp_path / "out", **SETTINGS)
    assert len(Echo.calls) == 3
    Echo.calls.clear()
    label_directory(tones, tmp_path / "out", **SETTINGS, beam=2)
    assert len(Echo.calls) == 3


def test_a_teacher_of_another_language_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="English only"):
        label_directory(data, tmp_path / "out", **{**SETTINGS, "language": "es"})
