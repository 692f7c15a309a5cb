"""Units: there and back, what is unknown, tables that are none; and the script that makes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.errors import UserError
from mooer_tk.u2pp.units import BLANK, UNKNOWN, Units

SCRIPT = Path(__file__).resolve().parents[2] / "utils" / "make_units.py"
TEXTS = ["please enter your pin", "your pin is invalid", "you're the only person", "please hold on", "i'm sorry"]


def make_units(folder: Path, name: str, *options: str, texts: list[str] = TEXTS) -> subprocess.CompletedProcess[str]:
    write_table(folder / "text", {f"u{i}": text for i, text in enumerate(texts)})
    command = [sys.executable, str(SCRIPT), str(folder / name), str(folder / "text"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "options"), [("units.txt", ()), ("units.model", ("--pieces", "40"))])
def test_texts_go_there_and_come_back(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    done = make_units(tmp_path, name, *options)
    assert done.returncode == 0, done.stderr
    units = Units(tmp_path / name)
    for text in TEXTS:
        ids = units.encode(text)
        assert units.decode(ids) == text
        assert all(UNKNOWN < i < units.ends for i in ids)
    assert units.ends == units.size - 1
    assert units.decode([BLANK, *units.encode("pin"), UNKNOWN, units.ends]) == "pin"
    if options:
        assert units.size == 40 + 2
        assert len(units.encode("please hold on")) < len("please hold on")


def test_the_same_texts_give_the_same_file(tmp_path: Path) -> None:
    """What was trained with it would start anew otherwise."""
    files = []
    for _ in range(2):
        assert make_units(tmp_path, "units.model", "--pieces", "40").returncode == 0
        files.append((tmp_path / "units.model").read_bytes())
    assert files[0] == files[1]


def test_what_no_unit_covers_is_unknown(tmp_path: Path) -> None:
    make_units(tmp_path, "units.txt")
    units = Units(tmp_path / "units.txt")
    assert units.encode("zoë") == [UNKNOWN, units.ids["o"], UNKNOWN]
    assert units.encode("") == []
    assert units.encode("  pin   is ") == units.encode("pin is")


def test_rare_characters_can_be_left_out(tmp_path: Path) -> None:
    make_units(tmp_path, "units.txt", "--least", "3")
    names = Units(tmp_path / "units.txt").names
    assert "e" in names
    assert "d" not in names


def test_chinese_is_written_in_characters(tmp_path: Path) -> None:
    assert make_units(tmp_path, "units.txt", texts=["你好 世界", "你们"]).returncode == 0
    units = Units(tmp_path / "units.txt")
    assert units.decode(units.encode("世界 你好")) == "世界 你好"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("units.txt", ("--pieces", "40"), "pieces a .model"),
        ("units.model", (), "pieces a .model"),
        ("units.model", ("--pieces", "4000"), "Try fewer"),
    ],
)
def test_what_cannot_be_made_is_said(tmp_path: Path, name: str, options: tuple[str, ...], message: str) -> None:
    done = make_units(tmp_path, name, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / name).exists()


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("a\nb\na\n", encoding="utf-8")
    (tmp_path / "broken.model").write_bytes(b"no model")
    for name, message in (("absent.txt", "make_units"), ("twice.txt", "twice"), ("broken.model", "sentencepiece")):
        with pytest.raises(UserError, match=message):
            Units(tmp_path / name)
