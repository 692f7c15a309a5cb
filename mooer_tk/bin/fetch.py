"""Bring models, sounds, sentences and voices into the cache ($MOOER_CACHE or ~/.cache/mooer_tk), checked by SHA-256.

A second run finds everything there and needs no network. Names, see --list:
  mooer fetch whisper-base teacher:whisper-base smollm2-135m-instruct
  mooer fetch asterisk-sounds:en,es fortunes flite espeak-ng
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from mooer_tk.errors import UserError, nearest
from mooer_tk.hub.cache import cache_root
from mooer_tk.hub.models import MODELS, TEACHERS, resolve_model, resolve_teacher
from mooer_tk.hub.packages import PACKAGES, SOUND_LANGS, fetch_package

TOOLS = ("fortunes", "flite", "espeak-ng")
SOUNDS, TRANSCRIPTS = "asterisk-sounds", "asterisk-text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mooer fetch`."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="what to fetch; a hub name organisation/name works too"
    )
    parser.add_argument("--list", action="store_true", help="list the names and what is in the cache already")


def run(args: argparse.Namespace) -> int:
    """Fetch every name; print `name <tab> source <tab> path`, one a line."""
    if args.list:
        print("\n".join(_listing()))
        return 0
    if not args.names:
        raise UserError("nothing to fetch: give names, or --list to see them")
    for name in args.names:
        for shown, source, path in _fetch(name):
            print(f"{shown}\t{source}\t{path}", flush=True)
    return 0


def _fetch(name: str) -> Iterator[tuple[str, str, Path]]:
    kind, _, rest = name.partition(":")
    if name == TRANSCRIPTS:
        yield name, "packages", fetch_package("asterisk-transcripts-1.6.1")
    elif kind == SOUNDS:
        # The split into train, dev and test looks at the transcripts of every language.
        yield from _fetch(TRANSCRIPTS)
        for lang in rest.split(",") if rest else SOUND_LANGS:
            if lang not in SOUND_LANGS:
                raise UserError(f"{SOUNDS} has no language '{lang}': {nearest(lang, SOUND_LANGS)}")
            yield f"{SOUNDS}:{lang}", "packages", fetch_package(f"{SOUNDS}-{lang}-1.6.1")
    elif name in TOOLS:
        yield name, "packages", fetch_package(name)
    elif kind == "teacher" and rest:
        teacher = resolve_teacher(rest)
        yield name, teacher.source, teacher.path
    elif name in MODELS or "/" in name:
        model = resolve_model(name)
        yield name, model.source, model.path
    else:
        known = (*MODELS, *(f"teacher:{t}" for t in TEACHERS), SOUNDS, TRANSCRIPTS, *TOOLS)
        raise UserError(f"unknown name '{name}': {nearest(name, known)}")


def _listing() -> Iterator[str]:
    yield f"cache: {cache_root()}"
    for name, model in MODELS.items():
        yield f"  {name:<30} hub {model.repo}, or package {model.package}"
    for name, model in TEACHERS.items():
        yield f"  {'teacher:' + name:<30} hub {model.repo}, or package {model.package}"
    yield f"  {TRANSCRIPTS:<30} {PACKAGES['asterisk-transcripts-1.6.1'].what}"
    yield f"  {SOUNDS + ':LANG,...':<30} studio prompts with transcripts: {', '.join(SOUND_LANGS)}"
    for name in TOOLS:
        yield f"  {name:<30} {PACKAGES[name].what}"
    yield "packages:"
    for name, package in PACKAGES.items():
        there = "in the cache" if (cache_root() / "packages" / name).is_dir() else "not fetched"
        yield f"  {name:<30} {there:<13} {package.licence}"
