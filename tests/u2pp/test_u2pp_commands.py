"""The commands, on real recordings: train, kill, resume, average, upcycle, decode, transcribe, label, encode."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.u2pp.model import load_model

CONFIG = """
system: u2pp
model: {dim: 32, heads: 4, layers: 2, ffn: 48, kernel: 5, decoder_layers: 1, right_layers: 1, decoder_ffn: 48}
loss: {ctc_only_steps: 2}
train:
  steps: 6
  eval_every: 3
  log_every: 1
  precision: float32
  optim: {lr: 2.0e-3, warmup_steps: 2}
  augment: {speed: [0.9, 1.0, 1.1], sub_masks: 2, time_masks: 1, time_width: 20, time_share: 0.3, trim_width: 10}
  data: {batch_positions: 1500}
"""


@pytest.fixture
def words(audio_shards: Path, units_file: Path, tmp_path: Path) -> Callable[..., list[object]]:
    """words("name", "train.steps=3", ..., start=folder) -> the words of a training command, with config and data."""
    config = tmp_path / "u2pp.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    source = f"asr:{audio_shards}/dump:{audio_shards}/data/text"

    def make(name: str, *overrides: str, start: Path | None = None) -> list[object]:
        data = ["--source", source, "--dev", source, "--out", tmp_path / name / "train", "--config", config]
        begin = ["--init-model", start] if start else []
        return ["train", "u2pp", "--set", f"model.units={units_file}", *overrides, *data, *begin]

    return make


def log_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    clock = ("seconds", "tokens_per_s", "mfu", "memory_gib", "left")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def test_from_a_dense_model_to_experts_and_their_transcripts(
    words: Callable[..., list],
    mooer: Callable[..., int],
    audio_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert mooer(*words("dense")) == 0
    lines = log_of(tmp_path / "dense" / "train")
    train = [line for line in lines if line["kind"] == "train"]
    assert ["loss_l2r" in line for line in train] == [False, False, True, True, True, True]
    assert train[-1]["loss_ctc"] < train[0]["loss_ctc"]
    assert {"wer", "cer", "loss", "criterion"} <= set(lines[-1])
    assert mooer("average", tmp_path / "dense/train", tmp_path / "dense/model", "--best", 2) == 0

    start = tmp_path / "ume" / "start"
    assert mooer("upcycle", "--from", tmp_path / "dense", "--out", start, "--experts", 4) == 0
    assert mooer(*words("ume", "loss.freeze=true", "loss.ctc_only_steps=0", "train.steps=3", start=start)) == 0
    ume = tmp_path / "ume"
    table = (ume / "train" / "expert_load.tsv").read_text(encoding="utf-8").splitlines()
    shares = [line.split("\t") for line in table[1:]]
    assert {row[0] for row in shares} == {"3"}
    # Six mixtures: two a layer of the encoder, one a layer of each decoder; shares of each sum to 1.
    names = list(dict.fromkeys(row[1] for row in shares))
    assert len(names) == 6
    for name in names:
        assert sum(float(row[3]) for row in shares if row[1] == name) == pytest.approx(1.0, abs=1e-3)
    assert mooer("average", ume / "train", ume / "model", "--best", 1) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (start, ume / "model"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(".experts." in name or ".router." in name for name in moved)

    modes = ["ctc_greedy", "ctc_prefix_beam", "attention", "attention_rescoring"]
    search = ["--set", f"decode.modes=[{','.join(modes)}]", "decode.chunk=4", "decode.beam=3"]
    assert mooer("decode", audio_shards / "dump", ume / "decode", "--model", ume, "--nbest", 2, *search) == 0
    for mode in modes:
        assert set(read_table(ume / "decode" / mode / "hyp")) == set(ShardReader(audio_shards / "dump"))
    kept = [json.loads(line) for line in (ume / "decode" / "nbest.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    assert {len(one["nbest"]["ctc_prefix_beam"]) for one in kept} == {2}
    assert mooer("decode", audio_shards / "dump", ume / "decode", "--model", ume, "--nbest", 2, *search) == 0
    assert "up to date" in capsys.readouterr().err


def test_text_that_no_unit_covers_is_counted(
    words: Callable[..., list],
    mooer: Callable[..., int],
    units_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    few = tmp_path / "few.txt"
    few.write_text(units_file.read_text(encoding="utf-8").replace("e\n", ""), encoding="utf-8")
    assert mooer(*words("few", f"model.units={few}", "train.steps=1"), "--dry-run") == 0
    assert f"are not in {few}: written as unknown" in capsys.readouterr().err
    assert mooer(*words("all", "train.steps=1"), "--dry-run") == 0
    assert "written as unknown" not in capsys.readouterr().err


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    words: Callable[..., list], mooer: Callable[..., int], kill_mooer: Callable[..., None], tmp_path: Path
) -> None:
    experts = ("model.moe.experts=3", "model.moe.noise=0.5", "model.moe.balance=0.01")
    assert mooer(*words("whole", *experts)) == 0
    killed = tmp_path / "killed" / "train"
    kill_mooer(words("killed", *experts), lambda: (killed / "checkpoints" / "step-000003").is_dir(), moment=0.3)
    assert mooer(*words("killed", *experts)) == 0
    assert log_of(killed) == log_of(tmp_path / "whole" / "train")
    one, other = (
        load_file(tmp_path / name / "train/checkpoints/step-000006/weights.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    loads = [
        (tmp_path / name / "train" / "expert_load.tsv").read_text(encoding="utf-8") for name in ("whole", "killed")
    ]
    assert loads[0].splitlines()[-20:] == loads[1].splitlines()[-20:]


def test_another_search_is_no_other_training(words: Callable[..., list], mooer: Callable[..., int], capsys) -> None:
    assert mooer(*words("a", "train.steps=1")) == 0
    capsys.readouterr()
    assert mooer(*words("a", "train.steps=1", "decode.beam=3")) == 0
    assert "is up to date" in capsys.readouterr().err


def test_what_cannot_be_trained_is_said(
    words: Callable[..., list],
    mooer: Callable[..., int],
    saved_model: Callable[..., Path],
    write_states: Callable[..., Path],
    audio_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    states = write_states(tmp_path / "states", {"a": np.zeros((4, 8), dtype=np.float32)})
    text = audio_shards / "data" / "text"
    cases = [
        (words("a", "loss.freeze=true"), "this model has none"),
        (words("a", "model.units=/nowhere/units.txt"), "make_units.py"),
        (words("a", "model.lays=3"), "did you mean 'layers'"),
        ([*words("a"), "--source", f"asr:{states}:{text}"], "here audio is needed"),
        ([str(one).replace(f"{audio_shards}/dump", str(states)) for one in words("a")], "here audio is needed"),
        ([*words("a"), "--source", f"ast:{audio_shards}/dump:{text}"], "U2++ transcribes"),
        (["upcycle", "--from", saved_model(4, "grown"), "--out", tmp_path / "x"], "has experts already"),
        (["upcycle", "--from", saved_model(name="d"), "--out", tmp_path / "x", "--top-k", 9], "choose 1 to 8"),
        (["decode", states, tmp_path / "y", "--model", saved_model()], "here audio is needed"),
        (words("a", "model.heads=5"), "must divide model.dim"),
        (words("a", "model.moe.experts=2", "model.moe.top_k=3"), "choose 1 to 2"),
        ([*words("a"), "--source", f"asr:{audio_shards}/dump:{text}:-1"], "must be a number, 0 or more"),
        ([*words("a"), "--source", f"asr:{audio_shards}/dump:{text}:inf"], "must be a number, 0 or more"),
        (["states", audio_shards / "data", tmp_path / "z", "--config", tmp_path / "u2pp.yaml"], "is a config of u2pp"),
        (["params", tmp_path / "u2pp.yaml", "--memory"], "--dry-run of mooer train u2pp"),
        (["params", tmp_path / "nowhere"], "cannot read the config"),
    ]
    for command, message in cases:
        assert mooer(*command) == 2, message
        assert message in capsys.readouterr().err


def test_files_are_transcribed_at_once_and_as_a_stream(
    saved_model: Callable[..., Path],
    mooer: Callable[..., int],
    prompts: dict,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    model, file = saved_model(4), prompts["conf-onlyperson"][0]
    assert mooer("transcribe", file, "--model", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["texts"]["asr"]
    assert mooer("transcribe", file, "--model", model, "--stream", "--chunk", 8, "--json") == 0
    heard = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["final"] for one in heard].count(False) > 2
    assert heard[-1]["final"]
    assert mooer("transcribe", tmp_path / "none.wav", "--model", model, "--stream") == 1
    assert "missing file" in capsys.readouterr().err
    assert mooer("transcribe", tmp_path / "none.wav", "--model", model, "--stream", "--json") == 1
    assert "missing file" in json.loads(capsys.readouterr().out)["error"]


def test_what_a_recogniser_cannot_do_is_said(
    saved_model: Callable[..., Path],
    mooer: Callable[..., int],
    audio_shards: Path,
    prompts: dict,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    hear = ["transcribe", prompts["conf-onlyperson"][0], "--model", saved_model()]
    decode = ["decode", audio_shards / "dump", tmp_path / "out", "--model", saved_model()]
    cases = [
        ([*hear, "--task", "ast"], "transcribes only"),
        ([*hear, "--task", "ast", "--stream"], "transcribes only"),
        ([*decode, "--task", "ast"], "transcribes only"),
        ([*hear[:2], "--model", tmp_path / "none", "--stream"], "holds no exported model"),
        ([*decode[:3], "--model", tmp_path / "none", "--set", "decode.beam=2"], "holds no exported model"),
        (["transcribe", "-", *hear[2:]], "give --stream"),
        ([*hear, "--chunk", 0], "decode.chunk too, or -1"),
        ([*hear, "--beam", 0], "1 or more"),
        ([*decode, "--set", "decode.batch_utts=0"], "1 or more"),
        ([*decode, "--set", "decode.modes=[attention_rescorin]"], "did you mean 'attention_rescoring'"),
        ([*decode, "--set", "decode.modes=[]"], "decode.modes: '' is unknown"),
    ]
    for command, message in cases:
        assert mooer(*command) == 2, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_models_directory_is_counted_with_its_units(
    saved_model: Callable[..., Path], mooer: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    model = saved_model(4)
    assert mooer("params", model) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    network, _, units = load_model(model)
    assert f"({units.size} units, 2 layers of 32)" in head
    name, total, active = rows[-1].replace(",", "").split()
    assert name == "all" and int(total) == sum(p.numel() for p in network.parameters()) > int(active)


def test_ctrl_c_ends_a_stream_with_its_last_words(saved_model: Callable[..., Path], speech: np.ndarray) -> None:
    """A microphone has no other end: the terminal's signal goes to both, and the pipe ends."""
    model = saved_model(modes=("ctc_prefix_beam",))
    code = "import sys; from mooer_tk.bin.main import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "transcribe",
        "-",
        "--stream",
        "--chunk",
        "4",
        "--model",
        str(model),
        "--json",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write((speech * 32767).astype("<i2").tobytes())
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        rest, errors = process.communicate(timeout=60)
    heard = [first, *map(json.loads, rest.splitlines())]
    assert process.returncode == 0, errors
    assert heard[-1]["final"] and [one["final"] for one in heard].count(True) == 1
    assert heard[-1]["end"] == pytest.approx(len(speech) / 16000, abs=0.1)


