"""Synthetic speech: real engines, every voice, the same sound every time, and runs that are broken off."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hub.packages import fetch_package
from mooer_tk.data.audio import load_audio
from mooer_tk.data.kaldi_dir import read_table, write_table
from mooer_tk.errors import UserError
from utils.data_dir import check
from utils.synthesise_speech import VOICES, Delivery, _engine, main, synthesise, usable_voices

SCRIPT = (str(Path(__file__).resolve().parents[2] / "utils" / "synthesise_speech.py"),)
SENTENCE = "the old clock in the hall was always seven minutes slow and nobody ever tried to put it right"


@pytest.fixture(scope="session")
def engines() -> None:
    for name in ("flite", "espeak-ng"):
        fetch_package(name)


def write_text_table(path: Path, lines: int) -> Path:
    rng, words = np.random.default_rng(0), SENTENCE.split()
    table = {f"u{n:03}": " ".join(rng.choice(words, rng.integers(3, 9))).capitalize() + "." for n in range(lines)}
    write_table(path, table)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a data directory; the folder's own path, which wav.scp holds, is left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    own = str(folder.resolve()).encode()
    return {str(path.relative_to(folder)): path.read_bytes().replace(own, b"") for path in files}


def median_pitch(samples: np.ndarray) -> float:
    """Median over loud frames of the pitch in Hz: the lag between 64 and 400 Hz with the largest autocorrelation."""
    pitches = []
    for start in range(0, len(samples) - 1024, 512):
        frame = samples[start : start + 1024]
        if np.sqrt((frame**2).mean()) > 0.03:
            products = np.correlate(frame, frame, "full")[1023:]
            pitches.append(16_000 / (40 + products[40:250].argmax()))
    return float(np.median(pitches))


def test_a_data_directory_with_many_voices(engines: None, tmp_path: Path) -> None:
    text = write_text_table(tmp_path / "text", 60)
    summary = synthesise(text, tmp_path / "out", voices=list(VOICES), nj=2)
    assert "60 of 60 utterances kept" in summary
    check(tmp_path / "out")
    assert read_table(tmp_path / "out" / "text") == read_table(text)
    speakers, durations = (read_table(tmp_path / "out" / name) for name in ("utt2spk", "utt2dur"))
    assert set(speakers.values()) == set(VOICES)
    for utt, path in read_table(tmp_path / "out" / "wav.scp").items():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        samples = load_audio(path)
        assert float(durations[utt]) == pytest.approx(len(samples) / 16_000, abs=1e-3)
        assert 0.5 < float(durations[utt]) < 8
        assert 0.01 < np.sqrt((samples**2).mean()) < 0.5
    assert (tmp_path / "out" / "skipped.tsv").read_text() == ""


def test_speed_and_pitch_are_heard(engines: None) -> None:
    for voice in ("flite-slt", "espeak-en-us"):
        engine, name = voice.split("-", 1)

        def speak(speed: float, pitch: float, engine: str = engine, name: str = name) -> np.ndarray:
            return _engine(engine).speak("nobody was ever slow", Delivery(engine, speed, pitch), name)

        assert len(speak(1.2, 1)) < 0.92 * len(speak(0.9, 1))
        low, high = speak(1, 0.9), speak(1, 1.1)
        assert len(low) == pytest.approx(len(high), rel=0.05)
        assert median_pitch(high) > 1.05 * median_pitch(low)


def test_a_delivery_depends_on_the_id_and_the_seed_alone() -> None:
    one = Delivery.draw("u1", list(VOICES), 0)
    assert one == Delivery.draw("u1", list(VOICES), 0)
    assert len({Delivery.draw(f"u{n}", list(VOICES), seed) for n in range(20) for seed in (0, 1)}) == 40


def test_a_killed_run_is_finished_by_the_same_command(
    engines: None, tmp_path: Path, kill_mooer: Callable[..., None]
) -> None:
    text = write_text_table(tmp_path / "text", 120)
    wav = tmp_path / "killed" / "wav"
    words = [text, tmp_path / "killed", "--nj", 2]
    kill_mooer(words, lambda: len(list(wav.glob("*.flac"))) > 10, moment=0.2, program=SCRIPT)
    spoken = {path: path.stat().st_mtime_ns for path in wav.glob("*.flac")}
    assert 10 < len(spoken) < 120
    assert not (tmp_path / "killed" / "wav.scp").exists()
    for folder in ("killed", "whole"):
        assert main([str(text), str(tmp_path / folder), "--nj", "2"]) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == then for path, then in spoken.items())


def test_a_text_without_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    with pytest.raises(UserError, match="text holds no sentence to speak"):
        synthesise(tmp_path / "text", tmp_path / "out", voices=["flite-kal16"])


def test_a_changed_sentence_is_spoken_anew(engines: None, tmp_path: Path) -> None:
    write_table(tmp_path / "text", {"a": "The clock was slow.", "b": "Nobody tried."})
    synthesise(tmp_path / "text", tmp_path / "out", voices=["espeak-en-us"])
    before = read_table(tmp_path / "out" / "wav.scp")
    write_table(tmp_path / "text", {"a": "The clock was right.", "b": "Nobody tried."})
    synthesise(tmp_path / "text", tmp_path / "out", voices=["espeak-en-us"])
    after = read_table(tmp_path / "out" / "wav.scp")
    assert before["a"] != after["a"]
    assert before["b"] == after["b"]


def test_what_cannot_be_spoken_is_named(engines: None, tmp_path: Path) -> None:
    write_table(tmp_path / "text", {"a": "The clock was slow.", "b": "...", "c": "- -"})
    with pytest.raises(UserError, match=r"1 of 3 utterances kept, 2 skipped .*more than the 1 %"):
        synthesise(tmp_path / "text", tmp_path / "out", voices=["espeak-en-us"])
    assert not (tmp_path / "out" / "wav.scp").exists()
    summary = synthesise(tmp_path / "text", tmp_path / "out", voices=["espeak-en-us"], max_skip=0.7)
    assert "2 skipped" in summary
    assert [line.split("\t")[0] for line in (tmp_path / "out" / "skipped.tsv").read_text().splitlines()] == ["b", "c"]
    assert list(read_table(tmp_path / "out" / "text")) == ["a"]


def test_absent_engines_are_named(
    engines: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    espeak = fetch_package("espeak-ng")
    monkeypatch.setenv("MOOER_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    _engine.cache_clear()
    try:
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / "espeak-ng").symlink_to(espeak)
        assert usable_voices(["flite-slt", "flite-awb", "espeak-en-us"]) == ["espeak-en-us"]
        assert "voices left out: flite-slt, flite-awb: there is no flite" in capsys.readouterr().err
        with pytest.raises(UserError, match="none of the voices can be used"):
            usable_voices(["flite-slt"])
    finally:
        _engine.cache_clear()
    with pytest.raises(UserError, match="unknown voice 'flite-slit': did you mean 'flite-slt'"):
        usable_voices(["flite-slit"])


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(engines: None, tmp_path: Path) -> None:
    """No file may grow past 40 kB: some of the FLAC files fit and others do not."""
    text = write_text_table(tmp_path / "text", 12)
    command = [sys.executable, *SCRIPT, str(text), str(tmp_path / "out"), "--nj", "1"]

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    voices = ["--voices", "espeak-en-us,espeak-en-gb-x-rp"]
    done = subprocess.run([*command, *voices], preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert all(len(soundfile.read(path)[0]) > 0 for path in (tmp_path / "out").rglob("*.flac"))
    subprocess.run([*command, *voices], check=True, capture_output=True)
    shutil.move(tmp_path / "out", tmp_path / "limited")
    subprocess.run([*command, *voices], check=True, capture_output=True)
    names = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.flac")}
    assert names == {path.name: path.read_bytes() for path in (tmp_path / "limited").rglob("*.flac")}
