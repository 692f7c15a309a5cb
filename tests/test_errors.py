"""How programs end: one line for the user and a status for the shell; faults of our own keep their traceback."""

import subprocess
import sys

import pytest

from mooer_tk.errors import UserError, exit_status


def fail(error):
    raise error


def test_the_status_is_that_of_the_work(capsys):
    assert [exit_status("p", lambda status=status: status) for status in (0, 1)] == [0, 1]
    assert capsys.readouterr() == ("", "")


def test_what_the_user_can_mend_is_one_line_and_status_2(capsys):
    assert exit_status("plot.py", lambda: fail(UserError("no log in exp/a"))) == 2
    assert capsys.readouterr() == ("", "plot.py: error: no log in exp/a\n")


def test_ctrl_c_is_status_130(capsys):
    assert exit_status("mooer train", lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "mooer train: interrupted; the same command goes on where it stopped\n"


def test_a_reader_that_goes_away_is_one_line():
    work = "lambda: [print(i) for i in range(99999)] and 0"
    code = f"from mooer_tk.errors import exit_status; exit(exit_status('p', {work}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read().startswith(b"p: nobody reads what it writes any more")
    assert process.returncode == 1


def test_our_own_faults_pass_through():
    with pytest.raises(ZeroDivisionError):
        exit_status("p", lambda: fail(ZeroDivisionError()))
