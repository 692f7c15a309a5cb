"""The recognisers' recipe from stage 1 to 9 on a handful of prompts: dense, UME, their rows and pictures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.recipes.conftest import environment

SMALL = "model.dim=32 model.layers=1 model.ffn=48 model.decoder_layers=1 model.right_layers=1 model.decoder_ffn=48"
SMALL += " loss.ctc_only_steps=1 train.steps=2 train.eval_every=1 train.log_every=1 train.optim.warmup_steps=1"
OPTIONS = ["--train-sets", "en/train:2", "--tts-utts", "0", "--max-utts", "8", "--max-skip", "0.5", "--experts", "3"]
OPTIONS += ["--modes", "ctc_greedy attention_rescoring", "--chunks", "full 4", "--average", "1", "--set", SMALL]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "run.sh", *OPTIONS, *options]
    return subprocess.run(command, cwd=folder, env=environment(folder), text=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(recipe: Path) -> Path:
    """The recipe beside that of the LLM."""
    (recipe.parent / "u2pp_moe" / "RESULTS.md").unlink(missing_ok=True)
    return recipe.parent / "u2pp_moe"


@pytest.mark.slow
def test_all_stages_leave_rows_and_pictures(folder: Path, sounds: Path) -> None:
    done = run(folder, "--stage", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    exp = folder / "exp" / "u2pp"
    for picture in ("dense/train/loss.png", "ume/train/loss.png", "ume/train/expert_load.png"):
        assert (exp / picture).is_file()
    rows = (folder / "RESULTS.md").read_text(encoding="utf-8")
    for system in ("dense", "ume", "dense_on"):
        system = f"u2pp/{system}"
        for search in ("ctc_greedy-full", "ctc_greedy-4", "attention_rescoring-full", "attention_rescoring-4"):
            assert f"| {system} | en test | {search} | WER % |" in rows
    compared = (exp / "compare_en_test.txt").read_text(encoding="utf-8")
    assert "dense -> ume" in compared and "dense_on -> ume" in compared
    assert json.loads((exp / "ume/model/info.json").read_text(encoding="utf-8"))["system"] == "u2pp"
    # One system alone: what has experts from the start is a dense run with another config.
    moe = ["--tag", "moe", "--systems", "dense", "--set", f"{SMALL} model.moe.experts=3", "--chunks", "4"]
    alone = run(folder, *moe, "--stage", "4")
    assert alone.returncode == 0, alone.stderr[-3000:]
    rows = (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert "| moe/dense | en test | ctc_greedy-4 |" in rows and "| u2pp/dense | en test | ctc_greedy-4 |" in rows
    # What is finished is passed over.
    again = run(folder, "--stage", "4", "--stop-stage", "6")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("is up to date") >= 4


def test_an_unknown_set_of_labels_or_a_missing_config_is_refused(folder: Path) -> None:
    for options, word in (
        (["--labels", "none"], "pseudo or human"),
        (["--config", "conf/x.yaml"], "no config conf/x.yaml"),
        (["--scratch", "yes", "--stage", "9"], "unexpected 'yes'"),
        (["--systems", "dense umbra"], "not 'umbra'"),
    ):
        refused = run(folder, *options)
        assert refused.returncode == 2
        assert word in refused.stderr
