"""A training that is watched from outside: ended at the WER that it should reach, or when its time is over."""

import sys

import pytest

from benchmarks.warm_start import train_until
from mooer_tk.errors import UserError

PROGRAM = """
import json, sys, time
log, wers, end = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
for number, wer in enumerate(wers, 1):
    with open(log, "a") as file:
        file.write(json.dumps({"kind": "train", "step": number}) + "\\n")
        file.write(json.dumps({"kind": "dev", "step": number, "wer": wer}) + "\\n")
with open(log, "a") as file:
    file.write('{"kind": "dev", "step": 99, "w')
sys.exit(int(end)) if end else time.sleep(600)
"""


def watch(tmp_path, wers, end="", **limits):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), str(wers), end]
    return train_until(command, tmp_path / "log", **limits)


def test_it_ends_once_the_wer_is_reached(tmp_path):
    found = watch(tmp_path, [90.0, 20.0], wer=30.0, limit=60)
    assert found.pop("seconds") < 60
    assert found == {"reached": True, "best dev WER %": 20.0, "steps through the LLM": 2}


def test_it_ends_when_its_time_is_over(tmp_path):
    found = watch(tmp_path, [90.0, 80.0], wer=30.0, limit=2)
    assert 2 < found["seconds"] < 30 and not found["reached"] and found["best dev WER %"] == 80.0


def test_it_ends_with_the_training_and_a_failure_of_it_is_one(tmp_path):
    assert not watch(tmp_path, [90.0], end="0", wer=30.0, limit=60)["reached"]
    (tmp_path / "log").unlink()
    with pytest.raises(UserError, match="training failed"):
        watch(tmp_path, [90.0], end="3", wer=30.0, limit=60)
