"""`mooer train` and `mooer average` as a user runs them: killed at any moment, the same command loses nothing."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mooer_tk.config import load_config
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import sole_writer
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.llm.checkpoint import load_model
from mooer_tk.llm.prompt import Prompt
from mooer_tk.train.checkpoints import best, list_checkpoints, load_weights
from mooer_tk.train.watch import OF_THE_CLOCK

STEPS = {"warm_start": 60, "instruct": 30}
WORDS = ["yes", "no", "please", "hold", "the", "line", "one", "two", "three", "thank you", "goodbye"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_states):
    """Random states for 30 utterances and 6 of them as a dev set; what is said does not matter here."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    arrays = {f"u{i:02d}": rng.standard_normal((int(rng.integers(20, 60)), 8)) for i in range(30)}
    said = {utt: " ".join(rng.choice(WORDS, 4)) for utt in arrays}
    write_states(folder / "train", arrays)
    write_states(folder / "dev", dict(list(arrays.items())[:6]))
    write_table(folder / "text", said)
    # One utterance has no translation.
    write_table(folder / "text.en", {utt: text.title() + "." for utt, text in said.items() if utt != "u07"})
    return folder


@pytest.fixture(scope="module")
def settings(tiny_llm):
    """Dropout everywhere, so that a lost random state shows; a small vocabulary of steps, so that kills hit them."""
    common = [f"llm.model={tiny_llm}", "llm.lora.rank=4", "llm.lora.dropout=0.1"]
    common += [
        "adapter.stack=2",
        "adapter.hidden=16",
        "warm_start.state_dropout=0.1",
        "train.state_dropout=0.1",
        "adapter.handover=posterior",
    ]
    common += ["decode.max_new_tokens=4", "train.ctc_weight=0.3", "train.accumulate=2"]
    for section, kind in (("warm_start", "warm_start"), ("train", "instruct")):
        facts = {"steps": STEPS[kind], "log_every": 1, "eval_every": 5, "keep": 2, "data.batch_utts": 4}
        facts |= {"optim.warmup_steps": 5, "optim.lr": "5e-3"}
        common += [f"{section}.{key}={value}" for key, value in facts.items()]
    return common


def command(kind, corpus, settings, out, init=None):
    asr = f"{corpus}/train:{corpus}/text", f"{corpus}/dev:{corpus}/text"
    ast = f"{corpus}/train:{corpus}/text+{corpus}/text.en:0.5"
    words = ["train", kind, "--out", out, "--source", f"asr:{asr[0]}", "--dev", f"asr:{asr[1]}", "--source"]
    words += [f"ast:{ast}", "--max-skip", "0.2", "--set", *settings]
    return [*words, "--init", init] if init else words


@pytest.fixture(scope="module")
def undisturbed(corpus, settings, tmp_path_factory):
    """Both trainings run to their end without a break: kind -> directory."""
    from mooer_tk.bin.main import main

    folder = tmp_path_factory.mktemp("undisturbed")
    for kind, init in (("warm_start", None), ("instruct", folder / "warm_start" / "adapter.safetensors")):
        assert main([str(word) for word in command(kind, corpus, settings, folder / kind, init)]) == 0
    return {kind: folder / kind for kind in STEPS}


def log_of(folder):
    """The log without what depends on the clock."""
    found = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in OF_THE_CLOCK} for line in found]


def assert_same_run(folder, other):
    assert log_of(folder) == log_of(other)
    checkpoints = [list_checkpoints(one / "checkpoints") for one in (folder, other)]
    assert [state for _, state in checkpoints[0]] == [state for _, state in checkpoints[1]]
    for (path, _), (twin, _) in zip(*checkpoints, strict=True):
        weights, expected = load_weights(path), load_weights(twin)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected), path
    done = [json.loads((one / "done.json").read_text()) for one in (folder, other)]
    assert {k: v for k, v in done[0].items() if k != "fingerprint"} == {
        k: v for k, v in done[1].items() if k != "fingerprint"
    }


