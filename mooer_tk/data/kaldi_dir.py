"""Kaldi data directories: reading, checking, mending and splitting.

A directory holds `wav.scp` (utt -> file), optionally `segments` (utt -> recording, start, end),
`text`, `text.<lang>`, `utt2spk`, `utt2dur`. Tables are UTF-8, one `key value...` a line, keys unique.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

from mooer_tk.data.atomic import replacing_dir, write_text
from mooer_tk.errors import UserError

TABLES = ("wav.scp", "segments", "utt2spk", "utt2dur")


def read_table(path: Path | str, *, allow_empty: bool = True) -> dict[str, str]:
    """Read `key value...` lines in file order.

    Raises:
        UserError: missing file, bytes that are not UTF-8, a key twice, or (unless allowed) an empty value.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Run the stage that makes it first.") from error
    table: dict[str, str] = {}
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            fields = line.decode("utf-8").split(maxsplit=1)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1}). "
                f"Convert the file, for example: iconv -f latin1 -t utf-8 {path.name}"
            ) from error
        if not fields:
            continue
        key, value = fields[0], fields[1].strip() if len(fields) > 1 else ""
        if key in table:
            raise UserError(f"{path}:{number}: the id '{key}' stands twice. Keep one of the lines, or rename one.")
        if not value and not allow_empty:
            raise UserError(f"{path}:{number}: '{key}' has no value. Complete the line or remove it.")
        table[key] = value
    return table


def write_table(path: Path | str, table: dict[str, str]) -> None:
    """Write `key value` lines sorted by key (C order, as Kaldi expects), atomically."""
    write_text(path, "".join(f"{key} {value}".rstrip() + "\n" for key, value in sorted(table.items())))


@dataclass(frozen=True)
class Utterance:
    """Where the audio of one utterance lies; `end` < 0 means until the end of the recording (seconds)."""

    utt: str
    source: str
    start: float = 0.0
    end: float = -1.0


