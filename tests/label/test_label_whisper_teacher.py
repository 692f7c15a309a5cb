"""The teacher alone: short windows, batches, and what an utterance is worth in them."""

import numpy as np
import pytest

pytest.importorskip("faster_whisper")

from mooer_tk.label.whisper_teacher import WhisperTeacher
from mooer_tk.score.error_rate import error_rate
from mooer_tk.score.normalise import get_normaliser


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    return WhisperTeacher("whisper-tiny.en", "en", threads=1)


def test_a_batch_says_what_its_utterances_say_alone(teacher, waves):
    names = ["vm-sorry", "conf-getpin", "tt-weasels"]
    together = [label["asr"] for label in teacher.label([waves[name] for name in names], ["asr"])]
    alone = [teacher.label([waves[name]], ["asr"])[0]["asr"] for name in names]
    assert together == alone
    assert "phone system" in together[2].lower() and "conference" in together[1].lower()


def test_speech_longer_than_a_window_is_heard_to_its_end(teacher, waves, prompts):
    names = ["agent-incorrect", "ss-noservice", "pbx-invalidpark", "agent-newlocation"]
    wave = np.concatenate([waves[name] for name in names])
    assert 10 < len(wave) / 16_000 < 30
    (label,) = teacher.label([wave], ["asr"])
    said = {"all": " ".join(prompts[name][1] for name in names)}
    assert error_rate(said, {"all": label["asr"]}, unit="word", normaliser=get_normaliser("whisper-en")).rate < 30


def test_labels_are_one_line_of_text(teacher, waves):
    (label,) = teacher.label([waves["agent-incorrect"]], ["asr"])
    assert label["asr"] == " ".join(label["asr"].split()) and "<|" not in label["asr"]
