"""RESULTS.md: rows replaced, not duplicated; the rest of the file untouched."""

import io
import json

import pytest
from rich.console import Console

from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError
from mooer_tk.score.tables import print_table
from utils.update_results import main, render_table, update_table


def row(system, test_set, wer, **more):
    return {"system": system, "set": test_set, "WER": wer, **more}


def table_lines(path):
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def test_rerun_replaces_its_row_in_place(tmp_path):
    path = tmp_path / "RESULTS.md"
    for entry in (row("base", "clean", 9.1), row("base", "other", 15.0), row("big", "clean", 7.2)):
        update_table(path, "asr", entry, ["system", "set"])
    update_table(path, "asr", row("base", "other", 14.2), ["system", "set"])
    assert table_lines(path) == [
        "| system | set | WER |",
        "| --- | --- | --- |",
        "| base | clean | 9.1 |",
        "| base | other | 14.2 |",
        "| big | clean | 7.2 |",
    ]


def test_text_around_and_other_tables_are_kept_to_the_byte(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_bytes("# Results\r\n\r\nWritten by hand. é | bar\n".encode())
    update_table(path, "asr", row("a", "x", 1), ["system"])
    update_table(path, "st", {"system": "a", "BLEU": 30}, ["system"])
    with path.open("ab") as file:
        file.write(b"\nA last word.")
    before = path.read_bytes()
    update_table(path, "asr", row("a", "x", 2), ["system"])
    assert path.read_bytes() == before.replace(b"| a | x | 1 |", b"| a | x | 2 |")
    assert [p.name for p in tmp_path.iterdir()] == ["RESULTS.md"]


def test_new_columns_come_last_and_old_rows_get_empty_cells(tmp_path):
    path = tmp_path / "RESULTS.md"
    update_table(path, "asr", row("a", "x", 1), ["system"])
    update_table(path, "asr", {"RTF": 0.1, **row("b", "x", 2)}, ["system"])
    assert table_lines(path)[0] == "| system | set | WER | RTF |"
    assert table_lines(path)[2:] == ["| a | x | 1 |  |", "| b | x | 2 | 0.1 |"]


def test_bars_newlines_and_backslashes_survive_rewriting(tmp_path):
    path = tmp_path / "RESULTS.md"
    update_table(path, "t", {"name": "a|b\\|c\nd\\", "v": 1}, ["name"])
    first = path.read_bytes()
    update_table(path, "t", {"name": "a|b\\|c\nd\\", "v": 1}, ["name"])
    assert path.read_bytes() == first
    assert table_lines(path)[2] == "| a\\|b\\\\\\|c<br>d\\\\ | 1 |"


def test_a_lost_end_marker_stops_the_update_and_leaves_the_file(tmp_path):
    path = tmp_path / "RESULTS.md"
    update_table(path, "asr", row("a", "x", 1), ["system"])
    path.write_text(path.read_text(encoding="utf-8").replace("<!-- end:asr -->", ""), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(UserError, match="end:asr"):
        update_table(path, "asr", row("a", "x", 2), ["system"])
    assert path.read_bytes() == before


def test_a_table_whose_rule_was_lost_stops_the_update_instead_of_eating_a_row(tmp_path):
    path = tmp_path / "RESULTS.md"
    update_table(path, "asr", row("a", "x", 1), ["system"])
    path.write_text(path.read_text(encoding="utf-8").replace("| --- | --- | --- |\n", ""), encoding="utf-8")
    with pytest.raises(UserError, match="second line"):
        update_table(path, "asr", row("b", "x", 2), ["system"])


def test_a_key_column_that_the_row_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match="seed"):
        update_table(tmp_path / "RESULTS.md", "asr", row("a", "x", 1), ["system", "seed"])


def test_render_and_terminal_show_the_union_of_columns():
    rows = [{"a": 1, "b": "[tone]"}, {"c": None, "a": 2}]
    assert render_table(rows).splitlines()[0] == "| a | b | c |"
    console = Console(file=io.StringIO(), width=60)
    print_table(rows, title="Set", console=console)
    shown = console.file.getvalue()
    assert "[tone]" in shown and "Set" in shown and "c" in shown


@pytest.mark.parametrize(("info", "git"), [({"git": "abc"}, "abc"), ({"from": "pretrained/asr"}, ""), (None, "")])
def test_scores_of_any_model_become_rows_whatever_is_known_of_where_it_comes_from(tmp_path, info, git):
    score = {"value": 7.125, "low": 6.0, "high": 8.0, "utterances": 40, "min_words": 3}
    folder = tmp_path / "exp" / "x"
    write_text(
        folder / "score" / "asr_en.model" / "score.json", json.dumps({"scores": {"wer": score}, "normaliser": "n"})
    )
    if info:
        write_text(folder / "model" / "info.json", json.dumps(info))
    assert main([str(folder), "--results", str(tmp_path / "RESULTS.md"), "--command", "./run.sh"]) == 0
    head, _, line = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table_lines(tmp_path / "RESULTS.md")]
    found = dict(zip(head, line, strict=True))
    assert found["git"] == git and found["test set"] == "asr en" and found["metric"] == "WER %"
    assert found["value"] == "7.12" and found["95 %"] == "6.00 - 8.00" and found["command"] == "`./run.sh`"


def test_experiments_of_two_tags_have_a_row_each(tmp_path):
    score = {"value": 7.0, "low": 6.0, "high": 8.0, "utterances": 40}
    for tag in ("one", "two"):
        folder = tmp_path / "exp" / tag / "dense"
        write_text(
            folder / "score" / "test.ctc_greedy-full" / "score.json",
            json.dumps({"scores": {"wer": score}, "normaliser": "n"}),
        )
        assert main([str(folder), "--results", str(tmp_path / "RESULTS.md"), "--command", "./run.sh"]) == 0
    lines = [line.split("|")[1].strip() for line in table_lines(tmp_path / "RESULTS.md")]
    assert lines[2:] == ["one/dense", "two/dense"]
