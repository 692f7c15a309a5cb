"""Audio in every form that corpora have: the same sound comes out, or an error that names the file and the fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mooer_tk.data import audio
from mooer_tk.data.audio import SAMPLE_RATE, AudioError, load_audio, load_utterance
from mooer_tk.data.kaldi_dir import Utterance

SECONDS = 1.5


def tone(rate: int, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """A sine of half the full scale, shape (T, channels)."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(SECONDS * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def loudest_hertz(samples: np.ndarray) -> float:
    """The frequency of the largest peak of the spectrum."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 4 * len(samples)))
    return float(spectrum.argmax()) * SAMPLE_RATE / (4 * len(samples))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("ogg", "VORBIS")],
)
def test_every_rate_and_channel_count_gives_the_same_tone(
    tmp_path: Path, rate: int, channels: int, suffix: str, subtype: str
) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(rate, channels), rate, subtype=subtype)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # A lossy codec ends at a whole block.
    assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.03 if suffix == "ogg" else 0.002)
    assert loudest_hertz(samples) == pytest.approx(440, abs=1)
    inner = samples[1600:-1600]
    assert np.sqrt((inner**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_mp3_and_opus_are_read(tmp_path: Path) -> None:
    for suffix, subtype, rate in (("mp3", "MPEG_LAYER_III", 44_100), ("opus", "OPUS", 48_000)):
        path = tmp_path / f"tone.{suffix}"
        soundfile.write(path, tone(rate), rate, format="OGG" if suffix == "opus" else "MP3", subtype=subtype)
        samples = load_audio(path)
        assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.1)
        assert loudest_hertz(samples) == pytest.approx(440, abs=1)


def test_one_loud_channel_is_not_lost(tmp_path: Path) -> None:
    stereo = tone(16_000, 2)
    stereo[:, 0] = 0
    soundfile.write(tmp_path / "right.wav", stereo, 16_000)
    assert loudest_hertz(load_audio(tmp_path / "right.wav")) == pytest.approx(440, abs=1)


def test_a_telephone_prompt_in_g722(sounds: Path) -> None:
    """A headerless g722 file holds one byte for two samples at 16 kHz."""
    path = sounds / "audio" / "vm-goodbye.g722"
    samples = load_audio(path)
    assert len(samples) == pytest.approx(2 * path.stat().st_size, abs=100)
    assert 0.02 < np.abs(samples).max() <= 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"missing file: .*nowhere\.wav"):
        load_audio(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.g722"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(AudioError, match=f"empty file: .*{name} has 0 bytes"):
        load_audio(tmp_path / name)


def test_a_wav_with_a_header_and_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match=r"a\.wav"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_truncated_file(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise, 16_000)
    raw = path.read_bytes()
    path.write_bytes(raw[: round(share * len(raw))])
    with pytest.raises(AudioError, match=rf"(truncated|undecodable): .*a\.{suffix}"):
        load_audio(path)


def test_text_instead_of_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("<html>404 Not Found</html>" * 100)
    with pytest.raises(AudioError, match=r"undecodable: .*a\.wav"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples(tmp_path: Path, value: float) -> None:
    wave = tone(16_000)
    wave[700] = value
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"non-finite samples: .*a\.wav"):
        load_audio(tmp_path / "a.wav")


def test_pipes_run_only_when_allowed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(8_000), 8_000)
    witness = tmp_path / "ran"
    pipe = f"touch {witness}; cat {tmp_path}/a.wav |"
    with pytest.raises(AudioError, match=r"pipe not allowed: .*--allow-pipe"):
        load_audio(pipe)
    assert not witness.exists()
    samples = load_audio(pipe, allow_pipe=True)
    assert witness.exists()
    assert np.array_equal(samples, load_audio(tmp_path / "a.wav"))
    with pytest.raises(AudioError, match=r"pipe failed: .*exited with 3: no disc"):
        load_audio("echo no disc >&2; exit 3 |", allow_pipe=True)


def test_segments_cut_the_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.linspace(0, 0.9, 32_000), 16_000, subtype="FLOAT")
    source = str(tmp_path / "a.wav")
    whole = load_audio(source)
    assert np.array_equal(load_utterance(Utterance("u", source)), whole)
    assert np.array_equal(load_utterance(Utterance("u", source, 0.5, 1.25)), whole[8_000:20_000])
    assert np.array_equal(load_utterance(Utterance("u", source, 0.5)), whole[8_000:])
    assert np.array_equal(load_utterance(Utterance("u", source, 0.0, 2.01)), whole)
    for start, end in ((0.0, 3.0), (2.5, 3.0)):
        with pytest.raises(AudioError, match="segment outside the recording: u asks for"):
            load_utterance(Utterance("u", source, start, end))


def test_segments_of_a_recording_decode_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.linspace(-0.5, 0.5, 3 * 16_000, dtype=np.float32)
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    decoded: list[str] = []
    whole = audio.load_audio
    monkeypatch.setattr(audio, "load_audio", lambda source, **k: decoded.append(source) or whole(source, **k))
    for start in (0.0, 1.0, 2.0):
        cut = load_utterance(Utterance("u", str(tmp_path / "long.wav"), start, start + 1))
        np.testing.assert_allclose(cut, samples[round(16_000 * start) :][:16_000], atol=1e-6)
        # What a stage does to one segment must not change the next.
        cut[:] = 0
    assert len(decoded) == 1
