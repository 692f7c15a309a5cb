"""Results that come one by one: what was written before a kill is kept, what was torn or is of another run is not."""

from mooer_tk.data.result_log import ResultLog


def test_results_survive_and_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    ResultLog(path, "run").add([{"utt": "a", "text": "ä"}, {"utt": "b", "text": "two"}])
    with path.open("ab") as file:
        file.write(b'{"utt": "c", "text": "thr')
    log = ResultLog(path, "run")
    assert log.results == {"a": {"utt": "a", "text": "ä"}, "b": {"utt": "b", "text": "two"}}
    log.add([{"utt": "c", "text": "three"}])
    assert sorted(ResultLog(path, "run").results) == ["a", "b", "c"]


def test_a_line_torn_within_a_letter_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    ResultLog(path, "run").add([{"utt": "a"}])
    with path.open("ab") as file:
        file.write('{"utt": "b", "text": "ä'.encode()[:-1])
    assert list(ResultLog(path, "run").results) == ["a"]


def test_results_of_another_run_are_not_taken(tmp_path):
    path = tmp_path / "log.jsonl"
    ResultLog(path, "run").add([{"utt": "a"}])
    assert ResultLog(path, "other").results == {}
    assert ResultLog(path, "run").results == {}


def test_results_whose_first_line_is_lost_are_not_taken(tmp_path):
    path = tmp_path / "log.jsonl"
    ResultLog(path, "run").add([{"utt": "a"}])
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    assert ResultLog(path, "run").results == {}
