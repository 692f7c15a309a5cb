"""The embedded recipe's data: what is transcribed is what is said, and no test prompt leaks into training."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hub.packages import SOUND_LANGS, fetch_package
from mooer_tk.data.kaldi_dir import read_table
from utils.data_dir import check

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "egs" / "asterisk" / "mooer" / "local"
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def asterisk() -> ModuleType:
    """prepare_asterisk.py as a module."""
    spec = importlib.util.spec_from_file_location("prepare_asterisk", LOCAL / "prepare_asterisk.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def transcripts(asterisk: ModuleType) -> dict[str, object]:
    return asterisk.read_all(fetch_package("asterisk-transcripts-1.6.1"))


def run(script: str, *options: object) -> str:
    command = [sys.executable, str(LOCAL / script), *map(str, options)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English and Spanish, prepared by the script itself."""
    folder = tmp_path_factory.mktemp("asterisk")
    table = run("prepare_asterisk.py", "--langs", "en", "es", "--out", folder)
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        f"{lang}/{s}" for lang in ("en", "es") for s in SPLITS
    ]
    return folder


def test_the_directories_are_sound_and_complete(data: Path) -> None:
    sizes = {}
    for lang in ("en", "es"):
        for split in SPLITS:
            folder = data / lang / split
            check(folder)
            sizes[lang, split] = len(read_table(folder / "wav.scp"))
            assert set(read_table(folder / "utt2spk").values()) == {lang}
            assert all(float(seconds) > 0.1 for seconds in read_table(folder / "utt2dur").values())
    assert sum(size for (lang, _), size in sizes.items() if lang == "en") == 551
    assert sum(size for (lang, _), size in sizes.items() if lang == "es") == 477
    for lang, total in (("en", 551), ("es", 477)):
        assert 0.65 < sizes[lang, "train"] / total < 0.75
        assert 0.05 < sizes[lang, "dev"] / total < 0.11
        assert 0.18 < sizes[lang, "test"] / total < 0.26


@pytest.mark.parametrize("lang", SOUND_LANGS)
def test_no_wording_of_a_test_prompt_is_trained_on(
    asterisk: ModuleType, transcripts: dict[str, object], lang: str
) -> None:
    """In every language, whichever was asked for: neither the words nor their translation."""
    side = asterisk.split(transcripts)
    wordings: dict[str, set[str]] = {split: set() for split in SPLITS}
    for prompt, text in transcripts[lang].texts.items():
        wordings[side[prompt]].add(asterisk.fold(text))
    assert all(wordings.values())
    assert not wordings["test"] & wordings["train"]
    assert not wordings["test"] & wordings["dev"]
    assert not wordings["dev"] & wordings["train"]


def test_no_wording_leaks_in_the_directories(asterisk: ModuleType, data: Path) -> None:
    """The same, of the files: English transcripts and English translations taken together."""
    english: dict[str, set[str]] = {split: set() for split in SPLITS}
    for table in ("en/{}/text", "es/{}/text.en"):
        for split in SPLITS:
            english[split] |= {asterisk.fold(text) for text in read_table(data / table.format(split)).values()}
    assert not english["test"] & (english["train"] | english["dev"])
    assert not english["dev"] & english["train"]


def test_the_split_does_not_depend_on_the_languages(data: Path, tmp_path: Path) -> None:
    run("prepare_asterisk.py", "--langs", "es", "--out", tmp_path)
    for split in SPLITS:
        for table in ("wav.scp", "text", "text.en", "utt2dur"):
            assert (tmp_path / "es" / split / table).read_bytes() == (data / "es" / split / table).read_bytes()


def test_small_sets_are_parts_of_the_whole_ones(data: Path, tmp_path: Path) -> None:
    run("prepare_asterisk.py", "--langs", "es", "--out", tmp_path, "--max-utts", 20)
    for split in SPLITS:
        small = read_table(tmp_path / "es" / split / "text")
        assert len(small) == 20
        assert small.items() <= read_table(data / "es" / split / "text").items()


def test_translations_are_the_english_prompts(data: Path) -> None:
    for split in SPLITS:
        spanish, english = (read_table(data / lang / split / "text") for lang in ("es", "en"))
        parallel = read_table(data / "es" / split / "text.en")
        assert parallel.keys() <= spanish.keys()
        assert len(parallel) > 0.9 * len(spanish)
        for utt, text in parallel.items():
            prompt = utt.removeprefix("es-")
            assert english.get(f"en-{prompt}", text) == text


