"""utils/label_report.py: its scores are those of the tables, the worst labels are named, unfinished ones refused."""

import json

import pytest

from mooer_tk.data.atomic import mark_done
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation
from utils.label_report import main


@pytest.fixture
def folders(tmp_path, noisy_texts):
    """Human text and labels of 40 utterances, of which the labels lack one."""
    human, labels = noisy_texts(40)
    del labels["u0003"]
    for name in ("text", "text.en"):
        write_table(tmp_path / "data" / name, human)
        write_table(tmp_path / "data_pl" / name, labels)
    return tmp_path / "data", tmp_path / "data_pl", {utt: human[utt] for utt in labels}, labels


def finish(labels, language="en"):
    mark_done(labels, "mark", teacher="whisper-tiny.en", language=language, tasks=["asr", "ast"], beam=1)


def test_the_scores_are_those_of_the_utterances_that_both_have(folders):
    data, out, human, labels = folders
    finish(out)
    assert main([str(data), str(out)]) == 0
    report, text = json.loads((out / "report.json").read_text()), (out / "report.md").read_text()
    rate = error_rate(human, labels, unit="word", normaliser=get_normaliser("whisper-en"))
    scores = translation(human, labels, normaliser=get_normaliser("none"))
    assert report["wer_whisper-en"] == pytest.approx(rate.rate, abs=0.01)
    assert report["bleu"] == pytest.approx(scores.bleu.score, abs=0.01)
    assert report["chrf"] == pytest.approx(scores.chrf.score, abs=0.01)
    assert (report["teacher"], report["tasks"]) == ("whisper-tiny.en", ["asr", "ast"])
    assert text.startswith(f"# Labels of {data}\n\nteacher whisper-tiny.en, language en, ")
    assert "\n\n| metric | normaliser | utterances | value | 95 % |\n| --- | --- | --- | --- | --- |\n" in text
    assert f"\n| WER % | whisper-en | 39 | {rate.rate:.2f} | " in text
    worst = max(rate.utts, key=lambda utt: utt.errors)
    assert f"- `{worst.utt}` ({worst.errors} errors)\n  human: {worst.ref}\n  label: {worst.hyp}" in text


def test_other_languages_than_english_are_also_scored_without_accents(folders):
    data, out, *_ = folders
    write_table(data / "text", {"u0001": "está aquí"})
    write_table(out / "text", {"u0001": "esta aqui"})
    finish(out, "es")
    assert main([str(data), str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["wer_whisper-basic"], report["wer_whisper-basic-fold"]) == (100.0, 0.0)


def test_without_human_text_it_says_so(folders):
    data, out, *_ = folders
    finish(out)
    for name in ("text", "text.en"):
        (data / name).unlink()
    assert main([str(data), str(out)]) == 0
    assert "There is no human text to compare with." in (out / "report.md").read_text()


def test_labels_that_are_not_finished_or_do_not_say_how_they_were_made_are_refused(folders, capsys):
    data, out, *_ = folders
    assert main([str(data), str(out)]) == 2
    assert "label_report.py: error: " in (told := capsys.readouterr().err) and "holds no finished labels" in told
    mark_done(out, "mark", utterances=39)
    assert main([str(data), str(out)]) == 2
    assert "is of an older version: remove this file and run stage 2 again" in capsys.readouterr().err
    assert not (out / "report.md").exists()
