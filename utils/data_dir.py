#!/usr/bin/env python3
"""Validate, fix, subset or split a Kaldi data directory.

utils/data_dir.py validate DIR [--no-text]
utils/data_dir.py fix DIR
utils/data_dir.py subset SRC DST --utts FILE | --first N | --min-words N
utils/data_dir.py split DIR NJ
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from pathlib import Path

from mooer_tk.data.atomic import replacing_dir
from mooer_tk.data.kaldi_dir import TABLES, read_recordings, read_table, read_utterances, write_table
from mooer_tk.errors import UserError


def validate(path: Path, *, need_text: bool = True) -> list[str]:
    """Return what is wrong with a data directory, one sentence a fault; an empty list means it is sound.

    Audio is not opened (that is the features stage's work), but files named in wav.scp must exist.
    """
    faults: list[str] = []
    try:
        wavs = read_recordings(path)
        utterances = read_utterances(path)
    except UserError as error:
        return [str(error)]
    for recording, source in wavs.items():
        if not source.endswith("|") and not Path(source).is_file():
            faults.append(f"{path}/wav.scp: '{recording}' names {source}, which does not exist.")
    utts = {utterance.utt for utterance in utterances}
    if not utts:
        faults.append(f"{path}/wav.scp holds no utterance.")
    names = [*text_tables(path), *(name for name in ("utt2spk", "utt2dur") if (path / name).is_file())]
    if need_text and "text" not in names:
        faults.append(f"{path} has no text.")
    for name in names:
        try:
            keys = set(read_table(path / name))
        except UserError as error:
            faults.append(str(error))
            continue
        for missing, here, there in ((keys - utts, name, "wav.scp/segments"), (utts - keys, "wav.scp/segments", name)):
            # A translation may exist for a part of the utterances only.
            if missing and not (here != name and name.startswith("text.")):
                some = ", ".join(sorted(missing)[:5])
                faults.append(f"{path}: {len(missing)} ids of {here} are not in {there}: {some}")
    return faults


def check(path: Path, *, need_text: bool = True) -> None:
    """Raise a UserError with every fault of the directory and the command that mends it."""
    faults = validate(path, need_text=need_text)
    if faults:
        listed = "\n  ".join(faults[:20])
        raise UserError(f"{path} is not sound ({len(faults)} faults):\n  {listed}\nTry: utils/fix_data_dir.sh {path}")


def fix(path: Path) -> dict[str, list[str]]:
    """Keep the utterances that every table knows and whose file exists; the old tables go to `.backup/`.

    Returns:
        table name -> ids that were dropped from it.

    Raises:
        UserError: no utterance would be left; nothing is changed then.
    """
    wavs = read_recordings(path)
    keep = present = {rec for rec, src in wavs.items() if src.endswith("|") or Path(src).is_file()}
    if (path / "segments").is_file():
        segments = read_table(path / "segments")
        keep = {utt for utt, line in segments.items() if line.split()[:1] and line.split()[0] in present}
    full = [name for name in ("text", "utt2spk", "utt2dur") if (path / name).is_file()]
    for name in full:
        keep = keep & set(read_table(path / name))
    if not keep:
        raise UserError(f"{path}: no utterance is known to all of wav.scp, {', '.join(full)}; nothing was changed.")
    tables = cut_tables(path, keep)
    dropped = {name: sorted(set(read_table(path / name)) - set(table)) for name, table in tables.items()}
    backup = path / ".backup"
    backup.mkdir(exist_ok=True)
    for name, table in tables.items():
        shutil.copy2(path / name, backup / name)
        write_table(path / name, table)
    return {name: ids for name, ids in dropped.items() if ids}


def subset(source: Path, target: Path, utts: set[str]) -> int:
    """Write the part of a data directory that holds `utts`; returns how many there were."""
    keep = {utterance.utt for utterance in read_utterances(source)} & utts
    with replacing_dir(target) as folder:
        for name, table in cut_tables(source, keep).items():
            write_table(folder / name, table)
    return len(keep)


def cut_tables(path: Path, keep: set[str]) -> dict[str, dict[str, str]]:
    """Every table of a directory by its name, cut to the utterances `keep`, and wav.scp to their recordings."""
    recordings = keep
    if (path / "segments").is_file():
        recordings = {line.split()[0] for utt, line in read_table(path / "segments").items() if utt in keep}
    names = [name for name in (*TABLES, *text_tables(path)) if (path / name).is_file()]
    tables = {name: read_table(path / name) for name in names}
    return {
        name: {key: value for key, value in table.items() if key in (recordings if name == "wav.scp" else keep)}
        for name, table in tables.items()
    }


def text_tables(path: Path) -> list[str]:
    """Names of the text tables: `text` and every `text.<lang>`."""
    return sorted(p.name for p in path.iterdir() if p.name == "text" or p.name.startswith("text."))


def split_keys(keys: list[str], parts: int) -> list[list[str]]:
    """Cut a sorted list of ids into `parts` contiguous pieces whose sizes differ by at most one."""
    if parts < 1:
        raise UserError(f"cannot split into {parts} parts: --nj must be at least 1.")
    edges = [len(keys) * i // parts for i in range(parts + 1)]
    return [keys[a:b] for a, b in itertools.pairwise(edges)]


def main(argv: list[str] | None = None) -> int:
    """Run one action and print what it did; a UserError gives exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    args = parser.parse_args(argv)
    try:
        {"validate": _validate, "fix": _fix, "subset": _subset, "split": _split}[args.action](args)
    except UserError as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _validate(args: argparse.Namespace) -> None:
    check(args.dir, need_text=not args.no_text)
    print(f"{args.dir}: sound, {len(read_utterances(args.dir))} utterances")


def _fix(args: argparse.Namespace) -> None:
    dropped = fix(args.dir)
    for table, ids in dropped.items():
        print(f"{args.dir}/{table}: dropped {len(ids)}: {' '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}")
    kept = len(read_utterances(args.dir))
    print(f"{args.dir}: {kept} utterances kept; the old tables are in {args.dir}/.backup")


def _subset(args: argparse.Namespace) -> None:
    known = [utterance.utt for utterance in read_utterances(args.source)]
    if args.source.resolve() == args.target.resolve():
        raise UserError(f"{args.target} is the source itself. Give another directory.")
    if args.utts:
        wanted = set(read_table(args.utts))
    elif args.first is not None:
        wanted = set(known[: max(args.first, 0)])
    else:
        wanted = {utt for utt, text in read_table(args.source / "text").items() if len(text.split()) >= args.min_words}
    if not wanted & set(known):
        raise UserError(f"no utterance of {args.source} is wanted; {args.target} was not written.")
    count = subset(args.source, args.target, wanted)
    unknown = sorted(wanted - set(known))
    print(f"{args.target}: {count} of {len(known)} utterances")
    if unknown:
        print(f"{len(unknown)} wanted ids are not in {args.source}: {' '.join(unknown[:10])}")


def _split(args: argparse.Namespace) -> None:
    utts = [utterance.utt for utterance in read_utterances(args.dir)]
    if args.nj > len(utts):
        raise UserError(f"{args.dir} has {len(utts)} utterances and cannot be split into {args.nj} parts.")
    for part, keys in enumerate(split_keys(utts, args.nj), 1):
        count = subset(args.dir, args.dir / f"split{args.nj}" / str(part), set(keys))
        print(f"{args.dir}/split{args.nj}/{part}: {count} utterances")


if __name__ == "__main__":
    sys.exit(main())