class DataDir:
    """One Kaldi data directory, read lazily."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "wav.scp").is_file():
            raise UserError(
                f"{self.path} is no Kaldi data directory: it has no wav.scp. "
                "Give the directory that holds wav.scp and text."
            )

    def table(self, name: str) -> dict[str, str]:
        """Read one table of the directory."""
        return read_table(self.path / name)

    def has(self, name: str) -> bool:
        """True when the directory has this table."""
        return (self.path / name).is_file()

    def texts(self) -> list[str]:
        """Names of the text tables: `text` and every `text.<lang>`."""
        return sorted(p.name for p in self.path.iterdir() if p.name == "text" or p.name.startswith("text."))

    def utterances(self) -> list[Utterance]:
        """All utterances in id order, `segments` resolved.

        Raises:
            UserError: a segment that names an unknown recording or has no valid times.
        """
        wavs = read_table(self.path / "wav.scp", allow_empty=False)
        if not self.has("segments"):
            return [Utterance(utt, source) for utt, source in sorted(wavs.items())]
        utterances = []
        for utt, line in sorted(self.table("segments").items()):
            fields = line.split()
            where = f"{self.path / 'segments'}: '{utt}'"
            if len(fields) != 3 or fields[0] not in wavs:
                raise UserError(
                    f"{where}: expected '<recording> <start> <end>' with a recording of wav.scp, found '{line}'."
                )
            try:
                start, end = float(fields[1]), float(fields[2])
            except ValueError as error:
                raise UserError(f"{where}: start and end must be seconds, found '{line}'.") from error
            if start < 0 or 0 <= end <= start:
                raise UserError(f"{where}: the segment ends ({end}) before it starts ({start}).")
            utterances.append(Utterance(utt, wavs[fields[0]], start, end))
        return utterances


def validate(path: Path | str, *, need_text: bool = True) -> list[str]:
    """Return what is wrong with a data directory, one sentence a fault; an empty list means it is sound.

    Audio is not opened (that is the features stage's work), but files named in wav.scp must exist.
    """
    faults: list[str] = []
    try:
        data = DataDir(path)
        wavs = read_table(data.path / "wav.scp", allow_empty=False)
        utterances = data.utterances()
    except UserError as error:
        return [str(error)]
    for recording, source in wavs.items():
        if not source.endswith("|") and not Path(source).is_file():
            faults.append(f"{data.path}/wav.scp: '{recording}' names {source}, which does not exist.")
    utts = {utterance.utt for utterance in utterances}
    if not utts:
        faults.append(f"{data.path}/wav.scp holds no utterance.")
    names = [*data.texts(), *(name for name in ("utt2spk", "utt2dur") if data.has(name))]
    if need_text and "text" not in names:
        faults.append(f"{data.path} has no text.")
    for name in names:
        try:
            keys = set(data.table(name))
        except UserError as error:
            faults.append(str(error))
            continue
        for missing, here, there in ((keys - utts, name, "wav.scp/segments"), (utts - keys, "wav.scp/segments", name)):
            # A translation may exist for a part of the utterances only.
            if missing and not (here != name and name.startswith("text.")):
                some = ", ".join(sorted(missing)[:5])
                faults.append(f"{data.path}: {len(missing)} ids of {here} are not in {there}: {some}")
    return faults


def check(path: Path | str, *, need_text: bool = True) -> None:
    """Raise a UserError with every fault of the directory and the command that mends it."""
    faults = validate(path, need_text=need_text)
    if faults:
        listed = "\n  ".join(faults[:20])
        raise UserError(f"{path} is not sound ({len(faults)} faults):\n  {listed}\nTry: utils/fix_data_dir.sh {path}")


def fix(path: Path | str) -> dict[str, list[str]]:
    """Keep the utterances that every table knows and whose file exists; the old tables go to `.backup/`.

    Returns:
        table name -> ids that were dropped from it.
    """
    data = DataDir(path)
    wavs = read_table(data.path / "wav.scp", allow_empty=False)
    present = {rec for rec, src in wavs.items() if src.endswith("|") or Path(src).is_file()}
    if data.has("segments"):
        segments = data.table("segments")
        keep = {utt for utt, line in segments.items() if line.split()[:1] and line.split()[0] in present}
    else:
        keep = set(present)
    full = [name for name in ("text", "utt2spk", "utt2dur") if data.has(name)]
    for name in full:
        keep &= set(data.table(name))
    if not keep:
        raise UserError(f"{path}: no utterance is known to all of wav.scp, {', '.join(full)}; nothing was changed.")
    dropped: dict[str, list[str]] = {}
    recordings = {data.table("segments")[utt].split()[0] for utt in keep} if data.has("segments") else keep
    changes: dict[str, dict[str, str]] = {}
    for name in (*TABLES, *data.texts()):
        if data.has(name):
            table = data.table(name)
            wanted = recordings if name == "wav.scp" else keep
            dropped[name] = sorted(set(table) - wanted)
            changes[name] = {key: value for key, value in table.items() if key in wanted}
    backup = data.path / ".backup"
    backup.mkdir(exist_ok=True)
    for name, table in changes.items():
        shutil.copy2(data.path / name, backup / name)
        write_table(data.path / name, table)
    return {name: ids for name, ids in dropped.items() if ids}


def subset(source: Path | str, target: Path | str, utts: set[str]) -> int:
    """Write the part of a data directory that holds `utts`; returns how many there were."""
    data = DataDir(source)
    known = {utterance.utt for utterance in data.utterances()}
    keep = known & utts
    segments = data.table("segments") if data.has("segments") else {}
    recordings = {segments[utt].split()[0] for utt in keep} if segments else keep
    with replacing_dir(target) as folder:
        for name in (*TABLES, *data.texts()):
            if data.has(name):
                wanted = recordings if name == "wav.scp" else keep
                write_table(folder / name, {k: v for k, v in data.table(name).items() if k in wanted})
    return len(keep)


def split_keys(keys: list[str], parts: int) -> list[list[str]]:
    """Cut a sorted list of ids into `parts` contiguous pieces whose sizes differ by at most one."""
    if parts < 1:
        raise UserError(f"cannot split into {parts} parts: --nj must be at least 1.")
    edges = [len(keys) * i // parts for i in range(parts + 1)]
    return [keys[a:b] for a, b in itertools.pairwise(edges)]
