"""utils/data_dir.py: which faults are named, what `fix` keeps, how parts are cut, and its exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mooer_tk.data.kaldi_dir import read_table, read_utterances, write_table
from mooer_tk.errors import UserError
from utils.data_dir import check, fix, main, split_keys, subset, text_tables, validate


@pytest.fixture
def folder(tmp_path: Path, prompts: dict[str, tuple[Path, str]], write_prompts: Callable[..., Path]) -> Path:
    """A sound directory of twelve real recordings with a partial translation."""
    partial = {utt: "hola" for utt in list(prompts)[:5]}
    return write_prompts(tmp_path / "data", text_es=partial, utt2spk=dict.fromkeys(prompts, "allison"))


@pytest.fixture
def plain(tmp_path: Path, write_prompts: Callable[..., Path]) -> Path:
    """The same with wav.scp and text alone."""
    return write_prompts(tmp_path / "plain")


def append(path: Path, line: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_sound_directory(folder: Path) -> None:
    assert validate(folder) == []
    check(folder)
    assert text_tables(folder) == ["text", "text.es"]
    assert len(read_utterances(folder)) == 12


def test_a_text_that_is_not_utf8_is_a_fault(folder: Path) -> None:
    append(folder / "text", "vm-zz ma\xf1ana\n".encode("latin-1"))
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


@pytest.mark.parametrize("line", ["vm-sorry 1.5 1.0", "vm-sorry one 2", "nobody 0 1", "vm-sorry 0"])
def test_bad_segments_are_a_fault(folder: Path, line: str) -> None:
    write_table(folder / "segments", {"s1": line})
    (fault,) = validate(folder)
    assert f"{folder}/segments: 's1'" in fault


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
    assert len(read_utterances(folder)) == 11
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
    assert list(read_table(folder / "wav.scp")) == ["vm-sorry"]
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


def test_the_command_validates(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", plain) == 0
    assert capsys.readouterr().out == f"{plain}: sound, 12 utterances\n"
    (plain / "text").rename(plain / "old")
    assert run("validate", plain) == 2
    assert "has no text" in capsys.readouterr().err
    assert run("validate", plain, "--no-text") == 0


def test_the_command_fixes(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (plain / "text").open("a") as text:
        text.write("ghost boo\n")
    assert run("validate", plain) == 2
    assert run("fix", plain) == 0
    assert f"{plain}/text: dropped 1: ghost" in capsys.readouterr().out
    assert run("validate", plain) == 0


def test_the_command_writes_subsets(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part"
    assert run("subset", plain, part, "--first", 3) == 0
    check(part)
    assert list(read_table(part / "text")) == ["agent-incorrect", "agent-newlocation", "cannot-complete-as-dialed"]
    assert run("subset", plain, part, "--min-words", 12) == 0
    words = {len(text.split()) for text in read_table(part / "text").values()}
    assert words
    assert min(words) >= 12
    (tmp_path / "ids").write_text("vm-sorry whatever\nunknown\n")
    capsys.readouterr()
    assert run("subset", plain, part, "--utts", tmp_path / "ids") == 0
    assert capsys.readouterr().out == f"{part}: 1 of 12 utterances\n1 wanted ids are not in {plain}: unknown\n"
    before = (plain / "text").read_bytes()
    assert run("subset", plain, plain, "--first", 3) == 2
    assert run("subset", plain, part, "--min-words", 500) == 2
    assert "was not written" in capsys.readouterr().err
    assert (plain / "text").read_bytes() == before


def test_the_command_splits(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("split", plain, 5) == 0
    parts = [read_table(plain / "split5" / str(part) / "wav.scp") for part in range(1, 6)]
    assert sorted(utt for part in parts for utt in part) == sorted(read_table(plain / "wav.scp"))
    assert sorted(map(len, parts)) == [2, 2, 2, 3, 3]
    check(plain / "split5" / "1")
    assert run("split", plain, 13) == 2
    assert "has 12 utterances and cannot be split into 13 parts" in capsys.readouterr().err
