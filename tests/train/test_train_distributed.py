"""Several real processes (torchrun, gloo): the same steps as one, no hang at uneven data, exact resume after a kill."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.llm.checkpoint import load_model
from mooer_tk.train.checkpoints import list_checkpoints, load_weights
from mooer_tk.train.watch import OF_THE_CLOCK

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["yes", "no", "please", "hold", "the", "line", "one", "two"]
DEEPSPEED = "train.engine=deepspeed"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_states):
    """Eight utterances of different lengths, in three shards: two processes cannot share them evenly."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    arrays = {f"u{i}": rng.standard_normal((15 + 6 * i, 8)) for i in range(8)}
    parts = [list(arrays.items())[i : i + 3] for i in (0, 3, 6)]
    write_states(folder / "train", *map(dict, parts))
    write_table(folder / "text", {utt: " ".join(rng.choice(WORDS, 1 + i % 4)) for i, utt in enumerate(arrays)})
    return folder


@pytest.fixture(scope="module")
def words(corpus, tiny_llm):
    """words(out, key=value, ...) -> the arguments of a training of adapter and LoRA in float32."""
    source = f"asr:{corpus}/train:{corpus}/text"
    settings = [f"llm.model={tiny_llm}", "llm.lora.rank=4", "adapter.stack=2", "adapter.hidden=16"]
    settings += ["llm.lora.dropout=0", "adapter.handover=raw", "train.precision=float32", "decode.max_new_tokens=3"]
    settings += ["train.steps=6", "train.log_every=1", "train.eval_every=3", "train.optim.warmup_steps=2"]
    settings += ["train.optim.lr=5e-3"]

    def make(out, *more):
        given = ["train", "instruct", "--out", out, "--source", source, "--dev", source, "--set", *settings, *more]
        return [str(word) for word in given]

    return make


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def popen(command, **settings):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **settings}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start(words, processes):
    """Start `mooer` in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "mooer_tk.bin.main", *words]
    return popen(command)


def kill(process):
    """Kill (-9) the launcher and all that it has started: its processes would outlive it."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return process.communicate()[0]


def finish(words, processes, status=0):
    process = start(words, processes)
    try:
        output = process.communicate(timeout=240)[0]
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs: {kill(process)[-4000:]}")
    assert (process.returncode == 0) == (status == 0), output[-4000:]
    return output


def log_of(folder):
    found = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in OF_THE_CLOCK} for line in found]


def last_weights(folder):
    return load_weights(list_checkpoints(folder / "checkpoints")[-1][0])


SPLITS = {
    # Eight utterances are one step's batch, in every one of these ways.
    "one": (1, ["train.data.batch_utts=8"]),
    "two": (2, ["train.data.batch_utts=2", "train.accumulate=2"]),
    "packed": (2, ["train.data.batch_utts=4", "train.data.pack_positions=100"]),
    "zero-2": (2, ["train.data.batch_utts=2", "train.accumulate=2", DEEPSPEED]),
    "zero-3": (2, ["train.data.batch_utts=2", "train.accumulate=2", DEEPSPEED, "train.zero_stage=3"]),
}


@pytest.fixture(scope="module")
def split_run(words, tmp_path_factory):
    """split_run(name) -> the directory of a run of `SPLITS`, which is made once."""
    folder = tmp_path_factory.mktemp("split")

    @cache
    def run(name):
        processes, settings = SPLITS[name]
        finish(words(folder / name, *settings), processes)
        return folder / name

    return run


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "one"])
def test_a_step_is_the_same_for_any_split_into_processes_and_micro_batches(split_run, name):
    """The loss is normalised by the answer tokens of the whole global batch, padded, packed or sharded."""
    one, other = split_run("one"), split_run(name)
    losses = [[line["loss"] for line in log_of(run) if line["kind"] == "train"] for run in (one, other)]
    assert len(losses[0]) == 6 and losses[0][-1] < 0.95 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    dev = [[(line["loss"], line["wer"]) for line in log_of(run) if line["kind"] == "dev"] for run in (one, other)]
    np.testing.assert_allclose(dev[1], dev[0], atol=2e-4)
    expected, found = last_weights(one), last_weights(other)
    assert expected.keys() == found.keys()
    for weight, twin in zip(expected.values(), (found[key] for key in expected), strict=True):
        # AdamW makes steps of a size out of gradients near 0, whatever their rounding.
        torch.testing.assert_close(twin, weight, atol=1e-4, rtol=0)


def test_only_what_is_trained_is_in_a_checkpoint_and_the_first_process_writes_it(split_run):
    for run in map(split_run, SPLITS):
        path, state = list_checkpoints(run / "checkpoints")[-1]
        assert all(".lora_" in name or name.startswith("adapter.") for name in load_weights(path))
        assert state["processes"] == (1 if run.name == "one" else 2)
        assert (path / "optimizer.pt").is_file() == ("zero" not in run.name)
    parts = list((list_checkpoints(split_run("zero-2") / "checkpoints")[-1][0] / "engine").glob("*optim_states.pt"))
    assert len(parts) == 2


def test_a_model_trained_in_parts_is_exported_whole(split_run, mooer, tmp_path):
    """ZeRO-3 leaves each process a piece of every weight; peers' users could not put them together again."""
    exported = {}
    for name in ("one", "zero-3"):
        assert mooer("average", split_run(name), tmp_path / name, "--last", 1) == 0
        exported[name] = load_file(tmp_path / name / "lora" / "adapter_model.safetensors")
        load_model(tmp_path / name)
    for key, weight in exported["one"].items():
        torch.testing.assert_close(exported["zero-3"][key], weight, atol=1e-4, rtol=0)


KILLED = {"torch": [], "zero-2": [DEEPSPEED]}


