"""Validate, fix, subset or split a Kaldi data directory.

mooer data validate DIR [--no-text]
mooer data fix DIR
mooer data subset SRC DST --utts FILE | --first N | --min-words N
mooer data split DIR NJ
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mooer_tk.data.kaldi_dir import DataDir, check, fix, read_table, split_keys, subset
from mooer_tk.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands of `mooer data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("validate", help="name every fault; exit status 2 if there is one")
    one.add_argument("dir", type=Path)
    one.add_argument("--no-text", action="store_true", help="the directory need not have a text table")
    one = actions.add_parser("fix", help="keep the utterances that every table knows; old tables go to .backup/")
    one.add_argument("dir", type=Path)
    one = actions.add_parser("subset", help="write a part of a directory")
    one.add_argument("source", type=Path)
    one.add_argument("target", type=Path)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--utts", type=Path, help="file with one utterance id a line; more on a line is ignored")
    which.add_argument("--first", type=int, help="the first N utterances in id order")
    which.add_argument("--min-words", type=int, help="utterances whose text has at least N words")
    one = actions.add_parser("split", help="write DIR/split<NJ>/1 ... DIR/split<NJ>/<NJ>")
    one.add_argument("dir", type=Path)
    one.add_argument("nj", type=int)


def run(args: argparse.Namespace) -> int:
    """Run one action and print what it did."""
    return {"validate": _validate, "fix": _fix, "subset": _subset, "split": _split}[args.action](args)


def _validate(args: argparse.Namespace) -> int:
    check(args.dir, need_text=not args.no_text)
    print(f"{args.dir}: sound, {len(DataDir(args.dir).utterances())} utterances")
    return 0


def _fix(args: argparse.Namespace) -> int:
    dropped = fix(args.dir)
    for table, ids in dropped.items():
        print(f"{args.dir}/{table}: dropped {len(ids)}: {' '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}")
    kept = len(DataDir(args.dir).utterances())
    print(f"{args.dir}: {kept} utterances kept; the old tables are in {args.dir}/.backup")
    return 0


def _subset(args: argparse.Namespace) -> int:
    data = DataDir(args.source)
    if args.source.resolve() == args.target.resolve():
        raise UserError(f"{args.target} is the source itself. Give another directory.")
    known = [utterance.utt for utterance in data.utterances()]
    if args.utts:
        wanted = set(read_table(args.utts))
    elif args.first is not None:
        wanted = set(known[: max(args.first, 0)])
    else:
        wanted = {utt for utt, text in data.table("text").items() if len(text.split()) >= args.min_words}
    if not wanted & set(known):
        raise UserError(f"no utterance of {args.source} is wanted; {args.target} was not written.")
    count = subset(args.source, args.target, wanted)
    unknown = sorted(wanted - set(known))
    print(f"{args.target}: {count} of {len(known)} utterances")
    if unknown:
        print(f"{len(unknown)} wanted ids are not in {args.source}: {' '.join(unknown[:10])}")
    return 0


def _split(args: argparse.Namespace) -> int:
    utts = [utterance.utt for utterance in DataDir(args.dir).utterances()]
    if args.nj > len(utts):
        raise UserError(f"{args.dir} has {len(utts)} utterances and cannot be split into {args.nj} parts.")
    for part, keys in enumerate(split_keys(utts, args.nj), 1):
        count = subset(args.dir, args.dir / f"split{args.nj}" / str(part), set(keys))
        print(f"{args.dir}/split{args.nj}/{part}: {count} utterances")
    return 0
