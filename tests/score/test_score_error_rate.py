"""WER and CER against counts made by hand."""

import pytest

from mooer_tk.errors import UserError
from mooer_tk.score.error_rate import error_rate, write_alignments
from mooer_tk.score.normalise import get_normaliser

NONE = get_normaliser("none")
REFS = {"u1": "the cat sat on the mat", "u2": "hello world", "u3": "yes"}
HYPS = {"u1": "the cat sit on mat", "u2": "hello big world", "u3": ""}


def test_wer_equals_the_count_by_hand():
    result = error_rate(REFS, HYPS, unit="word", normaliser=NONE)
    # u1: sat->sit, one "the" lost; u2: "big" inserted; u3: "yes" lost.
    assert result.counts == {"hits": 6, "substitutions": 1, "deletions": 2, "insertions": 1, "ref_length": 9}
    assert result.rate == pytest.approx(100 * 4 / 9)
    assert [utt.errors for utt in result.utts] == [2, 1, 1]
    assert result.utts[0].rate == pytest.approx(100 * 2 / 6)


def test_cer_does_not_count_blanks():
    result = error_rate({"a": "ab cd"}, {"a": "abcx"}, unit="character", normaliser=NONE)
    assert result.counts == {"hits": 3, "substitutions": 1, "deletions": 0, "insertions": 0, "ref_length": 4}
    assert result.rate == pytest.approx(25.0)
    chinese = error_rate({"a": "今天天气好"}, {"a": "今天 天汽好"}, unit="character", normaliser=NONE)
    assert chinese.rate == pytest.approx(20.0)


def test_the_normaliser_decides_what_is_an_error():
    refs, hyps = {"a": "Mr. Smith paid 200"}, {"a": "mister smith paid two hundred"}
    rates = {
        name: error_rate(refs, hyps, unit="word", normaliser=get_normaliser(name)).rate
        for name in ("none", "target-en", "whisper-en")
    }
    assert rates["whisper-en"] == 0.0
    assert rates["target-en"] == pytest.approx(100 * 3 / 4)
    assert rates["none"] > rates["target-en"]


def test_an_empty_reference_is_skipped_and_its_words_are_reported():
    refs, hyps = {**REFS, "noise": "[tone] ..."}, {**HYPS, "noise": "thank you so much"}
    result = error_rate(refs, hyps, unit="word", normaliser=get_normaliser("target-en"))
    assert result.skipped == ("noise",)
    assert result.words_on_empty == 4
    assert result.rate == pytest.approx(100 * 4 / 9)


def test_ids_that_one_side_lacks_are_listed_up_to_five_with_their_number():
    refs = {f"u{i}": "a" for i in range(9)}
    with pytest.raises(
        UserError, match=r"7 ids of the references are not in the hypotheses: u2, .*u6, \.\.\."
    ) as error:
        error_rate(refs, {"u0": "a", "u1": "a", "zz": "a"}, unit="word", normaliser=NONE)
    assert "1 ids of the hypotheses are not in the references: zz" in str(error.value)
    assert "u7" not in str(error.value)


def test_min_words_counts_normalised_words():
    refs = {"a": "one two three", "b": "one, two (noise)", "c": "one two three four"}
    result = error_rate(refs, refs, unit="word", normaliser=get_normaliser("target-en")).subset(3)
    assert [utt.utt for utt in result.utts] == ["a", "c"]
    assert result.subset(9) is None


def test_all_references_empty_is_an_error_not_a_division_by_zero():
    with pytest.raises(UserError, match="target/1"):
        error_rate({"a": "..."}, {"a": "b"}, unit="word", normaliser=get_normaliser("target-en"))


def test_alignment_file_shows_each_utterance_with_its_marks(tmp_path):
    write_alignments(tmp_path / "align.txt", error_rate(REFS, HYPS, unit="word", normaliser=NONE))
    blocks = (tmp_path / "align.txt").read_text(encoding="utf-8").split("\n\n")
    assert [block.split()[0] for block in blocks] == ["u1", "u2", "u3"]
    head, ref, hyp, marks = blocks[0].splitlines()
    assert "hits 4  sub 1  del 1  ins 0  of 6" in head
    assert ref.startswith("REF: the cat sat on") and hyp.startswith("HYP: the cat sit on")
    assert marks.split() == ["S", "D"]
    assert marks.index("S") == ref.index("sat") + 2