@pytest.mark.parametrize("kind", STEPS)
def test_a_killed_training_goes_on_and_equals_an_undisturbed_one(
    kind, corpus, settings, undisturbed, tmp_path, mooer, kill_mooer
):
    init = undisturbed["warm_start"] / "adapter.safetensors" if kind == "instruct" else None
    words = command(kind, corpus, settings, tmp_path / "run", init)
    log = tmp_path / "run" / "train.jsonl"
    # Not before the first checkpoint (step 5, line 6): what starts anew proves nothing.
    lines = random.randint(7, STEPS[kind] * 2 // 3)
    kill_mooer(words, lambda: log.is_file() and log.read_bytes().count(b"\n") >= lines, moment=0.05)
    killed_at = len(log.read_text().splitlines())
    assert killed_at < len(log_of(undisturbed[kind])) and not (tmp_path / "run" / "done.json").exists()
    assert mooer(*words) == 0, f"killed at line {killed_at}"
    assert_same_run(tmp_path / "run", undisturbed[kind])
    if kind == "warm_start":
        final = [load_file(one / "adapter.safetensors") for one in (tmp_path / "run", undisturbed[kind])]
        assert all(torch.equal(final[0][name], final[1][name]) for name in final[1])


def test_a_training_killed_before_its_last_marker_is_finished_by_the_same_command(
    corpus, settings, undisturbed, tmp_path, mooer
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed["warm_start"], run)
    for name in ("done.json", "adapter.safetensors"):
        (run / name).unlink()
    # The fingerprint depends on the command, not on where its output lies.
    assert mooer(*command("warm_start", corpus, settings, run)) == 0
    assert_same_run(run, undisturbed["warm_start"])
    assert (run / "adapter.safetensors").is_file()


def test_the_log_learns_and_shows_what_a_user_asks_of_it(undisturbed):
    for kind, folder in undisturbed.items():
        log = log_of(folder)
        train = [line for line in log if line["kind"] == "train"]
        assert [line["step"] for line in train] == list(range(1, STEPS[kind] + 1))
        losses = [line["loss"] for line in train]
        assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:4])
        assert [line["step"] for line in log if line["kind"] == "dev"][-1] == STEPS[kind]
        assert max(line["epoch"] for line in train) >= 1
        assert {"lr", "grad_norm"} <= train[0].keys()
        assert len(list_checkpoints(folder / "checkpoints")) in (2, 3)
        assert (folder / "config.yaml").is_file() and "git" in json.loads((folder / "run.json").read_text())


def test_the_utterance_without_a_translation_is_named(undisturbed):
    for folder in undisturbed.values():
        assert (folder / "skipped_train.tsv").read_text() == "ast:u07\tno translation\n"
        assert (folder / "skipped_dev.tsv").read_text() == ""


