#!/usr/bin/env python3
"""Bring models, sounds, sentences and voices into the cache ($MOOER_CACHE or ~/.cache/mooer_tk), checked by SHA-256.

A second run finds everything there and needs no network. Names, see --list:
  tools/fetch.py whisper-base teacher:whisper-base smollm2-135m-instruct
  tools/fetch.py asterisk-sounds:en,es fortunes flite espeak-ng
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from hub.models import fetch_model
from hub.packages import PACKAGES, SOUND_LANGS, fetch_package
from mooer_tk.errors import UserError, exit_status, nearest
from mooer_tk.models import MODELS, TEACHERS, cache_root
from mooer_tk.progress import quiet_libraries

TOOLS = ("fortunes", "flite", "espeak-ng")
SOUNDS, TRANSCRIPTS = "asterisk-sounds", "asterisk-text"


def main(argv: list[str] | None = None) -> int:
    """Read the command line, fetch every name; print `name <tab> source <tab> path`, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; organisation/name works too")
    parser.add_argument("--list", action="store_true", help="list the names and what is in the cache already")
    args = parser.parse_args(argv)
    quiet_libraries()
    return exit_status(Path(__file__).name, lambda: _print_listing() if args.list else fetch(args.names))


def fetch(names: list[str]) -> int:
    """Fetch every name and print a line for each folder; returns 0.

    Raises:
        UserError: no name, an unknown one, or one that no source has.
    """
    if not names:
        raise UserError("nothing to fetch: give names, or --list to see them")
    for name in names:
        # What libraries print while they convert a model must not mix with the folders.
        with contextlib.redirect_stdout(sys.stderr):
            folders = list(_fetch(name))
        for shown, source, path in folders:
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
        teacher = fetch_model(rest, "teacher")
        yield name, teacher.source, teacher.path
    elif name in MODELS or "/" in name:
        model = fetch_model(name)
        yield name, model.source, model.path
    else:
        known = (*MODELS, *(f"teacher:{t}" for t in TEACHERS), SOUNDS, TRANSCRIPTS, *TOOLS)
        raise UserError(f"unknown name '{name}': {nearest(name, known)}")


def _print_listing() -> int:
    print(f"cache: {cache_root()}")
    for prefix, table in (("", MODELS), ("teacher:", TEACHERS)):
        for name, model in table.items():
            print(f"  {prefix + name:<30} hub {model.repo}, or package {Path(model.entry).name}")
    print(f"  {TRANSCRIPTS:<30} {PACKAGES['asterisk-transcripts-1.6.1'].what}")
    print(f"  {SOUNDS + ':LANG,...':<30} studio prompts with transcripts: {', '.join(SOUND_LANGS)}")
    for name in TOOLS:
        print(f"  {name:<30} {PACKAGES[name].what}")
    print("packages:")
    for name, package in PACKAGES.items():
        there = "in the cache" if (cache_root() / "packages" / name).is_dir() else "not fetched"
        print(f"  {name:<30} {there:<13} {package.licence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
