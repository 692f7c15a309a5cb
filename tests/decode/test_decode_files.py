"""Audio files in, text out: any rate and any number of channels, long files cut at pauses, bad files named."""

import json

import numpy as np
import pytest
import soundfile

from mooer_tk.config import DecodeConfig, EncoderConfig
from mooer_tk.decode import files
from mooer_tk.decode.files import FileTranscriber, cut_at_quiet
from mooer_tk.errors import UserError

RATE = 16_000


@pytest.fixture(scope="module")
def exported(make_model, export, toy_whisper, tmp_path_factory):
    model = make_model("raw", dim=16)
    model.config.encoder = EncoderConfig(model=str(toy_whisper), window_s=1)
    model.config.decode = DecodeConfig(beam=2, max_new_tokens=6)
    folder = tmp_path_factory.mktemp("exp")
    export(model, folder / "model")
    return folder


@pytest.fixture(scope="module")
def transcriber(exported):
    return FileTranscriber(exported)


@pytest.fixture
def heard(monkeypatch):
    """The states that reach the model."""
    seen = []
    generate = files.generate

    def listen(model, batch, config, *, seconds):
        seen.append((batch.states[0].numpy(), seconds[0]))
        return generate(model, batch, config, seconds=seconds)

    monkeypatch.setattr(files, "generate", listen)
    return seen


def test_a_44_khz_stereo_file_is_heard_as_its_16_khz_mono_self(tmp_path, transcriber, waves, heard):
    wave = waves["vm-sorry"]
    at = np.arange(len(wave) * 44_100 // RATE) * RATE / 44_100
    high = np.interp(at, np.arange(len(wave)), wave).astype(np.float32)
    soundfile.write(tmp_path / "low.wav", wave, RATE)
    soundfile.write(tmp_path / "high.flac", np.stack([high, high], axis=1), 44_100)
    low, stereo = transcriber(str(tmp_path / "low.wav"), "asr"), transcriber(str(tmp_path / "high.flac"), "asr")
    # Taken for 16 kHz it would last 2.8 times as long.
    assert stereo.seconds == pytest.approx(low.seconds, abs=0.01) == pytest.approx(len(wave) / RATE, abs=0.01)
    assert low.error is stereo.error is None and stereo.texts.keys() == {"asr"} and stereo.score is not None
    (one, seconds), (other, _) = heard
    assert seconds == pytest.approx(low.seconds) and abs(len(one) - len(other)) <= 1
    size = min(len(one), len(other))
    assert np.corrcoef(one[:size].ravel(), other[:size].ravel())[0, 1] > 0.98
    assert np.corrcoef(one[:size].ravel(), np.roll(other[:size], 40, axis=0).ravel())[0, 1] < 0.98


def test_a_long_file_is_heard_in_pieces_to_its_end(tmp_path, transcriber, waves, heard):
    wave = np.concatenate(list(waves.values()))
    soundfile.write(tmp_path / "long.wav", wave, RATE)
    found = transcriber(str(tmp_path / "long.wav"), "asr_ast")
    assert found.seconds == pytest.approx(len(wave) / RATE, abs=0.01) and found.seconds > 25
    assert len(heard) >= 2 and max(seconds for _, seconds in heard) <= 20
    assert sum(seconds for _, seconds in heard) == pytest.approx(found.seconds, abs=0.01)
    assert found.texts.keys() == {"asr", "ast"}


def test_files_that_cannot_be_used_give_status_1_and_say_why_and_the_others_are_done(
    tmp_path, mooer, exported, waves, capsys
):
    soundfile.write(tmp_path / "good.wav", waves["vm-sorry"], RATE)
    (tmp_path / "empty.wav").write_bytes(b"")
    names = [tmp_path / name for name in ("missing.wav", "empty.wav", "good.wav")]
    assert mooer("transcribe", *names, "--model", exported) == 1
    told = capsys.readouterr()
    assert f"missing file: {names[0]}" in told.err and f"empty file: {names[1]}" in told.err
    assert [line.split(": ")[0] for line in told.out.splitlines()] == [str(names[2])]
    assert mooer("transcribe", names[2], "--model", exported, "--beam", 1) == 0


def test_json_lines_hold_what_is_known_of_each_file(tmp_path, mooer, exported, waves, capsys):
    soundfile.write(tmp_path / "good.wav", waves["vm-sorry"], RATE)
    capsys.readouterr()
    assert mooer("transcribe", tmp_path / "good.wav", tmp_path / "no.wav", "--model", exported, "--json") == 1
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["texts"].keys() == {"asr"} and good["seconds"] > 1 and "error" not in good
    assert "missing file" in bad["error"] and bad["texts"] == {}


def test_an_unknown_task_is_a_user_error(transcriber):
    with pytest.raises(UserError, match=r"'asr_at'.*'asr_ast'"):
        transcriber("x.wav", "asr_at")


@pytest.mark.parametrize("seconds", [0.01, 1.0, 1.999, 2.0, 2.001, 7.3, 41.0])
def test_cutting_loses_no_sample_and_keeps_every_piece_short(seconds):
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    pieces = cut_at_quiet(samples, 2.0)
    np.testing.assert_array_equal(np.concatenate(pieces), samples)
    assert all(0 < len(piece) <= 2.0 * RATE for piece in pieces)
    # A cut lies in the last half of a piece.
    assert all(len(piece) >= 1.0 * RATE for piece in pieces[:-1])


@pytest.mark.parametrize("loudness", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("place", [1.2, 1.5, 1.8])
def test_the_cut_lies_in_the_pause_however_faint_it_is(place, loudness):
    samples = np.random.default_rng(1).standard_normal(round(2.9 * RATE)).astype(np.float32)
    samples[round((place - 0.15) * RATE) : round((place + 0.15) * RATE)] *= loudness
    first = cut_at_quiet(samples, 2.0)[0]
    assert len(first) / RATE == pytest.approx(place, abs=0.1)