def test_a_finished_training_is_not_run_again(corpus, settings, undisturbed, mooer):
    folder = undisturbed["warm_start"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert mooer(*command("warm_start", corpus, settings, folder)) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_settings_in_the_same_place_start_anew(corpus, settings, undisturbed, tmp_path, mooer, capsys):
    run = tmp_path / "run"
    shutil.copytree(undisturbed["warm_start"], run)
    short = [*settings, "warm_start.steps=3", "warm_start.seed=1"]
    assert mooer(*command("warm_start", corpus, short, run)) == 0
    assert "starting anew; its checkpoints are now in" in capsys.readouterr().err
    assert len(list(run.glob("checkpoints.*/step-*"))) > 0
    assert [state["step"] for _, state in list_checkpoints(run / "checkpoints")] == [3]
    assert [line["step"] for line in log_of(run)] == [1, 2, 3, 3]


def test_a_killed_run_of_other_settings_takes_the_marker_with_it(
    corpus, settings, tmp_path, mooer, monkeypatch, capsys
):
    """Else the first settings would find themselves up to date, beside checkpoints of the others."""
    short = [*settings, "warm_start.steps=1"]
    assert mooer(*command("warm_start", corpus, short, tmp_path / "a")) == 0
    monkeypatch.setattr("mooer_tk.bin.train.Trainer.run", lambda trainer: (_ for _ in ()).throw(KeyboardInterrupt))
    assert mooer(*command("warm_start", corpus, [*short, "warm_start.optim.lr=1e-3"], tmp_path / "a")) == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert mooer(*command("warm_start", corpus, short, tmp_path / "a")) == 0
    assert "up to date" not in capsys.readouterr().err


def test_the_average_of_the_best_is_exported_and_decodes(undisturbed, corpus, tmp_path, mooer):
    out = tmp_path / "exp" / "model"
    assert mooer("average", undisturbed["instruct"], out, "--best", 2) == 0
    chosen = [path for path, _ in best(list_checkpoints(undisturbed["instruct"] / "checkpoints"), 2)]
    weights = [load_weights(path) for path in chosen]
    lora = load_file(out / "lora" / "adapter_model.safetensors")
    adapter = load_file(out / "adapter.safetensors")
    assert len(lora) == 2 * 7 * 2
    for name, tensor in adapter.items():
        mean = sum(one[name] for one in weights) / 2 if tensor.is_floating_point() else weights[0][name]
        torch.testing.assert_close(tensor, mean)
    for name, tensor in lora.items():
        inside = "llm." + name.replace(".weight", ".default.weight")
        torch.testing.assert_close(tensor, sum(one[inside] for one in weights) / 2)
        assert not torch.equal(tensor, weights[0][inside])
    assert json.loads((out / "info.json").read_text())["averaged"] == [path.name for path in chosen]
    load_model(out)
    assert mooer("decode", corpus / "dev", tmp_path / "hyp", "--model", tmp_path / "exp", "--set", "decode.beam=2") == 0
    assert len((tmp_path / "hyp" / "hyp").read_text().splitlines()) == 6


def test_what_the_ctc_loss_leaves_out_is_told(corpus, settings, undisturbed, tmp_path, mooer, capsys):
    """Six tokens do not fit an embedding of 400 ms; words that the warm start never saw are not in its head."""
    short = [*settings, "warm_start.steps=1"]
    assert mooer(*command("warm_start", corpus, [*short, "adapter.stack=20"], tmp_path / "slow")) == 0
    assert "have more targets than frames: no loss: u" in capsys.readouterr().err
    said = (corpus / "text").read_text().replace("please", "marmalade")
    (tmp_path / "text").write_text(said)
    words = [
        "train",
        "instruct",
        "--out",
        tmp_path / "run",
        "--init",
        undisturbed["warm_start"] / "adapter.safetensors",
    ]
    words += ["--source", f"asr:{corpus}/train:{tmp_path}/text", "--dev", f"asr:{corpus}/dev:{tmp_path}/text"]
    assert mooer(*words, "--set", *settings, "train.steps=1") == 0
    assert "are not in the head: left out of its loss" in capsys.readouterr().err


def test_a_source_of_a_wrong_form_is_a_user_error(corpus, settings, tmp_path, mooer, capsys):
    words = ["train", "warm_start", "--out", tmp_path / "run", "--source", "asr", "--dev", f"asr:{corpus}/dev:text"]
    assert mooer(*words, "--set", *settings) == 2
    assert "'asr' is not of the form" in capsys.readouterr().err


def test_a_warm_start_without_a_transcript_is_a_user_error(corpus, settings, tmp_path, mooer, capsys):
    words = ["train", "warm_start", "--out", tmp_path / "run", "--max-skip", "0.2"]
    for kind, folder in (("--source", "train"), ("--dev", "dev")):
        words += [kind, f"ast:{corpus}/{folder}:{corpus}/text.en"]
    assert mooer(*words, "--set", *settings) == 2
    assert "the warm start learns transcripts, and --source or --dev has none" in capsys.readouterr().err


def test_averaging_what_was_not_trained_is_a_user_error(tmp_path, mooer, capsys):
    assert mooer("average", tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere holds no checkpoint to average: run the training stage first" in capsys.readouterr().err


def test_a_missing_or_misshaped_warm_start_is_refused(corpus, settings, undisturbed, tmp_path, mooer, capsys):
    assert mooer(*command("instruct", corpus, settings, tmp_path / "a", tmp_path / "nowhere.safetensors")) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err
    init = undisturbed["warm_start"] / "adapter.safetensors"
    assert mooer(*command("instruct", corpus, [*settings, "adapter.hidden=24"], tmp_path / "b", init)) == 2
    assert "adapter.linear1.weight is (16, 16), expected (24, 16)" in capsys.readouterr().err


def test_milliseconds_an_embedding_become_states(corpus, settings, tmp_path, mooer, capsys):
    short = [*settings, "warm_start.steps=1", "adapter.stack=5"]
    assert mooer(*command("warm_start", corpus, [*short, "adapter.frame_ms=60"], tmp_path / "a")) == 0
    weights = load_file(tmp_path / "a" / "adapter.safetensors")
    assert weights["adapter.linear1.weight"].shape == (16, 3 * 8)
    assert load_config(tmp_path / "a" / "config.yaml").adapter.stack == 3
    assert mooer(*command("warm_start", corpus, [*short, "adapter.frame_ms=50"], tmp_path / "b")) == 2
    assert "no multiple of the 20 ms" in capsys.readouterr().err


def test_a_trained_model_is_gone_on_with(corpus, settings, undisturbed, tmp_path, mooer):
    """Its parts and sizes count, whatever the config says of them, and its LoRA is trained, not merged away."""
    assert mooer("average", undisturbed["instruct"], tmp_path / "model", "--best", 1) == 0
    own = Prompt(instructions={"asr": "Write it down. ", "ast": "In English. "})
    own.save(tmp_path / "model" / "prompt.json")
    still = [
        *settings,
        "train.steps=1",
        "train.optim.lr=0",
        "adapter.hidden=99",
        "llm.lora.rank=7",
        "prompt=chatml_lead",
    ]
    words = command("instruct", corpus, still, tmp_path / "still")
    assert mooer(*words, "--init-model", tmp_path / "model") == 0
    moving = [*settings, "train.steps=2"]
    assert mooer(*command("instruct", corpus, moving, tmp_path / "on"), "--init-model", tmp_path / "model") == 0
    # A prompt that has no name in the package is kept too.
    assert Prompt.load(tmp_path / "on" / "prompt.json") == Prompt.load(tmp_path / "model" / "prompt.json") == own
    start = load_file(tmp_path / "model" / "lora" / "adapter_model.safetensors")
    for run, same in (("still", True), ("on", False)):
        ((path, _),) = best(list_checkpoints(tmp_path / run / "checkpoints"), 1)
        now = load_weights(path)
        for name, tensor in start.items():
            inside = "llm." + name.replace(".weight", ".default.weight")
            assert torch.equal(now[inside], tensor) == same, name
    resolved = load_config(tmp_path / "still" / "config.yaml")
    assert (resolved.adapter.hidden, resolved.llm.lora.rank, resolved.prompt) == (16, 4, "chatml")


def test_a_frozen_llm_trains_the_adapter_alone(corpus, settings, undisturbed, tmp_path, mooer):
    frozen = [*settings, "llm.lora.rank=0", "train.steps=2", "train.checkpointing=true"]
    init = undisturbed["warm_start"] / "adapter.safetensors"
    assert mooer(*command("instruct", corpus, frozen, tmp_path / "run", init)) == 0
    ((path, _),) = best(list_checkpoints(tmp_path / "run" / "checkpoints"), 1)
    assert not [name for name in load_weights(path) if name.startswith("llm.")]
    assert mooer("average", tmp_path / "run", tmp_path / "exp" / "model") == 0
    assert mooer("decode", corpus / "dev", tmp_path / "hyp", "--model", tmp_path / "exp", "--set", "decode.beam=1") == 0


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, write_prompts, toy_whisper):
    """Audio shards of a dozen recordings, their text, and settings for a toy encoder that runs in training."""
    from mooer_tk.bin.main import main

    folder = tmp_path_factory.mktemp("recordings")
    data = write_prompts(folder / "data")
    encoder = [f"encoder.model={toy_whisper}", "encoder.window_s=2"]
    for options, out in ((["--audio"], "audio"), ([], "states")):
        assert main(["states", str(data), str(folder / out), *options, "--set", *encoder]) == 0
    return folder, encoder


def on_recordings(recordings, kind, shards, out, *more):
    folder, encoder = recordings
    line = f"asr:{folder}/{shards}:{folder}/data/text"
    return ["train", kind, "--out", out, "--source", line, "--dev", line, "--set", *encoder, *more]


def test_the_encoder_in_training_gives_what_cached_states_give(recordings, settings, tmp_path, mooer):
    short = [*settings, "warm_start.steps=12", "warm_start.state_dropout=0"]
    for shards in ("audio", "states"):
        assert mooer(*on_recordings(recordings, "warm_start", shards, tmp_path / shards, *short)) == 0
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("audio", "states")]
    # The cache is float16, the audio 16 bit.
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


