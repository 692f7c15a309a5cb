"""Cached encoder states: jobs, kills and bad recordings change nothing and lose nothing silently."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from mooer_tk.config import EncoderConfig
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.kaldi_dir import read_utterances
from mooer_tk.encoders.whisper import WhisperEncoder
from mooer_tk.errors import UserError
from mooer_tk.features import state_cache
from mooer_tk.features.state_cache import cache_states


@pytest.fixture
def config(toy_whisper):
    return EncoderConfig(model=str(toy_whisper), window_s=1, precision="float32")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(state_cache, "SHARD_UTTS", 4)


@pytest.fixture
def data(tmp_path, write_prompts):
    return write_prompts(tmp_path / "data")


def contents(folder):
    """Every file of a finished directory, temporary leftovers included."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_states_are_those_of_the_encoder(tmp_path, data, config, waves):
    cache_states(data, tmp_path / "out", config)
    reader = ShardReader(tmp_path / "out")
    assert sorted(reader) == sorted(waves)
    encoder = WhisperEncoder(config.model, window_s=1).freeze()
    for name, samples in waves.items():
        np.testing.assert_allclose(reader[name], encoder.encode([samples])[0], atol=4e-3)
        assert reader.entries[name].seconds == pytest.approx(len(samples) / 16_000, abs=1e-3)


def test_segments_are_cut_out_of_their_recording(tmp_path, data, config, waves, prompts, write_data):
    name = "vm-sorry"
    table = {"a": f"{name} 0 1.00", "b": f"{name} 1.00 2.00"}
    cut = write_data(tmp_path / "cut", {name: prompts[name][0]}, segments=table)
    cache_states(cut, tmp_path / "out", config)
    reader = ShardReader(tmp_path / "out")
    encoder = WhisperEncoder(config.model, window_s=1).freeze()
    np.testing.assert_allclose(reader["b"], encoder.encode([waves[name][16_000:32_000]])[0], atol=4e-3)


def test_two_jobs_and_a_closing_call_equal_one_call(tmp_path, data, config, small_shards):
    cache_states(data, tmp_path / "one", config)
    for job in (2, 1):
        cache_states(data, tmp_path / "jobs", config, job=job, nj=2)
        with pytest.raises(UserError, match="stage 3"):
            ShardReader(tmp_path / "jobs")
    assert len(list((tmp_path / "jobs").glob("*.tar"))) == 3
    cache_states(data, tmp_path / "jobs", config)
    assert contents(tmp_path / "jobs") == contents(tmp_path / "one")


def test_more_jobs_than_shards_leave_nobody_waiting(tmp_path, data, config, small_shards):
    for job in range(1, 9):
        cache_states(data, tmp_path / "out", config, job=job, nj=8)
    cache_states(data, tmp_path / "out", config)
    assert sorted(ShardReader(tmp_path / "out")) == sorted(u.utt for u in read_utterances(data))


def test_a_finished_directory_is_not_made_again_but_another_encoder_is(tmp_path, data, config, monkeypatch):
    out = tmp_path / "out"
    cache_states(data, out, config)
    before = contents(out)
    monkeypatch.setattr(WhisperEncoder, "encode", lambda *_: pytest.fail("encoded again"))
    cache_states(data, out, config)
    assert contents(out) == before
    monkeypatch.undo()
    cache_states(data, out, EncoderConfig(model=config.model, window_s=2))
    assert contents(out)["shard-00000.tar"] != before["shard-00000.tar"]
    assert json.loads((out / "meta.json").read_text())["encoder"]["window_s"] == 2


