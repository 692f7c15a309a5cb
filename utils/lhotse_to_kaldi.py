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

    What has no transcript stands in text with its id alone: training counts and names it.

    Returns:
        How many utterances there are.

    Raises:
        UserError: a recording that is missing or not one file of one channel, or no utterance at all.
    """
    from lhotse import load_manifest_lazy

    # Lazily, and of each utterance what the tables need alone: some corpora have fifteen millions of them.
    heard = {one.id: (_file_of(one), one.duration) for one in load_manifest_lazy(recordings)}
    spoken = {
        one.id: (one.recording_id, one.start, one.end, one.text, one.speaker)
        for one in load_manifest_lazy(supervisions)
    }
    if not spoken:
        raise UserError(f"{supervisions} holds no utterance: look at what lhotse prepare said of the corpus.")
    spoken = {utt: spoken[utt] for utt in sorted(spoken)[: max_utts or None]}
    if strangers := sorted({one[0] for one in spoken.values()} - heard.keys()):
        raise UserError(
            f"{supervisions} names {len(strangers)} recordings that {recordings} lacks ({', '.join(strangers[:5])}): "
            "remove both and run lhotse prepare again."
        )
    used = {recording for recording, *_ in spoken.values()}
    whole = len(used) == len(spoken) and all(
        start == 0 and abs(end - heard[recording][1]) < ROUNDING for recording, start, end, _, _ in spoken.values()
    )
    if whole:
        write_table(out / "wav.scp", {utt: heard[one[0]][0] for utt, one in spoken.items()})
        (out / "segments").unlink(missing_ok=True)
    else:
        write_table(out / "wav.scp", {recording: heard[recording][0] for recording in used})
        times = {utt: f"{one[0]} {one[1]:.3f} {one[2]:.3f}" for utt, one in spoken.items()}
        write_table(out / "segments", times)
    write_table(out / "text", {utt: one[3] or "" for utt, one in spoken.items()})
    write_table(out / "utt2dur", {utt: f"{one[2] - one[1]:.3f}" for utt, one in spoken.items()})
    if all(one[4] for one in spoken.values()):
        write_table(out / "utt2spk", {utt: one[4] for utt, one in spoken.items()})
    return len(spoken)


def _file_of(recording: object) -> str:
    source = recording.sources[0]
    if len(recording.sources) != 1 or source.type != "file" or len(source.channels) != 1:
        raise UserError(f"recording {recording.id} is not one file of one channel: cut and mix it first.")
    return source.source


if __name__ == "__main__":
    sys.exit(exit_status("lhotse_to_kaldi.py", main))
