"""Writes are whole or absent: after an error, a full disk, or a killed process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mooer_tk.data.atomic import (
    fingerprint,
    is_done,
    mark_done,
    replacing,
    replacing_dir,
    sole_writer,
    sweep_leftovers,
    write_json,
    write_text,
)
from mooer_tk.errors import UserError


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "table"
    write_text(path, "old\n")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old\n"
    assert os.listdir(path.parent) == ["table"]


def test_an_error_in_the_block_keeps_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with replacing_dir(path) as folder:
            (folder / content).touch()
    assert os.listdir(path) == ["two"]
    with pytest.raises(ZeroDivisionError), replacing_dir(path) as folder:
        (folder / "three").touch()
        raise ZeroDivisionError
    assert os.listdir(path) == ["two"]
    assert os.listdir(tmp_path) == ["folder"]


WRITER = """
import sys
from pathlib import Path
from mooer_tk.data.atomic import replacing, write_text
from mooer_tk.errors import UserError
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except UserError as error:
    sys.exit(f"told: {error}")
"""


def test_a_full_disk_is_told_and_keeps_the_old_file(tmp_path: Path) -> None:
    """The kernel refuses the write half-way (EFBIG at 16 KiB, as ENOSPC would)."""
    path = tmp_path / "table"
    write_text(path, "old\n")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))

    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"told: cannot write {path}: File too large" in done.stderr
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["table"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        write_text(disk / "table", "old\n")
        with pytest.raises(UserError, match=r"No space left on device.*free some space"):
            write_text(disk / "table", "x" * 100_000)
        assert (disk / "table").read_text() == "old\n"
        assert os.listdir(disk) == ["table"]
        with pytest.raises(UserError, match="No space left"), replacing_dir(disk / "folder") as folder:
            (folder / "big").write_text("x" * 100_000)
        assert os.listdir(disk) == ["table"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_directory_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "table", "x")


def test_leftovers_of_the_dead_are_swept_and_of_the_living_kept(tmp_path: Path) -> None:
    """A real process is killed in the middle of a write; another still writes."""
    code = (
        "import sys, time\nfrom mooer_tk.data.atomic import replacing, replacing_dir\n"
        "with replacing_dir(sys.argv[1] + '/folder') as d, replacing(sys.argv[1] + '/table') as t:\n"
        "    (d / 'x').touch(); t.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    dead, alive = processes
    dead.kill()
    dead.wait()
    time.sleep(0.05)
    assert len(os.listdir(tmp_path)) == 4
    sweep_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [f".folder.{alive.pid}.tmp", f".table.{alive.pid}.tmp"]
    alive.kill()
    alive.wait()
    sweep_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
    for process in processes:
        process.stdout.close()


def test_a_second_writer_is_refused_or_waits_as_it_asked(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mooer_tk.data.atomic import sole_writer\n"
        "with sole_writer(sys.argv[1], lock=sys.argv[2], wait=True):\n    print('in', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with sole_writer(tmp_path, lock=".entry.lock"):
        told = rf"another process is writing to {tmp_path} \(process {os.getpid()} on"
        with pytest.raises(UserError, match=told), sole_writer(tmp_path, lock=".entry.lock"):
            pytest.fail("two writers in one place")
        other = subprocess.run([*command, ".lock"], capture_output=True, text=True, timeout=60, check=False)
        assert other.stdout == "in\n", other.stderr
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([*command, ".entry.lock"], capture_output=True, timeout=2, check=False)
    waited = subprocess.run([*command, ".entry.lock"], capture_output=True, text=True, timeout=60, check=False)
    assert waited.stdout == "in\n"


def test_the_marker_tells_settings_and_inputs_apart(tmp_path: Path) -> None:
    table = tmp_path / "input"
    table.write_text("a")
    mark = fingerprint({"beam": 5}, table)
    assert mark == fingerprint({"beam": 5}, table)
    assert mark != fingerprint({"beam": 6}, table)
    table.write_text("b")
    assert mark != fingerprint({"beam": 5}, table)
    assert not is_done(tmp_path, mark)
    mark_done(tmp_path, mark, utterances=3)
    assert is_done(tmp_path, mark)
    assert not is_done(tmp_path, "other")
    (tmp_path / "done.json").write_text('{"finger')
    assert not is_done(tmp_path, mark)
    write_json(tmp_path / "done.json", [])
    assert not is_done(tmp_path, mark)


def test_what_a_process_left_that_has_ended_but_was_not_waited_for_is_swept(tmp_path):
    """The pools of a killed run end so where the machine's first process does not ask for them."""
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{ended}").exists()
        (tmp_path / f".a.flac.{ended}.tmp").write_text("half")
        (tmp_path / f".b.flac.{os.getpid()}.tmp").write_text("being written")
        sweep_leftovers(tmp_path)
    finally:
        os.waitpid(ended, 0)
    assert os.listdir(tmp_path) == [f".b.flac.{os.getpid()}.tmp"]