@pytest.mark.parametrize("engine", ["torch", pytest.param("zero-2", marks=pytest.mark.slow)])
def test_processes_killed_at_any_moment_go_on_exactly(words, tmp_path, engine):
    """Uneven batches, dropout, two passes; the difference to an undisturbed run is 0.0."""
    settings = ["train.steps=24", "train.eval_every=6", "train.data.batch_utts=3", "llm.lora.dropout=0.2"]
    settings += ["train.state_dropout=0.2", "train.accumulate=2", "train.save_every=2", *KILLED[engine]]
    finish(words(tmp_path / "whole", *settings), 2)
    process = start(words(tmp_path / "parts", *settings), 2)
    log, lines = tmp_path / "parts" / "train.jsonl", random.randint(4, 18)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and log.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.05))
    output = kill(process)
    assert not (tmp_path / "parts" / "done.json").exists(), output[-3000:]
    assert len(log_of(tmp_path / "whole")) > len(log.read_text().splitlines()) >= lines, output[-3000:]
    again = finish(words(tmp_path / "parts", *settings), 2)
    assert "going on from" in again, f"killed at line {lines}: {again[-3000:]}"
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole"), f"killed at line {lines}"
    weights, expected = last_weights(tmp_path / "parts"), last_weights(tmp_path / "whole")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_what_one_process_loses_counts_for_all_and_is_named_once(words, corpus, tmp_path):
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    entry = ShardReader(folder / "train").entries["u4"]
    with (folder / "train" / entry.shard).open("r+b") as tar:
        tar.seek(entry.offset)
        tar.write(b"\xff" * 8)
    settings = [word.replace(str(corpus), str(folder)) for word in words("OUT", "train.data.batch_utts=2")]
    for share, status in (("0.13", 0), ("0.12", 1)):
        run = tmp_path / share
        output = finish([*(str(run) if word == "OUT" else word for word in settings), "--max-skip", share], 2, status)
        assert [line.split("\t")[0] for line in (run / "lost.tsv").read_text().splitlines()] == ["u4"]
        assert (output.count("error: 1 utterances of the training data cannot be read") == 2) == (status == 1)


def test_a_run_is_not_gone_on_with_in_another_number_of_processes(words, split_run, tmp_path):
    shutil.copytree(split_run("two"), tmp_path / "run")
    (tmp_path / "run" / "done.json").unlink()
    output = finish(words(tmp_path / "run", *SPLITS["two"][1]), 1, status=1)
    assert "is of a run in 2 processes, this one has 1" in output


def test_deepspeed_needs_no_launcher_for_one_process(words, split_run, tmp_path):
    settings = ["train.data.batch_utts=8", DEEPSPEED]
    process = popen([sys.executable, "-m", "mooer_tk.bin.main", *words(tmp_path / "run", *settings)])
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output[-4000:]
    losses = [[line["loss"] for line in log_of(run)] for run in (tmp_path / "run", split_run("one"))]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_deepspeeds_own_launcher_starts_the_same_run(words, split_run, tmp_path):
    program = str(Path(sys.executable).with_name("deepspeed"))
    hosts = ["--num_accelerators", "2", "--master_port", str(free_port()), "--no_local_rank"]
    command = [program, *hosts, "--module", "mooer_tk.bin.main", *words(tmp_path / "run", *SPLITS["zero-2"][1])]
    process = popen(command, DS_ACCELERATOR="cpu")
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output[-4000:]
    assert log_of(tmp_path / "run") == log_of(split_run("zero-2"))


def test_processes_of_slurm_find_each_other():
    """srun sets other variables than torch reads."""
    # A process that ends in company without leaving it is aborted by gloo at times.
    script = (
        "from mooer_tk.train.processes import Processes as P; p = P.join();"
        " print(p.rank, p.sums({'x': p.rank + 1.0})); p.leave()"
    )
    facts = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    some = [popen([sys.executable, "-c", script], **facts, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(3)]
    said = [process.communicate(timeout=120)[0] for process in some]
    assert [process.returncode for process in some] == [0] * 3, said
    assert [one.splitlines()[-1] for one in said] == [f"{i} {{'x': 6.0}}" for i in range(3)], said


def test_what_no_process_uses_rests_as_it_does_alone(tmp_path):
    """Decoders in CTC's first steps, experts without a frame: zeros for gradients would move them by momentum."""
    script = tmp_path / "steps.py"
    script.write_text(
        "import torch\n"
        "from mooer_tk.config import TrainConfig\n"
        "from mooer_tk.train.engine import TorchEngine\n"
        "from mooer_tk.train.processes import Processes\n"
        "company = Processes.join()\n"
        "module = torch.nn.ParameterDict({name: torch.ones(2) for name in 'ab'})\n"
        "groups = [{'params': list(module.parameters()), 'lr_scale': 1.0}]\n"
        "engine = TorchEngine(module, groups, TrainConfig(), company)\n"
        "for used in ('ab', 'ab', 'a', 'a', 'ab'):\n"
        "    # The second process never uses b.\n"
        "    loss = module['a'].square().sum() / company.size\n"
        "    engine.backward(loss + module['b'].square().sum() if 'b' in used and company.main else loss)\n"
        "    engine.step(0.1)\n"
        "print([round(x, 6) for x in (*module['a'].tolist(), *module['b'].tolist())])\n"
        "company.leave()\n"
    )
    alone = popen([sys.executable, str(script)]).communicate(timeout=120)[0].splitlines()[-1]
    facts = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    some = [popen([sys.executable, str(script)], RANK=str(rank), **facts) for rank in range(2)]
    assert [process.communicate(timeout=120)[0].splitlines()[-1] for process in some] == [alone] * 2
