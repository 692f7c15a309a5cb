"""Normalisers: what they change, what they keep, and that their cost is paid only when they are used."""

import subprocess
import sys

import pytest

from mooer_tk.errors import UserError
from mooer_tk.score.normalise import NORMALISERS, get_normaliser


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Hello, World!  It's [tone] a (loud noise) TEST.", "hello world it's a test"),
        ("don’t ‘quote’ rock 'n' roll dogs'", "don't quote rock n roll dogs"),
        ("don´t", "don't"),
        ("well-known: 42 <unk> {laugh}", "well known 42"),
        ("Ｈｅｌｌｏ （噪音） 世界。", "hello 世界"),
        ("¿Qué pasó, señor?", "qué pasó señor"),
        ("नमस्ते दुनिया!", "नमस्ते दुनिया"),
        ("soft\u00adly", "softly"),
        ("... -- [tone]", ""),
    ],
)
def test_training_target_keeps_words_of_every_script_and_drops_the_rest(raw, clean):
    normaliser = get_normaliser("target-en")
    assert normaliser(raw) == clean
    assert normaliser(clean) == clean


def test_whisper_english_unifies_numbers_and_titles():
    assert get_normaliser("whisper-en")("Mr. Smith won't pay two hundred!") == "mister smith will not pay 200"


def test_only_the_folding_variant_removes_accents():
    assert get_normaliser("whisper-basic")("¿Qué pasó?") == "qué pasó"
    assert get_normaliser("whisper-basic-fold")("¿Qué pasó?") == "que paso"


def test_none_collapses_blanks_and_nothing_else():
    assert get_normaliser("none")("  A,\tb  (c)\n") == "A, b (c)"


def test_ids_carry_a_version_and_differ():
    ids = [get_normaliser(name).id for name in NORMALISERS]
    assert len(set(ids)) == len(ids)
    assert get_normaliser("target-en").id == "target/1"
    assert get_normaliser("whisper-en").id == "whisper-en/1"


def test_misspelt_name_proposes_the_nearest():
    with pytest.raises(UserError, match="did you mean 'whisper-basic'"):
        get_normaliser("whisper-basik")


def test_the_module_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from mooer_tk.score.normalise import get_normaliser; get_normaliser('target-en')('a');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
