"""utils/parse_options.sh: every form of an option, the errors, and that values are never run."""

import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

SCRIPT = r"""#!/usr/bin/env bash
# demo.sh: shows its options.
#
#   --stage N   first stage

# This second block is not part of the help.
set -euo pipefail
stage=1
train_config=conf/a.yaml
dry_run=false
empty=
Constant=7
_private=8
list=(a b)
. "@REPO@/utils/parse_options.sh"
later=9
printf '[%s]' "$stage" "$train_config" "$dry_run" "$empty" "$Constant" "$later" "$@"
"""


@pytest.fixture
def run_script(tmp_path):
    path = tmp_path / "demo.sh"
    path.write_text(SCRIPT.replace("@REPO@", str(REPO)))

    def call(*args):
        return subprocess.run(["bash", str(path), *args], capture_output=True, text=True, cwd=tmp_path, timeout=30)

    return call


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "[1][conf/a.yaml][false][][7][9]"),
        (["--stage", "3"], "[3][conf/a.yaml][false][][7][9]"),
        (["--stage=3"], "[3][conf/a.yaml][false][][7][9]"),
        (["--stage", "-1"], "[-1][conf/a.yaml][false][][7][9]"),
        (["--train-config", "b"], "[1][b][false][][7][9]"),
        (["--train_config", "b"], "[1][b][false][][7][9]"),
        (["--train-config=a=b"], "[1][a=b][false][][7][9]"),
        (["--train-config", ""], "[1][][false][][7][9]"),
        (["--train-config="], "[1][][false][][7][9]"),
        (["--dry-run"], "[1][conf/a.yaml][true][][7][9]"),
        (["--dry-run", "true", "x"], "[1][conf/a.yaml][true][][7][9][x]"),
        (["--dry-run", "--stage", "2"], "[2][conf/a.yaml][true][][7][9]"),
        (["--dry-run=false"], "[1][conf/a.yaml][false][][7][9]"),
        (["--empty", "--lr 1 --b c"], "[1][conf/a.yaml][false][--lr 1 --b c][7][9]"),
        (["--empty", "--lr"], "[1][conf/a.yaml][false][--lr][7][9]"),
        (["--empty=--stage"], "[1][conf/a.yaml][false][--stage][7][9]"),
        (["--stage", "2", "x y", "--stage"], "[2][conf/a.yaml][false][][7][9][x y][--stage]"),
        (["--", "--stage"], "[1][conf/a.yaml][false][][7][9][--stage]"),
    ],
)
def test_forms(run_script, args, expected):
    result = run_script(*args)
    assert result.returncode == 0, result.stderr
    assert result.stdout == expected


@pytest.mark.parametrize(
    "value", ["$(touch hit)", "`touch hit`", "a; touch hit", "x' \"y", "a[$(touch hit)]", "*", "a\nb"]
)
@pytest.mark.parametrize("joined", [True, False])
def test_values_are_not_run(run_script, tmp_path, value, joined):
    result = run_script(*([f"--empty={value}"] if joined else ["--empty", value]))
    assert result.returncode == 0, result.stderr
    assert f"[{value}]" in result.stdout
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("name", ["--$(touch hit)", "--a[$(touch hit)]", "--a[$(touch hit)]=1", "--x;touch hit"])
def test_names_are_not_run(run_script, tmp_path, name):
    assert run_script(name, "1").returncode == 2
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stge", "2"], "demo.sh: unknown option --stge. Did you mean --stage?"),
        (["--train-confg=x"], "unknown option --train-confg. Did you mean --train-config?"),
        (["--dry"], "unknown option --dry. Did you mean --dry-run?"),
        (["--path", "x"], "unknown option --path."),
        (["--Constant", "1"], "unknown option --Constant."),
        (["--later", "1"], "unknown option --later."),
        (["--list", "1"], "unknown option --list."),
        (["--stage"], "option --stage needs a value"),
        (["--stage", "--dry-run"], "option --stage needs a value, but the option --dry-run follows"),
        (["--dry-run=maybe"], "option --dry-run takes true or false, not 'maybe'"),
    ],
)
def test_errors(run_script, args, message):
    result = run_script(*args)
    assert result.returncode == 2
    assert message in result.stderr
    assert "--help lists the options" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_leading_comment(run_script, flag):
    result = run_script("--stage", "2", flag)
    assert result.returncode == 0
    assert result.stdout == "demo.sh: shows its options.\n\n  --stage N   first stage\n"


def test_help_lists_the_options_that_say_what_they_are_for(tmp_path):
    """A recipe's options stand in its source, which nobody should have to read for their names."""
    lines = [
        "# x.sh: does it.",
        "",
        "nj=2              # jobs",
        'test_sets="a b"  # which (or all)',
        "set=  # overrides",
    ]
    script = "\n".join(["#!/usr/bin/env bash", *lines, "plain=1", f'. "{REPO}/utils/parse_options.sh"', "late=1  # no"])
    (tmp_path / "x.sh").write_text(script)
    done = subprocess.run(["bash", "x.sh", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [line.split(maxsplit=1) for line in done.stdout.splitlines()[3:]]
    assert done.stdout.startswith("x.sh: does it.\n\nOptions, with their defaults:\n")
    assert [name for name, _ in found] == ["--nj", "--test-sets", "--set"]
    assert [rest.split() for _, rest in found] == [["2", "jobs"], ['"a', 'b"', "which", "(or", "all)"], ["overrides"]]


def test_refuses_to_be_run_itself():
    result = subprocess.run(["bash", str(REPO / "utils/parse_options.sh")], capture_output=True, text=True)
    assert result.returncode == 2
    assert "source me" in result.stderr
