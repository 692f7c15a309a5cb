"""Kaldi directories: what is read, which faults are named, what `fix` keeps, how parts are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mooer_tk.data.kaldi_dir import (
    DataDir,
    check,
    fix,
    read_table,
    split_keys,
    subset,
    validate,
    write_table,
)
from mooer_tk.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, prompts: dict[str, tuple[Path, str]], write_prompts: Callable[..., Path]) -> Path:
    """A sound directory of twelve real recordings with a partial translation."""
    partial = {utt: "hola" for utt in list(prompts)[:5]}
    return write_prompts(tmp_path / "data", text_es=partial, utt2spk=dict.fromkeys(prompts, "allison"))


def append(path: Path, line: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())


def test_a_sound_directory(folder: Path) -> None:
    assert validate(folder) == []
    check(folder)
    assert DataDir(folder).texts() == ["text", "text.es"]
    assert len(DataDir(folder).utterances()) == 12


def test_tables_keep_unicode_and_lose_only_outer_blanks(tmp_path: Path) -> None:
    table = {"b": "él  pidió «más»", "a": "Привет, мир", "c": "", "ü": "ok"}
    write_table(tmp_path / "t", table)
    assert (tmp_path / "t").read_text(encoding="utf-8").splitlines()[0] == "a Привет, мир"
    assert read_table(tmp_path / "t") == table
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa one\r\n\r\nb\ttwo three \n")
    assert read_table(tmp_path / "t") == {"a": "one", "b": "two three"}


def test_a_text_that_is_not_utf8_names_line_and_column(folder: Path) -> None:
    append(folder / "text", "vm-zz ma\xf1ana\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"text:13: not UTF-8 \(byte 0xf1 at column 9\).*iconv -f latin1"):
        read_table(folder / "text")
    assert any("text:13: not UTF-8" in fault for fault in validate(folder))


@pytest.mark.parametrize("table", ["wav.scp", "text", "utt2spk"])
def test_a_duplicate_id_names_the_line(folder: Path, table: str) -> None:
    append(folder / table, "vm-sorry again\n")
    faults = validate(folder)
    assert any(f"{table}:13: the id 'vm-sorry' stands twice" in fault for fault in faults), faults
    with pytest.raises(UserError, match="is not sound"):
        check(folder)


def test_a_recording_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    append(folder / "wav.scp", f"zz {tmp_path}/gone.wav\n")
    append(folder / "text", "zz words\n")
    append(folder / "utt2spk", "zz allison\n")
    (fault,) = validate(folder)
    assert fault == f"{folder}/wav.scp: 'zz' names {tmp_path}/gone.wav, which does not exist."
    with pytest.raises(UserError, match=r"\(1 faults\)[\s\S]*utils/fix_data_dir\.sh"):
        check(folder)


def test_a_wav_scp_line_without_a_file(folder: Path) -> None:
    append(folder / "wav.scp", "zz\n")
    assert "'zz' has no value" in validate(folder)[0]


def test_ids_that_only_one_table_knows(folder: Path) -> None:
    append(folder / "text", "ghost boo\n")
    append(folder / "text.es", "phantom bu\n")
    faults = validate(folder)
    assert f"{folder}: 1 ids of text are not in wav.scp/segments: ghost" in faults
    assert f"{folder}: 1 ids of text.es are not in wav.scp/segments: phantom" in faults
    assert len(faults) == 2


def test_missing_tables(folder: Path, tmp_path: Path) -> None:
    (folder / "text").unlink()
    assert validate(folder) == [f"{folder} has no text."]
    assert validate(folder, need_text=False) == []
    assert "it has no wav.scp" in validate(tmp_path)[0]
    (folder / "wav.scp").write_text("")
    assert any("holds no utterance" in fault for fault in validate(folder, need_text=False))


def test_segments_are_resolved_and_bad_ones_named(folder: Path) -> None:
    write_table(folder / "segments", {"s1": "vm-sorry 0.5 1.25", "s2": "vm-sorry 1.25 -1"})
    first, second = DataDir(folder).utterances()
    assert (first.utt, first.start, first.end) == ("s1", 0.5, 1.25)
    assert first.source == second.source
    for line, told in (
        ("vm-sorry 1.5 1.0", "ends"),
        ("vm-sorry one 2", "must be seconds"),
        ("nobody 0 1", "expected '<recording>"),
        ("vm-sorry 0", "expected '<recording>"),
    ):
        write_table(folder / "segments", {"s1": line})
        with pytest.raises(UserError, match=told):
            DataDir(folder).utterances()
        assert validate(folder)


def test_fix_keeps_what_all_tables_know(folder: Path, tmp_path: Path) -> None:
    before = (folder / "wav.scp").read_text()
    append(folder / "wav.scp", f"zz {tmp_path}/gone.wav\n")
    append(folder / "text", "zz words\nghost boo\n")
    lines = (folder / "utt2spk").read_text().splitlines(keepends=True)
    (folder / "utt2spk").write_text("".join(lines[1:]))
    dropped = fix(folder)
    first = lines[0].split()[0]
    assert dropped == {"wav.scp": [first, "zz"], "text": [first, "ghost", "zz"], "text.es": [first]}
    check(folder)
    assert len(DataDir(folder).utterances()) == 11
    assert (folder / ".backup" / "wav.scp").read_text().startswith(before)
    assert fix(folder) == {}


def test_fix_with_segments_keeps_the_recordings_in_use(folder: Path) -> None:
    for name in ("text", "text.es", "utt2spk"):
        (folder / name).unlink()
    write_table(folder / "segments", {"s1": "vm-sorry 0 1", "s2": "gone 0 1"})
    write_table(folder / "text", {"s1": "sorry", "s2": "gone", "s3": "?"})
    dropped = fix(folder)
    assert dropped["segments"] == ["s2"]
    assert dropped["text"] == ["s2", "s3"]
    assert list(DataDir(folder).table("wav.scp")) == ["vm-sorry"]
    check(folder)


def test_fix_refuses_to_empty_a_directory(folder: Path) -> None:
    write_table(folder / "text", {"ghost": "boo"})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="no utterance is known to all of"):
        fix(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_subset_is_sound_and_cuts_every_table(folder: Path, tmp_path: Path) -> None:
    assert subset(folder, tmp_path / "part", {"vm-sorry", "agent-incorrect", "unknown"}) == 2
    check(tmp_path / "part")
    assert list(read_table(tmp_path / "part" / "text.es")) == ["agent-incorrect"]


def test_split_keys() -> None:
    keys = [f"{number:02}" for number in range(11)]
    for parts in range(1, 12):
        pieces = split_keys(keys, parts)
        assert [key for piece in pieces for key in piece] == keys
        assert {len(piece) for piece in pieces} <= {11 // parts, -(-11 // parts)}
    with pytest.raises(UserError, match="at least 1"):
        split_keys(keys, 0)
