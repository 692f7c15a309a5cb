#!/usr/bin/env python3
"""Kaldi data directories of lhotse's manifests, with the files themselves in wav.scp.

  utils/lhotse_to_kaldi.py data/manifests data dev-clean test-clean     # data/dev-clean, data/test-clean

`lhotse kaldi export` writes a pipe through ffmpeg for everything but wav, which would make every stage run shell
commands out of the data; mooer reads flac and opus as they are.
"""

import argparse
import sys
from pathlib import Path

from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.errors import UserError, exit_status

ROUNDING = 0.02  # seconds by which an utterance may differ from its recording and still be all of it


def main() -> int:
    """Read the command line and write the directories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, help="what lhotse prepare has written")
    parser.add_argument("out", type=Path, help="where the data directories go")
    parser.add_argument("parts", nargs="+", help="of the corpus, as lhotse calls them")
    parser.add_argument("--max-utts", type=int, default=0, help="the first so many utterances of each; 0: all")
    args = parser.parse_args()
    for part in args.parts:
        recordings, supervisions = (_manifest(args.manifests, kind, part) for kind in ("recordings", "supervisions"))
        count = write_data_dir(recordings, supervisions, args.out / part, args.max_utts)
        print(f"{args.out / part}: {count} utterances", file=sys.stderr)
    return 0


def _manifest(folder: Path, kind: str, part: str) -> Path:
    found = sorted(folder.glob(f"*{kind}_{part}.jsonl.gz"))
    if len(found) != 1:
        there = ", ".join(sorted(path.name for path in folder.glob(f"*{kind}_*"))) or "nothing"
        raise UserError(f"{folder} holds {len(found)} {kind} of the part {part}; there is {there}.")
    return found[0]


def write_data_dir(recordings: Path, supervisions: Path, out: Path, max_utts: int = 0) -> int:
    """Write wav.scp, text, utt2dur, utt2spk where speakers are known, and segments where recordings hold more.

    Returns:
        How many utterances there are.

    Raises:
        UserError: a recording that is not one file, or of several channels, or no utterance at all.
    """
    from lhotse import load_manifest

    heard = {one.id: one for one in load_manifest(recordings)}
    spoken = sorted(load_manifest(supervisions), key=lambda one: one.id)[: max_utts or None]
    if not spoken:
        raise UserError(f"{supervisions} holds no utterance: look at what lhotse prepare said of the corpus.")
    files = {one.recording_id: _file_of(heard[one.recording_id]) for one in spoken}
    whole = all(
        one.start == 0 and abs(one.duration - heard[one.recording_id].duration) < ROUNDING for one in spoken
    ) and len(files) == len(spoken)
    if whole:
        write_table(out / "wav.scp", {one.id: files[one.recording_id] for one in spoken})
        (out / "segments").unlink(missing_ok=True)
    else:
        write_table(out / "wav.scp", files)
        times = {one.id: f"{one.recording_id} {one.start:.3f} {one.end:.3f}" for one in spoken}
        write_table(out / "segments", times)
    write_table(out / "text", {one.id: one.text for one in spoken})
    write_table(out / "utt2dur", {one.id: f"{one.duration:.3f}" for one in spoken})
    if all(one.speaker for one in spoken):
        write_table(out / "utt2spk", {one.id: one.speaker for one in spoken})
    return len(spoken)


def _file_of(recording: object) -> str:
    source = recording.sources[0]
    if len(recording.sources) != 1 or source.type != "file" or len(source.channels) != 1:
        raise UserError(f"recording {recording.id} is not one file of one channel: cut and mix it first.")
    return source.source


if __name__ == "__main__":
    sys.exit(exit_status("lhotse_to_kaldi.py", main))
