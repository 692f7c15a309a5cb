"""Decoding a directory of states: whole, repeatable, and going on where it was stopped."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mooer_tk.config import dump
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import mark_done, write_text
from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.decode.ctc import decode_ctc
from mooer_tk.decode.directory import states_batch
from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import SpeechLLM

SET = ["--set", "decode.beam=2", "decode.max_new_tokens=8", "decode.tokens_per_second=5", "decode.batch_utts=2"]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("posterior").eval()


@pytest.fixture(scope="module")
def exported(model, export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp")
    export(model, folder / "model")
    return folder


@pytest.fixture(scope="module")
def states(write_states, tmp_path_factory):
    rng = np.random.default_rng(3)
    lengths = {"a": 30, "b": 12, "c": 45, "d": 7, "e": 21}
    arrays = {utt: 3 * rng.standard_normal((frames, 8)) for utt, frames in lengths.items()}
    return write_states(tmp_path_factory.mktemp("states"), arrays)


def test_every_utterance_gets_one_hypothesis_and_its_n_best(tmp_path, mooer, exported, states):
    assert mooer("decode", states, tmp_path, "--model", exported, "--nbest", 2, *SET) == 0
    hyps = read_table(tmp_path / "hyp")
    assert list(hyps) == sorted("abcde")
    lines = [json.loads(line) for line in (tmp_path / "nbest.jsonl").read_text().splitlines()]
    lists = {line["utt"]: line["nbest"] for line in lines if "utt" in line}
    assert lists.keys() == hyps.keys()
    for utt, hypotheses in lists.items():
        assert hyps[utt] == " ".join(hypotheses[0]["text"].split())
        assert len(hypotheses) == 2 and hypotheses[0]["score"] >= hypotheses[1]["score"]
    guards = json.loads((tmp_path / "guards.json").read_text())
    assert guards["utterances"] == 5
    # The random model never ends by itself, so every answer is ended and counted.
    assert guards["capped"] == 5 and guards["capped_utts"] == sorted("abcde")


def test_an_interrupted_decode_goes_on_and_equals_an_undisturbed_one(tmp_path, mooer, exported, states, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command = ("--model", exported, *SET)
    assert mooer("decode", states, whole, *command) == 0
    monkeypatch.setattr(SpeechLLM, "prefix", interrupted_after(2, SpeechLLM.prefix))
    assert mooer("decode", states, stopped, *command) == 130
    monkeypatch.undo()
    assert not (stopped / "hyp").exists()
    # A kill may tear the last line.
    text = (stopped / "nbest.jsonl").read_text()
    assert len(text.splitlines()) == 5
    (stopped / "nbest.jsonl").write_text(text[:-20])
    counted = []
    monkeypatch.setattr(SpeechLLM, "prefix", counting(counted, SpeechLLM.prefix))
    assert mooer("decode", states, stopped, *command) == 0
    assert sum(counted) == 2, "utterances that were decoded before were decoded again"
    assert (stopped / "hyp").read_bytes() == (whole / "hyp").read_bytes()
    assert (stopped / "guards.json").read_bytes() == (whole / "guards.json").read_bytes()
    # Once more: nothing is left to do.
    assert mooer("decode", states, stopped, *command) == 0
    assert sum(counted) == 2


def interrupted_after(calls, function):
    left = [calls]

    def call(self, batch):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return function(self, batch)

    return call


def counting(utterances, function):
    def call(self, batch):
        utterances.append(len(batch.utts))
        return function(self, batch)

    return call


def test_other_settings_decode_anew(tmp_path, mooer, exported, states):
    assert mooer("decode", states, tmp_path, "--model", exported, *SET) == 0
    before = (tmp_path / "hyp").read_bytes()
    assert mooer("decode", states, tmp_path, "--model", exported, *SET, "decode.max_new_tokens=3") == 0
    assert (tmp_path / "hyp").read_bytes() != before


def test_both_tasks_are_written_apart(tmp_path, mooer, exported, states):
    assert mooer("decode", states, tmp_path, "--model", exported, "--task", "asr_ast", *SET) == 0
    assert list(read_table(tmp_path / "hyp.asr")) == list(read_table(tmp_path / "hyp.ast")) == sorted("abcde")


def test_what_is_missing_is_a_user_error(tmp_path, mooer, exported, states, capsys):
    assert mooer("decode", states, tmp_path / "out", "--model", tmp_path / "nowhere") == 2
    assert mooer("decode", tmp_path / "nowhere", tmp_path / "out", "--model", exported) == 2
    assert mooer("decode", states, tmp_path / "out", "--model", exported, "--set", "decode.baem=2") == 2
    errors = capsys.readouterr().err
    assert "nowhere holds no exported model" in errors and "stage 3" in errors and "'beam'" in errors


def test_the_warm_start_alone_decodes_by_its_best_path(tmp_path, mooer, model, states):
    warm = tmp_path / "warm"
    write_text(warm / "config.yaml", dump(model.config))
    parts = torch.nn.ModuleDict({"adapter": model.adapter, "head": model.head})
    save_file(parts.state_dict(), warm / "adapter.safetensors")
    mark_done(warm, "x")
    assert mooer("decode", states, tmp_path / "out", "--warm-start", warm) == 0
    hyps = read_table(tmp_path / "out" / "hyp")
    shards = ShardReader(states)
    assert sorted(hyps) == sorted(shards)
    for utt in shards:
        batch = states_batch([utt], shards, "asr")
        (ids,) = model.head.greedy(*model.adapter(batch.states, batch.lengths))
        assert hyps[utt] == " ".join(model.tokenizer.decode(ids).split())
    (warm / "adapter.safetensors").write_bytes(b"broken")
    mark_done(warm, "y")
    with pytest.raises(UserError, match=r"adapter\.safetensors"):
        decode_ctc(states, warm, tmp_path / "out")