@pytest.fixture
def faulty(tmp_path, prompts, write_data):
    """Five good recordings and every kind of bad one."""
    audio = tmp_path / "audio"
    audio.mkdir()
    wave = np.sin(np.arange(16_000) / 20).astype(np.float32) / 2
    soundfile.write(audio / "short.wav", wave[:800], 16_000)
    soundfile.write(audio / "truncated.wav", wave, 16_000)
    soundfile.write(audio / "cut.flac", wave, 16_000)
    for name in ("truncated.wav", "cut.flac"):
        raw = (audio / name).read_bytes()
        (audio / name).write_bytes(raw[: len(raw) // 2])
    (audio / "empty.wav").write_bytes(b"")
    (audio / "text.wav").write_text("this is no sound")
    broken = wave.copy()
    broken[500] = np.nan
    soundfile.write(audio / "nan.wav", broken, 16_000, subtype="FLOAT")
    wavs = {name: path for name, (path, _) in list(prompts.items())[:5]}
    wavs |= {name: audio / f"{name}.wav" for name in ("short", "truncated", "empty", "text", "nan", "missing")}
    wavs |= {"cut": audio / "cut.flac"}
    wavs |= {"pipe": f"touch {tmp_path / 'run'} && cat {prompts['vm-sorry'][0]} |"}
    return write_data(tmp_path / "faulty", wavs)


REASONS = {
    "short": "duration",
    "truncated": "truncated|undecodable",
    "cut": "truncated|undecodable",
    "empty": "empty file",
    "text": "undecodable",
    "nan": "non-finite",
    "missing": "missing file",
    "pipe": "pipe not allowed",
}


def test_bad_recordings_are_counted_and_named(tmp_path, faulty, config):
    out = tmp_path / "out"
    cache_states(faulty, out, config, max_skip=0.9)
    reader = ShardReader(out)
    assert len(reader) == 5
    listed = dict(line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines())
    assert listed.keys() == REASONS.keys() == reader.skipped.keys()
    for utt, reason in REASONS.items():
        assert any(listed[utt].startswith(one) for one in reason.split("|")), listed[utt]
    facts = json.loads((out / "done.json").read_text())
    assert (facts["utterances"], facts["skipped"]) == (5, 8)
    assert not (tmp_path / "run").exists(), "a pipe was run without permission"
    assert all(np.isfinite(reader[utt]).all() for utt in reader)


def test_too_many_bad_recordings_stop_the_stage_with_the_report(tmp_path, faulty, config):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"5 of 13 .*{out / 'skipped.tsv'}.*--max-skip"):
        cache_states(faulty, out, config, max_skip=0.5)
    assert not (out / "done.json").exists()
    # What the message proposes works: to accept the loss,
    cache_states(faulty, out, config, max_skip=0.7)
    assert len(ShardReader(out)) == 5


def test_recordings_that_were_mended_are_read_by_the_next_run(tmp_path, faulty, config, prompts):
    # or to mend the inputs.
    out = tmp_path / "out"
    with pytest.raises(UserError):
        cache_states(faulty, out, config)
    for name in ("short", "truncated", "empty", "text", "nan", "missing"):
        samples = np.sin(np.arange(16_000) / 20)
        soundfile.write(tmp_path / "audio" / f"{name}.wav", samples, 16_000)
    soundfile.write(tmp_path / "audio" / "cut.flac", samples, 16_000)
    with pytest.raises(UserError, match=r"12 of 13 .*1 skipped \(1 pipe"):
        cache_states(faulty, out, config)


def test_pipes_are_run_when_they_are_allowed(tmp_path, config, write_data, waves):
    soundfile.write(tmp_path / "x.wav", waves["vm-sorry"], 16_000)
    raw = bytearray((tmp_path / "x.wav").read_bytes())
    # A program that writes to a pipe does not know the length yet: such a header promises nothing.
    raw[4:8] = raw[40:44] = b"\xff" * 4
    (tmp_path / "x.wav").write_bytes(raw)
    pipe = write_data(tmp_path / "pipe", {"pipe": f"cat {tmp_path / 'x.wav'} |"})
    out = tmp_path / "out"
    with pytest.raises(UserError, match="pipe not allowed"):
        cache_states(pipe, out, config)
    cache_states(pipe, out, config, allow_pipe=True)
    assert ShardReader(out)["pipe"].shape == (-(-len(waves["vm-sorry"]) // 320), 16)


def test_a_killed_run_goes_on_and_equals_an_undisturbed_one(tmp_path, sounds, write_data, config, mooer, kill_mooer):
    # The shortest 450 prompts make three shards of real speech.
    files = sorted((sounds / "audio").rglob("*.g722"), key=lambda path: (path.stat().st_size, path))
    names = {path.relative_to(sounds / "audio").as_posix().removesuffix(".g722"): path for path in files[5:455]}
    data = write_data(tmp_path / "data", names)
    settings = ["--max-skip", 0.2, "--set", f"encoder.model={config.model}", "encoder.window_s=1"]
    out = tmp_path / "killed"
    command = ["states", data, out, *settings]
    # Once within the first shard, once when it is whole.
    kill_mooer(command, lambda: any(out.glob(".shard-00000.tar.*.tmp")))
    assert not (out / "shard-00000.jsonl").exists()
    kill_mooer(command, (out / "shard-00000.jsonl").exists)
    assert not (out / "done.json").exists()
    kept = (out / "shard-00000.tar").stat().st_mtime_ns
    assert mooer(*command) == 0
    assert (out / "shard-00000.tar").stat().st_mtime_ns == kept, "the whole shard was made again"
    assert mooer("states", data, tmp_path / "calm", *settings) == 0
    assert contents(out) == contents(tmp_path / "calm")
    assert len(ShardReader(out)) >= 440
    shutil.rmtree(tmp_path / "calm")
