#!/usr/bin/env python3
"""Write clean English sentences of 3 to 14 words, for synthetic voices to speak, from the fortunes package.

Usage: local/fortune_sentences.py [--out data/tts] [--max N] [--seed 0]

The result is <out>/text with ids fortune-00001, ... in an order drawn by the seed, so that --max N takes the first N
of the same list. No sentence has the wording of an Asterisk prompt, whichever split that prompt is in.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prepare_asterisk import fetched, fold, read_all

from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.errors import exit_status

WORDS = range(3, 15)
# Chat logs, programs, drawings, nonsense, and files whose humour is about groups of people.
LEFT_OUT_FILES = {
    *("ascii-art", "drugs", "ethnic", "knghtbrd", "men-women", "perl", "pratchett", "translate-me", "zippy"),
}
LEFT_OUT_WORDS = re.compile(
    r"\b(sex\w*|fuck\w*|shit\w*|damn\w*|bitch\w*|whores?|bastards?|ass(es)?|arse|rap(e|ed|ist)|virgin\w*|nude|naked"
    r"|orgasm\w*|breasts?|penis|prostitut\w*|niggers?|jews?|negro\w*|fag\w*|gay|lesbian\w*|suicide|kill\w*)\b",
    re.IGNORECASE,
)
ABBREVIATED = re.compile(r"\b(Mr|Mrs|Ms|Dr|St)\.")
SENTENCE_END = re.compile(r"(?<=[.?!])[)']*\s+(?=[(']?[A-Z])")
CLAUSE_END = re.compile(r"[,;:] | -+ ")
# Words with inner apostrophes or hyphens, separated by single blanks and commas, one mark at the end.
_WORD = r"(?:[A-Za-z][a-z]*(?:'[a-z]+)?(?:-[a-z]+)*)"
CLEAN = re.compile(rf"{_WORD}(?:[,;]? {_WORD})+[.?!]?")
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)*")
FIRST_PERSON = {"I", "I'm", "I'll", "I've", "I'd"}


def main() -> int:
    """Write <out>/text and say how many sentences there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/tts"), help="directory of the text file")
    parser.add_argument("--max", type=int, default=0, help="how many sentences at most; 0 means all")
    parser.add_argument("--seed", type=int, default=0, help="draws the order of the sentences")
    args = parser.parse_args()
    folders = fetched("asterisk-text", "fortunes")
    prompts = read_all(folders["asterisk-text"])["en"]
    found = sentences(folders["fortunes"] / "files", {fold(text) for text in prompts.texts.values()})
    found.sort(key=lambda text: hashlib.sha1(f"{args.seed} {text}".encode()).digest())
    kept = found[: args.max or None]
    write_table(args.out / "text", {f"fortune-{number:05d}": text for number, text in enumerate(kept, 1)})
    print(f"{args.out / 'text'}: {len(kept)} of {len(found)} sentences, {sum(len(t.split()) for t in kept)} words")
    return 0


def sentences(folder: Path, taken: set[str]) -> list[str]:
    """All clean sentences, and the clauses of sentences that are too long, of the files in `folder`.

    Each wording comes once, and none whose folded wording is in `taken`.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.name not in LEFT_OUT_FILES]
    found = [piece for path in paths for saying in _sayings(path) for piece in _pieces(saying)]
    known = Counter(word for piece in found for word in WORD.findall(piece)[1:])
    kept: dict[str, str] = {}
    for piece in found:
        if CLEAN.fullmatch(piece) and _common(piece, known) and not LEFT_OUT_WORDS.search(piece):
            kept.setdefault(fold(piece), piece)
    return [piece for wording, piece in kept.items() if wording not in taken]


def _pieces(saying: str) -> Iterator[str]:
    for sentence in SENTENCE_END.split(ABBREVIATED.sub(r"\1", saying)):
        sentence = re.sub(r"\s*--\s*", ", ", sentence.strip(" ()")) if sentence[-1:] in (".", "?", "!") else ""
        pieces = [sentence] if len(sentence.split()) in WORDS else CLAUSE_END.split(sentence)
        yield from (piece for piece in pieces if len(piece.split()) in WORDS)


def _common(piece: str, known: Counter[str]) -> bool:
    """True when at most one word was seen only once, and at most one is a name, which was seen often."""
    first, *rest = WORD.findall(piece)
    names = [word for word in rest if not word.islower() and word not in FIRST_PERSON]
    words = [word for word in rest if word.islower()]
    return (
        (first.lower() in known or first in FIRST_PERSON)
        and sum(known[word] < 2 for word in words) <= 1
        and (not names or (len(names) == 1 and known[names[0]] >= 3))
    )


def _sayings(path: Path) -> Iterator[str]:
    """The sayings of one fortunes file (separated by lines with %), unwrapped and without their attribution."""
    for saying in re.split(r"^%.*$", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE):
        text = re.split(r"^\s*--", saying, maxsplit=1, flags=re.MULTILINE)[0]
        # Outer quotation marks would hide where a sentence ends.
        yield " ".join(text.replace('"', "").split())


if __name__ == "__main__":
    sys.exit(exit_status(Path(__file__).name, main))
