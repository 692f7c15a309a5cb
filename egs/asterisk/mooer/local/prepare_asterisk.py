#!/usr/bin/env python3
"""Write data/<lang>/{train,dev,test} from the Asterisk studio prompts: human speech, human transcripts, parallel ids.

Usage: local/prepare_asterisk.py [--langs en es] [--out data] [--max-utts N]

The split is by prompt across ALL five languages, whichever are asked for: prompts whose normalised transcripts are
equal in any language form one group, and a group goes to one side as a whole. So neither the wording nor the
translation of a test prompt is ever trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from mooer_tk.data.atomic import replacing_dir
from mooer_tk.data.audio import SAMPLE_RATE, load_audio
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.data.skips import report_skips
from mooer_tk.errors import UserError, exit_status, nearest
from mooer_tk.progress import log, track

FETCH = Path(__file__).resolve().parents[4] / "tools" / "fetch.py"
SOUND_LANGS = ("en", "es", "fr", "it", "ru")
SHARES = {"train": 0.70, "dev": 0.08, "test": 0.22}
SENTENCE_WORDS = 3
# Upstream's typing errors in ids; the recordings were listened to.
RENAMED = {"confbridge-lock-out-0": "confbridge-lock-out"}
# Round brackets hold remarks, except in these prompts, whose speaker reads them out. Square ones are never read.
READ_OUT = {
    ("fr", "priv-callee-options"),
    ("fr", "screen-callee-options"),
    ("it", "demo-instruct"),
    ("ru", "vm-review-nonurgent"),
}
SYMBOLS = {"en": {"*": "star", "#": "pound"}, "fr": {"*": "étoile", "#": "dièse"}}


@dataclass
class Transcripts:
    """The prompts of one language: id -> cleaned text, and id -> why it was left out."""

    texts: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    noises: set[str] = field(default_factory=set)


def main() -> int:
    """Prepare the languages that were asked for and print a table of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langs", nargs="+", default=["en", "es"], help="languages, of: " + " ".join(SOUND_LANGS))
    parser.add_argument("--out", type=Path, default=Path("data"), help="where <lang>/<split> is written")
    parser.add_argument("--max-utts", type=int, default=0, help="utterances of each set at most; 0: all")
    args = parser.parse_args()
    langs = " ".join(args.langs).replace(",", " ").split()
    for lang in langs:
        if lang not in SOUND_LANGS:
            raise UserError(f"--langs: there is no language '{lang}': {nearest(lang, SOUND_LANGS)}")
    folders = fetched("asterisk-text", *(f"asterisk-sounds:{lang}" for lang in langs))
    everything = read_all(folders["asterisk-text"])
    side = split(everything)
    print(f"{'set':<9} {'prompts':>8} {f'{SENTENCE_WORDS}+ words':>8} {'hours':>7}")
    for lang in langs:
        audio = folders[f"asterisk-sounds:{lang}"] / "audio"
        for row in write_language(lang, everything, side, audio, args.out / lang, args.max_utts):
            print(row)
    return 0


def fetched(*names: str) -> dict[str, Path]:
    """The folder of each name that tools/fetch.py knows; what stage 0 has brought is found there at once.

    Raises:
        UserError: one of them cannot be had; tools/fetch.py has said why.
    """
    done = subprocess.run([sys.executable, str(FETCH), *names], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"tools/fetch.py could not bring {', '.join(names)}: see above")
    return {name: Path(path) for name, _, path in (line.split("\t") for line in done.stdout.splitlines())}


def read_all(folder: Path) -> dict[str, Transcripts]:
    """Read <folder>/<lang>.txt of all languages; prompts that are a noise in one language are left out of all."""
    everything = {lang: read_transcripts((folder / f"{lang}.txt").read_bytes(), lang) for lang in SOUND_LANGS}
    noises = set().union(*(transcripts.noises for transcripts in everything.values()))
    for transcripts in everything.values():
        for prompt in noises & set(transcripts.texts):
            del transcripts.texts[prompt]
            transcripts.left_out[prompt] = "no speech: a sound effect"
    return everything


def read_transcripts(raw: bytes, lang: str) -> Transcripts:
    """Parse `id: text` lines (`;` begins a comment) and clean the texts."""
    found = Transcripts()
    for line in raw.decode("utf-8-sig").splitlines():
        prompt, colon, text = line.partition(":")
        if not colon or line.startswith(";"):
            continue
        prompt = RENAMED.get(prompt.strip(), prompt.strip())
        cleaned = clean(text, lang, prompt)
        if prompt.startswith("silence/"):
            found.left_out[prompt] = "no speech: silence"
        elif not cleaned and text.strip():
            found.left_out[prompt] = "no speech: a sound effect"
            found.noises.add(prompt)
        elif not cleaned:
            found.left_out[prompt] = "no transcript"
        elif prompt in found.left_out or found.texts.get(prompt, cleaned) != cleaned:
            found.texts.pop(prompt, None)
            found.left_out[prompt] = "two different transcripts"
        else:
            found.texts[prompt] = cleaned
    return found


