"""Kaldi directories: what is read, and which tables are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mooer_tk.data.kaldi_dir import read_recordings, read_table, read_utterances, write_table
from mooer_tk.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, write_prompts: Callable[..., Path]) -> Path:
    """A sound directory of twelve real recordings."""
    return write_prompts(tmp_path / "data")


def test_utterances_come_in_id_order(folder: Path, prompts: dict[str, tuple[Path, str]]) -> None:
    wavs = sorted((utt, str(path)) for utt, (path, _) in prompts.items())
    assert [(one.utt, one.source, one.start, one.end) for one in read_utterances(folder)] == [
        (utt, path, 0.0, -1.0) for utt, path in wavs
    ]


def test_tables_keep_unicode_and_lose_only_outer_blanks(tmp_path: Path) -> None:
    table = {"b": "él  pidió «más»", "a": "Привет, мир", "c": "", "ü": "ok"}
    write_table(tmp_path / "t", table)
    assert (tmp_path / "t").read_text(encoding="utf-8").splitlines()[0] == "a Привет, мир"
    assert read_table(tmp_path / "t") == table
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa one\r\n\r\nb\ttwo three \n")
    assert read_table(tmp_path / "t") == {"a": "one", "b": "two three"}


def test_a_text_that_is_not_utf8_names_line_and_column(folder: Path) -> None:
    with (folder / "text").open("ab") as text:
        text.write("vm-zz ma\xf1ana\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"text:13: not UTF-8 \(byte 0xf1 at column 9\).*iconv -f latin1"):
        read_table(folder / "text")


def test_a_folder_or_a_line_that_is_no_data_is_named(folder: Path, tmp_path: Path) -> None:
    for read in (read_recordings, read_utterances):
        with pytest.raises(UserError, match=r"it has no wav\.scp"):
            read(tmp_path)
    with (folder / "wav.scp").open("a") as wavs:
        wavs.write("zz\n")
    with pytest.raises(UserError, match=r"wav\.scp:13: 'zz' has no value"):
        read_utterances(folder)
    with (folder / "wav.scp").open("a") as wavs:
        wavs.write("vm-sorry again\n")
    with pytest.raises(UserError, match=r"wav\.scp:14: the id 'vm-sorry' stands twice"):
        read_table(folder / "wav.scp")
    with pytest.raises(UserError, match=r"cannot read .*utt2dur"):
        read_table(folder / "utt2dur")


def test_segments_are_resolved_and_bad_ones_named(folder: Path) -> None:
    write_table(folder / "segments", {"s1": "vm-sorry 0.5 1.25", "s2": "vm-sorry 1.25 -1"})
    first, second = read_utterances(folder)
    assert (first.utt, first.start, first.end) == ("s1", 0.5, 1.25)
    assert first.source == second.source
    for line, told in (
        ("vm-sorry 1.5 1.0", "ends"),
        ("vm-sorry one 2", "must be seconds"),
        ("nobody 0 1", "expected '<recording of wav.scp>"),
        ("vm-sorry 0", "expected '<recording of wav.scp>"),
    ):
        write_table(folder / "segments", {"s1": line})
        with pytest.raises(UserError, match=told):
            read_utterances(folder)