def test_milliseconds_an_embedding_are_kept_as_states_where_the_encoder_runs_in_training(
    recordings, settings, tmp_path, mooer
):
    short = [*settings, "warm_start.steps=1", "adapter.frame_ms=60"]
    assert mooer(*on_recordings(recordings, "warm_start", "audio", tmp_path / "run", *short)) == 0
    assert load_file(tmp_path / "run" / "adapter.safetensors")["adapter.linear1.weight"].shape == (16, 3 * 16)
    assert load_config(tmp_path / "run" / "config.yaml").adapter.stack == 3


def test_speech_that_is_changed_every_pass_is_the_same_for_any_number_of_readers(recordings, settings, tmp_path, mooer):
    changed = [*settings, "train.steps=6", "train.augment.speed=[0.9, 1.0, 1.1]", "train.augment.time_masks=2"]
    changed += ["train.augment.freq_masks=1", "train.augment.time_share=0.2", "adapter.handover=raw"]
    for workers in (0, 2):
        words = on_recordings(recordings, "instruct", "audio", tmp_path / str(workers), *changed)
        assert mooer(*words, f"train.data.workers={workers}") == 0
    assert log_of(tmp_path / "0") == log_of(tmp_path / "2")
    plain = on_recordings(recordings, "instruct", "audio", tmp_path / "plain", *settings, "train.steps=6")
    assert mooer(*plain, "adapter.handover=raw") == 0
    assert log_of(tmp_path / "plain") != log_of(tmp_path / "0")