def clean(text: str, lang: str, prompt: str) -> str:
    """Remove what is not spoken: remarks in brackets, quotation marks, dots that mark an open sentence."""
    # Two lines of the originals hold an id once more: the prompt's own before the text, the next one's after it.
    text = text.strip().removeprefix(f"{prompt}:")
    text = re.split(r"\s[a-z]+(?:-[a-z]+)+: ", text)[0]
    text = re.sub(r"\[[^]]*\]|<[^>]*>", " ", text)
    text = text.translate(str.maketrans("()", "  ")) if (lang, prompt) in READ_OUT else re.sub(r"\([^)]*\)", " ", text)
    for symbol, spoken in SYMBOLS.get(lang, {}).items():
        text = text.replace(symbol, spoken)
    text = re.sub(r"\s*/\s*", ", ", text)
    text = re.sub(r'["«»“”]', "", text)
    text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
    return re.sub(r"^[.…\s]+|(?:\.{2,}|…)[.…\s]*$", "", text).strip(" ,")


def fold(text: str) -> str:
    """Letters and digits only, lower case, without accents: what makes two transcripts the same wording."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.sub(r"[^\w\s]|_", " ", "".join(c for c in plain if not unicodedata.combining(c))).split())


def split(everything: dict[str, Transcripts]) -> dict[str, str]:
    """Prompt id -> train, dev or test; groups of equal wording stay together, by the SHA-1 of their first id."""
    leader = {prompt: prompt for transcripts in everything.values() for prompt in transcripts.texts}

    def find(prompt: str) -> str:
        while leader[prompt] != prompt:
            prompt = leader[prompt]
        return prompt

    for transcripts in everything.values():
        first: dict[str, str] = {}
        for prompt, text in transcripts.texts.items():
            one, other = sorted((find(prompt), find(first.setdefault(fold(text), prompt))))
            leader[other] = one
    return {prompt: _side(find(prompt)) for prompt in leader}


def _place(name: str) -> float:
    """A number in [0, 1) drawn by the name."""
    return int.from_bytes(hashlib.sha1(name.encode()).digest()[:8], "big") / 2**64


def _side(group: str) -> str:
    at = _place(group)
    for name, share in SHARES.items():
        if at < share:
            return name
        at -= share
    return "test"


def write_language(
    lang: str, everything: dict[str, Transcripts], side: dict[str, str], audio: Path, out: Path, max_utts: int = 0
) -> list[str]:
    """Write <out>/{train,dev,test} and <out>/left_out.tsv; return the rows of the table that is printed.

    Of each set, at most `max_utts` utterances are written (0: all), the same prompts in every language.
    """
    recorded = {path.relative_to(audio).with_suffix("").as_posix(): path for path in sorted(audio.rglob("*.g722"))}
    texts = everything[lang].texts
    left_out: dict[str, str] = {}
    for prompt in sorted({*recorded, *texts, *everything[lang].left_out}):
        if prompt not in texts:
            unknown = "no speech: silence" if prompt.startswith("silence/") else "no transcript"
            left_out[prompt] = everything[lang].left_out.get(prompt, unknown)
        elif prompt not in recorded:
            left_out[prompt] = "no recording"
    prompts = sorted(set(texts) & set(recorded))
    seconds = {p: len(load_audio(recorded[p])) / SAMPLE_RATE for p in track(prompts, f"measuring {lang}", len(prompts))}
    rows = []
    for name in SHARES:
        chosen = sorted((p for p in prompts if side[p] == name), key=_place)
        if max_utts:
            chosen = chosen[:max_utts]
        ids = {f"{lang}-{p.replace('/', '_')}": p for p in chosen}
        with replacing_dir(out / name) as folder:
            write_table(folder / "wav.scp", {utt: str(recorded[p]) for utt, p in ids.items()})
            write_table(folder / "text", {utt: texts[p] for utt, p in ids.items()})
            write_table(folder / "utt2spk", dict.fromkeys(ids, lang))
            write_table(folder / "utt2dur", {utt: f"{seconds[p]:.3f}" for utt, p in ids.items()})
            if lang != "en":
                english = everything["en"].texts
                write_table(folder / "text.en", {utt: english[p] for utt, p in ids.items() if p in english})
        sentences = sum(len(texts[p].split()) >= SENTENCE_WORDS for p in ids.values())
        hours = sum(seconds[p] for p in ids.values()) / 3600
        rows.append(f"{lang + '/' + name:<9} {len(ids):>8} {sentences:>8} {hours:>7.3f}")
    total = len(prompts) + len(left_out)
    log(report_skips(f"prompts of {lang}", left_out, total, out / "left_out.tsv", max_share=1.0))
    return rows


if __name__ == "__main__":
    sys.exit(exit_status(Path(__file__).name, main))
