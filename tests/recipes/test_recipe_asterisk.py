"""The embedded recipe from stage 0 to 9 on a handful of prompts: run, killed, run again, and asked for a transcript."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.recipes.conftest import environment

OPTIONS = [
    "--config",
    "conf/smoke.yaml",
    "--nj",
    "1",
    "--tts-utts",
    "12",
    "--max-utts",
    "6",
    "--max-skip",
    "0.5",
    "--average",
    "2",
]


def run(recipe: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "run.sh", *OPTIONS, *options], cwd=recipe, env=environment(recipe), text=True, capture_output=True
    )


def test_an_unknown_stage_or_option_or_key_is_refused_before_any_work(recipe: Path) -> None:
    for options, word in (
        (["--stage", "12"], "unknown stage"),
        (["--stage", "5", "--stop-stage", "3"], "behind"),
        (["--sage", "1"], "--stage"),
        (["--warm-start", "no", "--stage", "9"], "unexpected 'no'"),
        (["--labels", "none"], "pseudo or human"),
        (["--ast-langs", "e$(touch x)s"], "no language code"),
        (["--set", "train.stepz=3"], "'train.stepz': did you mean 'steps'"),
    ):
        refused = run(recipe, *options)
        assert refused.returncode == 2, refused.stderr
        assert word in refused.stderr
    assert not (recipe / "dump").exists()
    assert not (recipe / "x").exists()


def test_stages_0_to_9_survive_a_kill_and_end_in_a_results_row(recipe: Path) -> None:
    log = recipe / "exp" / "mooer" / "train" / "train.jsonl"
    checkpoint = recipe / "exp" / "mooer" / "train" / "checkpoints" / "step-000002"
    with (recipe / "out.txt").open("w") as out:
        # A process group of its own: kill -9 must take the whole tree, as a power cut would.
        process = subprocess.Popen(
            ["bash", "run.sh", *OPTIONS],
            cwd=recipe,
            env=environment(recipe),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None and not checkpoint.exists():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    told = (recipe / "out.txt").read_text()
    assert process.returncode == -signal.SIGKILL, told[-3000:]
    assert not (recipe / "exp" / "mooer" / "model").exists()

    again = run(recipe)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-3000:]
    assert "going on from" in again.stderr
    assert "data/en/train_pl is up to date" in again.stderr
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"train"' in line]
    assert steps == [1, 2, 3, 4]
    results = (recipe / "RESULTS.md").read_text()
    for words in (
        "| asr en | LLM | WER %",
        "warm start alone",
        "| ast es | LLM | BLEU",
        "teacher",
        "mooer.sh",
        "whisper-en/1",
    ):
        assert words in results, words
    assert (recipe / "exp/mooer/train/loss.png").stat().st_size > 5000
    assert (recipe / "data/es/test_pl/report.md").read_text().count("WER") >= 1


def test_a_finished_stage_is_passed_over_and_one_stage_can_be_run_alone(recipe: Path) -> None:
    before = (recipe / "RESULTS.md").read_text()
    alone = run(recipe, "--stage", "7", "--stop-stage", "9")
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert "exp/mooer/decode/asr_en is up to date" in alone.stderr
    assert "stage 6" not in alone.stderr
    rows = [line for line in (recipe / "RESULTS.md").read_text().splitlines() if line.startswith("| mooer")]
    assert len(rows) == sum(line.startswith("| mooer") for line in before.splitlines())


def test_the_model_transcribes_files_of_any_kind(recipe: Path, prompts: dict) -> None:
    path, _ = prompts["agent-incorrect"]
    done = subprocess.run(
        ["mooer", "transcribe", str(path), "missing.wav", "--model", "exp/mooer", "--task", "asr_ast", "--json"],
        cwd=recipe,
        env=environment(recipe),
        text=True,
        capture_output=True,
    )
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert set(good["texts"]) == {"asr", "ast"}
    assert "missing file" in bad["error"]