def test_audio_is_not_changed_where_states_are_cached_and_the_two_are_not_mixed(
    recordings, corpus, settings, tmp_path, mooer, capsys
):
    words = on_recordings(recordings, "warm_start", "states", tmp_path / "a", *settings)
    assert mooer(*words, "warm_start.augment.speed=[0.9]") == 2
    assert "states are cached: make shards with mooer states --audio" in capsys.readouterr().err
    mixed = [*on_recordings(recordings, "warm_start", "audio", tmp_path / "b", *settings)]
    assert mooer(*mixed, "--source", f"asr:{corpus}/train:{corpus}/text") == 2
    assert "holds encoder states, and here audio is needed" in capsys.readouterr().err


def test_a_damaged_recording_costs_itself_alone_and_is_named(recordings, settings, tmp_path, mooer, capsys):
    folder = shutil.copytree(recordings[0], tmp_path / "copy")
    hurt = ShardReader(folder / "audio").entries["tt-weasels"]
    with (folder / "audio" / hurt.shard).open("r+b") as tar:
        tar.seek(hurt.offset + 100)
        tar.write(b"\xff" * 50)
    (tmp_path / "text").write_text((folder / "data" / "text").read_text())
    dev = f"asr:{folder}/audio:{tmp_path}/text"
    words = ["train", "warm_start", "--out", tmp_path / "run", "--source", f"asr:{folder}/audio:{tmp_path}/text"]
    words += ["--dev", dev, "--set", *recordings[1], *settings, "warm_start.steps=4"]
    assert mooer(*words) == 0
    named = (tmp_path / "run" / "lost.tsv").read_text().splitlines()
    assert {line.split("\t")[0] for line in named} == {"tt-weasels"} and "damaged at 'tt-weasels'" in named[0]
    told = capsys.readouterr().err
    assert "1 utterances cannot be read" in told and "dev set: 1 utterances cannot be read: tt-weasels" in told
    words[words.index("--out") + 1] = tmp_path / "strict"
    assert mooer(*words, "--max-skip", "0.05") == 2
    assert re.search(r"1 utterances .*strict/lost\.tsv.*, 0 may be lost.*--max-skip", capsys.readouterr().err)
    instruct = [*words[:1], "instruct", *words[2:], "train.steps=2", "adapter.handover=raw"]
    instruct[instruct.index("--out") + 1] = tmp_path / "llm"
    assert mooer(*instruct) == 0


def test_a_dry_run_tells_what_a_run_would_take_and_writes_nothing(corpus, settings, tmp_path, mooer, capsys):
    before = sorted(corpus.rglob("*"))
    for kind in STEPS:
        words = command(kind, corpus, [*settings, "adapter.handover=raw"], tmp_path / "run")
        assert mooer(*words, "--dry-run") == 0
        printed = capsys.readouterr().out
        assert "59 training examples, 0.01 h; 6 dev examples" in printed
        assert re.search(r"one step +loss \d+\.\d+ .*memory_gib", printed)
        assert ("GiB a GPU" in printed) == (kind == "instruct")
    assert not (tmp_path / "run").exists() and sorted(corpus.rglob("*")) == before
    wrong = command("instruct", corpus, [*settings, "adapter.handover=raw", "train.engine=deepsped"], tmp_path)
    assert mooer(*wrong, "--dry-run") == 2
    assert re.search("train.engine 'deepsped' is unknown.*'deepspeed'", capsys.readouterr().err)


def test_two_runs_in_one_place_do_not_meet(corpus, settings, tmp_path, mooer, capsys):
    with sole_writer(tmp_path / "run"):
        assert mooer(*command("warm_start", corpus, settings, tmp_path / "run")) == 2
    assert f"another process is writing to {tmp_path}/run (process " in capsys.readouterr().err
    assert not (tmp_path / "run" / "train.jsonl").exists()


def test_a_run_goes_on_with_more_readers_and_another_log(corpus, settings, undisturbed, tmp_path, mooer, capsys):
    run = tmp_path / "run"
    shutil.copytree(undisturbed["warm_start"], run)
    other = [*settings, "warm_start.data.workers=1", "warm_start.log_every=7", "warm_start.keep_last=3"]
    assert mooer(*command("warm_start", corpus, other, run)) == 0
    assert "is up to date" in capsys.readouterr().err
