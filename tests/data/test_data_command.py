"""`mooer data`: the four actions on a directory of real recordings, and their exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mooer_tk.data.kaldi_dir import check, read_table


@pytest.fixture
def folder(tmp_path: Path, write_prompts: Callable[..., Path]) -> Path:
    return write_prompts(tmp_path / "data")


def test_validate(mooer: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mooer("data", "validate", folder) == 0
    assert capsys.readouterr().out == f"{folder}: sound, 12 utterances\n"
    (folder / "text").rename(folder / "old")
    assert mooer("data", "validate", folder) == 2
    assert "has no text" in capsys.readouterr().err
    assert mooer("data", "validate", folder, "--no-text") == 0


def test_fix(mooer: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "text").open("a") as text:
        text.write("ghost boo\n")
    assert mooer("data", "validate", folder) == 2
    assert mooer("data", "fix", folder) == 0
    assert f"{folder}/text: dropped 1: ghost" in capsys.readouterr().out
    assert mooer("data", "validate", folder) == 0


def test_subset(mooer: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part"
    assert mooer("data", "subset", folder, part, "--first", 3) == 0
    check(part)
    assert list(read_table(part / "text")) == ["agent-incorrect", "agent-newlocation", "cannot-complete-as-dialed"]
    assert mooer("data", "subset", folder, part, "--min-words", 12) == 0
    words = {len(text.split()) for text in read_table(part / "text").values()}
    assert words
    assert min(words) >= 12
    (tmp_path / "ids").write_text("vm-sorry whatever\nunknown\n")
    capsys.readouterr()
    assert mooer("data", "subset", folder, part, "--utts", tmp_path / "ids") == 0
    assert capsys.readouterr().out == f"{part}: 1 of 12 utterances\n1 wanted ids are not in {folder}: unknown\n"
    before = (folder / "text").read_bytes()
    assert mooer("data", "subset", folder, folder, "--first", 3) == 2
    assert mooer("data", "subset", folder, part, "--min-words", 500) == 2
    assert "was not written" in capsys.readouterr().err
    assert (folder / "text").read_bytes() == before


def test_split(mooer: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mooer("data", "split", folder, 5) == 0
    parts = [read_table(folder / "split5" / str(part) / "wav.scp") for part in range(1, 6)]
    assert sorted(utt for part in parts for utt in part) == sorted(read_table(folder / "wav.scp"))
    assert sorted(map(len, parts)) == [2, 2, 2, 3, 3]
    check(folder / "split5" / "1")
    assert mooer("data", "split", folder, 13) == 2
    assert "has 12 utterances and cannot be split into 13 parts" in capsys.readouterr().err
