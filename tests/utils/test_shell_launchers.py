"""utils/run.sh, and utils/slurm.sh and utils/sge.sh with stand-ins for sbatch and qsub."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "utils"

# Both stand-ins note their arguments, run every task of the array, and fail if one of them fails.
FAKE_SBATCH = r"""#!/usr/bin/env bash
printf '%s\n' "$@" >sbatch.args
range=""
for word in "$@"; do
  case $word in --array=*) range=${word#--array=} ;; esac
  script=$word
done
echo "Submitted batch job 4711"
range=${range%\%*}
status=0
if [ -z "$range" ]; then
  bash "$script" || status=1
else
  for ((id = ${range%-*}; id <= ${range#*-}; id++)); do
    SLURM_ARRAY_TASK_ID=$id bash "$script" || status=1
  done
fi
exit $status
"""

FAKE_QSUB = r"""#!/usr/bin/env bash
printf '%s\n' "$@" >qsub.args
range=""
previous=""
for word in "$@"; do
  if [ "$previous" = -t ]; then range=$word; fi
  previous=$word
done
echo 'Your job-array 4711.1-3:1 ("j") has been submitted'
status=0
if [ -z "$range" ]; then
  bash "$previous" || status=1
else
  for ((id = ${range%-*}; id <= ${range#*-}; id++)); do SGE_TASK_ID=$id bash "$previous" || status=1; done
fi
exit $status
"""


def launch(script, *args, cwd, **environment):
    return subprocess.run(
        [str(UTILS / script), *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.fixture
def queues(tmp_path):
    """PATH with the stand-ins in front."""
    folder = tmp_path / "fake bin"
    folder.mkdir()
    for name, text in (("sbatch", FAKE_SBATCH), ("qsub", FAKE_QSUB)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_one_command(tmp_path):
    result = launch("run.sh", "log/x.log", "printf", "%s|", "a b", "$HOME", "it's", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "log/x.log").read_text().splitlines()
    assert lines[0].startswith("# Command: printf %s\\| a\\ b")
    assert lines[1].startswith("# Running on ")
    assert lines[2].startswith("# Started at ")
    assert "a b|$HOME|it's|" in lines[4]
    assert "# Ended (code 0) at " in lines[-1]


def test_array_replaces_the_job_name(tmp_path):
    result = launch("run.sh", "JOB=2:4", "log/x.JOB.log", "echo", "part.JOB", "JOB JOB", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == ["x.2.log", "x.3.log", "x.4.log"]
    assert "part.3 3 3\n" in (tmp_path / "log/x.3.log").read_text()


def test_a_failing_job_fails_the_whole(tmp_path):
    result = launch(
        "run.sh",
        "JOB=1:2",
        "log/x.JOB.log",
        "bash",
        "-c",
        "echo about to; exit $((JOB == 2 ? 7 : 0))",
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "1 of 2 jobs failed" in result.stderr
    assert "the whole log is in log/x.2.log" in result.stderr
    assert "  | about to" in result.stderr
    assert "# Ended (code 0)" in (tmp_path / "log/x.1.log").read_text()
    assert "# Ended (code 7)" in (tmp_path / "log/x.2.log").read_text()


def test_no_new_job_after_a_failure(tmp_path):
    result = launch("run.sh", "--max-jobs", "1", "JOB=1:3", "x.JOB.log", "false", cwd=tmp_path)
    assert result.returncode == 1
    assert [(tmp_path / f"x.{n}.log").exists() for n in (1, 2, 3)] == [True, False, False]


def test_max_jobs_is_kept(tmp_path):
    command = "touch on.JOB; ls on.* | wc -l; sleep 0.2; rm on.JOB"
    result = launch("run.sh", "--max-jobs", "2", "JOB=1:5", "x.JOB.log", "bash", "-c", command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    seen = [int((tmp_path / f"x.{n}.log").read_text().splitlines()[4]) for n in range(1, 6)]
    assert max(seen) == 2


def test_missing_program(tmp_path):
    result = launch("run.sh", "x.log", "no-such-program-here", cwd=tmp_path)
    assert result.returncode == 1
    assert "no-such-program-here: command not found" in result.stderr
    assert "# Ended (code 127)" in (tmp_path / "x.log").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x.log"], "a log file and a command are needed"),
        (["JOB=1:3", "x.log", "true"], "must hold the word JOB"),
        (["JOB=3:1", "x.JOB.log", "true"], "bad range 'JOB=3:1'"),
        (["--max-jobs", "0", "x.log", "true"], "--max-jobs must be a whole number"),
        (["--max-job", "1", "x.log", "true"], "Did you mean --max-jobs?"),
    ],
)
def test_wrong_calls(tmp_path, args, message):
    result = launch("run.sh", *args, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_grandchildren(tmp_path, sent):
    command = "(sleep 60 & echo $! >pid.JOB; wait)"
    process = subprocess.Popen(
        [str(UTILS / "run.sh"), "--max-jobs", "2", "JOB=1:2", "x.JOB.log", "bash", "-c", command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a script ignore Ctrl-C, and bash cannot trap what it finds ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    pids = [tmp_path / "pid.1", tmp_path / "pid.2"]
    while not all(p.exists() and p.read_text().strip() for p in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ending the jobs" in errors
    for pid in pids:
        status = Path(f"/proc/{pid.read_text().strip()}/stat")
        assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    assert "# Ended (code 143)" in (tmp_path / "x.1.log").read_text()


@pytest.mark.parametrize("script", ["slurm.sh", "sge.sh"])
def test_queue_array(tmp_path, queues, script):
    result = launch(
        script,
        "--max-jobs",
        "2",
        "JOB=1:3",
        "log/x.JOB.log",
        "echo",
        "n JOB",
        "$HOME",
        cwd=tmp_path,
        PATH=queues,
    )
    assert result.returncode == 0, result.stderr
    for n in (1, 2, 3):
        text = (tmp_path / f"log/x.{n}.log").read_text()
        assert f"n {n} $HOME\n" in text
        assert "# Ended (code 0)" in text


@pytest.mark.parametrize("script", ["slurm.sh", "sge.sh"])
def test_queue_single(tmp_path, queues, script):
    result = launch(script, "log/x.log", "echo", "a  b", cwd=tmp_path, PATH=queues)
    assert result.returncode == 0, result.stderr
    assert "a  b\n" in (tmp_path / "log/x.log").read_text()


@pytest.mark.parametrize("script", ["slurm.sh", "sge.sh"])
def test_queue_failure(tmp_path, queues, script):
    result = launch(script, "JOB=1:2", "x.JOB.log", "bash", "-c", "exit $((JOB - 1))", cwd=tmp_path, PATH=queues)
    assert result.returncode == 1
    assert "1 of 2 jobs failed" in result.stderr
    assert "the whole log is in x.2.log" in result.stderr


@pytest.mark.parametrize(("script", "program"), [("slurm.sh", "sbatch"), ("sge.sh", "qsub")])
def test_queue_refuses(tmp_path, queues, script, program):
    fake = tmp_path / "fake bin" / program
    fake.write_text("#!/bin/sh\necho 'no such account' >&2\nexit 3\n")
    result = launch(script, "x.log", "true", cwd=tmp_path, PATH=queues)
    assert result.returncode == 1
    assert "no such account" in result.stderr
    assert "none of 1 jobs wrote its log" in result.stderr


def test_slurm_options(tmp_path, queues):
    launch(
        "slurm.sh",
        *["--gpu", "2", "--mem", "8G", "--time", "1:00:00", "--threads", "4", "--extra", "-p gpu -A lab"],
        *["--max-jobs", "2", "JOB=1:3", "log/x.JOB.log", "true"],
        cwd=tmp_path,
        PATH=queues,
    )
    words = (tmp_path / "sbatch.args").read_text().splitlines()
    expected = {"--wait", "--gres=gpu:2", "--mem=8G", "--time=1:00:00", "--cpus-per-task=4", "--array=1-3%2"}
    assert expected <= set(words)
    assert words[-5:] == ["-p", "gpu", "-A", "lab", "log/q/x.all.sh"]


def test_sge_options(tmp_path, queues):
    launch(
        "sge.sh",
        *["--gpu", "2", "--mem", "8G", "--time", "1:00:00", "--threads", "4", "--extra", "-q gpu.q"],
        *["--max-jobs", "2", "JOB=1:3", "log/x.JOB.log", "true"],
        cwd=tmp_path,
        PATH=queues,
    )
    words = " ".join((tmp_path / "qsub.args").read_text().splitlines())
    for part in (
        *(
            "-sync y",
            "-t 1-3",
            "-tc 2",
            "-l gpu=2",
            "-l mem_free=8G",
            "-l h_rt=1:00:00",
            "-pe smp 4",
            "-N j.x.all",
        ),
        "-q gpu.q log/q/x.all.sh",
    ):
        assert part in words


def test_queue_program_missing(tmp_path):
    result = launch("slurm.sh", "x.log", "true", cwd=tmp_path, PATH="/usr/bin:/bin")
    assert result.returncode == 2
    assert "sbatch is not on PATH" in result.stderr