def test_what_is_left_out_is_named(data: Path) -> None:
    lines = (data / "es" / "left_out.tsv").read_text(encoding="utf-8").splitlines()
    reasons = dict(line.split("\t") for line in lines)
    assert reasons["beep"] == "no speech: a sound effect"
    assert reasons["silence/3"] == "no speech: silence"
    assert reasons["digits/10"] == "no transcript"
    assert reasons["digits/0"] == "two different transcripts"
    recorded = {path for split in SPLITS for path in read_table(data / "es" / split / "wav.scp").values()}
    audio = fetch_package("asterisk-sounds-es-1.6.1") / "audio"
    unused = {p.relative_to(audio).with_suffix("").as_posix() for p in audio.rglob("*.g722") if str(p) not in recorded}
    assert unused <= reasons.keys()
    assert len(unused) + len(recorded) == 527


NOT_SPEECH = re.compile(r"""[][()<>{}"«»“”*#/@\ufeff]|\.\.|…|\s\s|^\W|[\w-]+/[\w-]+:""")


def test_transcripts_hold_nothing_but_speech(transcripts: dict[str, object]) -> None:
    for lang, found in transcripts.items():
        assert len(found.texts) > 450
        for prompt, text in found.texts.items():
            assert re.search(r"\w", text), (lang, prompt)
            assert not NOT_SPEECH.search(text), (lang, prompt, text)
            assert not text.startswith(";")


@pytest.mark.parametrize(
    ("lang", "prompt", "text", "spoken"),
    [
        ("en", "letters/at", " at [@]", "at"),
        ("en", "spy-iax2", ' IAX (note: does not say "2")', "IAX"),
        ("en", "confbridge-there-are", " There are currently...", "There are currently"),
        ("en", "confbridge-leave-out", " ...to leave the  conference.", "to leave the conference."),
        ("en", "dictate/both_help", " press * to toggle pause", "press star to toggle pause"),
        ("en", "beep", " [this is a simple beep tone]", ""),
        ("fr", "screen-callee-options", "menu poli (ne m'appelez plus), 4", "menu poli ne m'appelez plus, 4"),
        ("it", "invalid", " Spiacente, [quello] non è", "Spiacente, non è"),
        ("it", "confbridge-muted", " Voce disattivata. (You are now muted.)", "Voce disattivata."),
        ("it", "confbridge-mute-extended", " ...attivi. confbridge-mute-in: Per", "attivi."),
        ("ru", "conf-adminmenu", " conf-adminmenu: Нажмите 1 / 2", "Нажмите 1, 2"),
        ("ru", "demo-echodone", " «Эхо-тест» завершён.", "Эхо-тест завершён."),
    ],
)
def test_cleaning(asterisk: ModuleType, lang: str, prompt: str, text: str, spoken: str) -> None:
    assert asterisk.clean(text, lang, prompt) == spoken


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tts")
    run("fortune_sentences.py", "--out", folder)
    return read_table(folder / "text")


def test_sentences_are_clean(asterisk: ModuleType, transcripts: dict[str, object], sentences: dict[str, str]) -> None:
    assert len(sentences) > 10_000
    assert all(3 <= len(text.split()) <= 14 for text in sentences.values())
    assert all(re.fullmatch(r"[A-Za-z' ,;-]+[.?!]?", text) for text in sentences.values())
    folded = [asterisk.fold(text) for text in sentences.values()]
    assert len(set(folded)) == len(folded)
    assert not set(folded) & {asterisk.fold(text) for text in transcripts["en"].texts.values()}


def test_the_order_is_the_seeds_and_max_takes_its_head(sentences: dict[str, str], tmp_path: Path) -> None:
    run("fortune_sentences.py", "--out", tmp_path, "--max", 50)
    head = read_table(tmp_path / "text")
    assert list(head) == [f"fortune-{number:05d}" for number in range(1, 51)]
    assert head.items() <= sentences.items()
    run("fortune_sentences.py", "--out", tmp_path, "--max", 50, "--seed", 1)
    assert head != read_table(tmp_path / "text")
