"""Named, versioned text normalisers: a score means nothing without the id of the one it was made with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from unicodedata import normalize

import regex

from mooer_tk.errors import UserError, nearest

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇`´", "'"))
_BRACKETED = regex.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>|\{[^}]*\}")
_INVISIBLE = regex.compile(r"\p{Cf}+")
_PUNCTUATION = regex.compile(r"[^\p{L}\p{M}\p{N}\s']+")
_OUTER_APOSTROPHE = regex.compile(r"(?<![\p{L}\p{M}\p{N}])'+|'+(?![\p{L}\p{M}\p{N}])")


@dataclass(frozen=True)
class Normaliser:
    """A text normaliser, str -> str; blanks are always collapsed and trimmed.

    Attributes:
        id: name and version, for example "whisper-en/1". The version is raised whenever the output of any
            text changes, so that scores under the same id can be compared.
    """

    id: str
    rewrite: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return " ".join(self.rewrite(text).split())


def _target(text: str) -> str:
    # NFKC would turn the acute accent typed for an apostrophe into a combining mark: unify apostrophes first.
    text = normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = _BRACKETED.sub(" ", text)
    text = _INVISIBLE.sub("", text)
    text = _PUNCTUATION.sub(" ", text)
    return _OUTER_APOSTROPHE.sub(" ", text)


def _whisper() -> ModuleType:
    from transformers.models.whisper import english_normalizer

    return english_normalizer


_TABLE: dict[str, tuple[str, Callable[[], Callable[[str], str]]]] = {
    "none": ("none/1", lambda: str),
    "target-en": ("target/1", lambda: _target),
    "whisper-en": ("whisper-en/1", lambda: _whisper().EnglishTextNormalizer({})),
    "whisper-basic": ("whisper-basic/1", lambda: _whisper().BasicTextNormalizer()),
    "whisper-basic-fold": ("whisper-basic-fold/1", lambda: _whisper().BasicTextNormalizer(remove_diacritics=True)),
}

NORMALISERS = tuple(_TABLE)
"""Names that `get_normaliser` knows."""


@cache
def get_normaliser(name: str) -> Normaliser:
    """Return the normaliser of this name.

    - `none`: blanks only.
    - `target-en`: the form of ASR training targets: NFKC, lower case, bracketed stretches ([tone], (noise),
      <unk>, {laugh}) dropped, punctuation and symbols replaced by a blank, apostrophes kept inside words,
      letters with their marks and digits of every script kept.
    - `whisper-en`: English, numbers and contractions unified, without the British-American spelling list.
    - `whisper-basic`: other languages, punctuation and bracketed stretches dropped.
    - `whisper-basic-fold`: the same without diacritics, for references that were written without accents.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), appendix C,
    in the transformers implementation, for the three `whisper-*`.

    Raises:
        UserError: unknown name; the message proposes the nearest.
    """
    if name not in _TABLE:
        raise UserError(f"there is no normaliser '{name}': {nearest(name, _TABLE)}")
    identity, make = _TABLE[name]
    return Normaliser(identity, make())
