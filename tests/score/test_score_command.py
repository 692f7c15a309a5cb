"""`mooer score`, from text files to reports."""

import argparse
import json

import pytest

from mooer_tk.bin import score
from mooer_tk.errors import UserError


def run(tmp_path, ref, hyp, *options):
    for name, content in (("ref", ref), ("hyp", hyp)):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    paths = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp"), "--out", str(tmp_path / "out")]
    assert score.run(parser.parse_args([*paths, *options])) == 0
    return json.loads((tmp_path / "out" / "score.json").read_text(encoding="utf-8"))


REF = "u1 The cat sat on the mat.\nu2 Hello, world!\nu3 [tone]\n"
HYP = "u1 the cat sit on mat\nu2 hello big world\nu3 uh\n"


def test_wer_reports_everything_a_reader_needs(tmp_path, capsys):
    report = run(tmp_path, REF, HYP, "--metric", "wer", "--normaliser", "target-en", "--bootstrap", "50")
    numbers = report["scores"]["wer"]
    assert numbers["value"] == pytest.approx(100 * 3 / 8)
    assert numbers["low"] <= numbers["value"] <= numbers["high"]
    assert (numbers["utterances"], numbers["skipped"], numbers["words_on_empty"]) == (2, 1, 1)
    assert numbers["skipped_ids"] == ["u3"]
    assert report["normaliser"] == "target/1" and "norm:target/1" in numbers["signature"]
    subset = report["scores"]["wer_subset"]
    assert (subset["min_words"], subset["utterances"]) == (3, 1)
    assert subset["value"] == pytest.approx(100 * 2 / 6)
    assert "37.50" in capsys.readouterr().out
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"score.json", "per_utt.tsv", "align.txt"}
    lines = [line.split("\t") for line in (tmp_path / "out" / "per_utt.tsv").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["utt", "rate"], ["u1", "33.33"], ["u2", "50.00"]]


def test_cer_of_text_without_blanks_has_no_word_subset(tmp_path):
    report = run(tmp_path, "a 今天天气好\n", "a 今天天汽好\n", "--metric", "cer", "--normaliser", "none")
    assert report["scores"]["cer"]["value"] == pytest.approx(20.0)
    assert "cer_subset" not in report["scores"]


def test_bleu_reports_chrf_signatures_and_no_alignment(tmp_path):
    text = "a The cat is on the mat.\nb We meet again tomorrow.\n"
    report = run(tmp_path, text, text, "--metric", "bleu", "--normaliser", "none", "--bootstrap", "0")
    assert report["scores"]["bleu"]["value"] == pytest.approx(100)
    assert report["scores"]["chrf"]["value"] == pytest.approx(100)
    assert report["scores"]["bleu"]["low"] is None
    assert "tok:13a" in report["scores"]["bleu"]["signature"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"score.json", "per_utt.tsv"}


@pytest.mark.parametrize(
    ("hyp", "message"),
    [
        (b"u1 caf\xe9\nu2 b\nu3 c\n", r"hyp:1: not UTF-8"),
        (b"u1 a\nu2 b\nu1 c\n", r"hyp:3: .*'u1'"),
        (b"u1 a\nu2 b\n", r"1 ids of the references are not in the hypotheses: u3"),
    ],
)
def test_faulty_files_are_named_with_their_line_and_nothing_is_written(tmp_path, hyp, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, REF, hyp, "--metric", "wer", "--normaliser", "target-en")
    assert not (tmp_path / "out").exists()


def test_an_unknown_normaliser_proposes_the_nearest(tmp_path):
    with pytest.raises(UserError, match="target-en"):
        run(tmp_path, REF, HYP, "--metric", "wer", "--normaliser", "target-eng")