def test_it_teaches_and_it_encodes(
    saved_model: Callable[..., Path], mooer: Callable[..., int], audio_shards: Path, tmp_path: Path
) -> None:
    model = saved_model(4, modes=("ctc_greedy",))
    out = tmp_path / "pl"
    assert mooer("label", audio_shards / "data", out, "--teacher", model, "--language", "en", "--max-skip", 1) == 0
    assert read_table(out / "text")
    assert mooer("label", audio_shards / "data", out, "--teacher", model, "--language", "en", "--tasks", "ast") == 2

    encoder = [f"encoder.model={model}", "encoder.name=u2pp", "encoder.precision=float32"]
    assert mooer("states", audio_shards / "data", tmp_path / "dump", "--set", *encoder) == 0
    states, audio = ShardReader(tmp_path / "dump"), ShardReader(audio_shards / "dump")
    assert states.meta["frame_ms"] == 40.0
    network, _, _ = load_model(model)
    from mooer_tk.encoders.log_mel import LogMel

    features = LogMel(80).features(audio["conf-getpin"])[None]
    expected, lengths, _ = network.encoder(features, torch.tensor([features.shape[1]]))
    assert states["conf-getpin"].shape == (int(lengths), 32)
    np.testing.assert_allclose(states["conf-getpin"], expected[0].detach().numpy(), atol=2e-3, rtol=2e-3)
