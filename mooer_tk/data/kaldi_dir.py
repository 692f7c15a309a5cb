"""Kaldi data directories: reading them, and writing their tables.

A directory holds `wav.scp` (utt -> file), optionally `segments` (utt -> recording, start, end),
`text`, `text.<lang>`, `utt2spk`, `utt2dur`. Tables are UTF-8, one `key value...` a line, keys unique.
utils/data_dir.py validates, fixes, subsets and splits them.
"""

from pathlib import Path
from typing import NamedTuple

from mooer_tk.data.atomic import write_text
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


class Utterance(NamedTuple):
    """Where the audio of one utterance lies; `end` < 0 means until the end of the recording (seconds)."""

    utt: str
    source: str
    start: float = 0.0
    end: float = -1.0


def read_recordings(folder: Path | str) -> dict[str, str]:
    """`wav.scp` of a directory: recording -> file, or command with a pipe.

    Raises:
        UserError: no such table; a recording without a file.
    """
    if not (Path(folder) / "wav.scp").is_file():
        raise UserError(f"{folder} is no Kaldi data directory, it has no wav.scp: give the one that holds it.")
    return read_table(Path(folder) / "wav.scp", allow_empty=False)


def read_utterances(folder: Path | str) -> list[Utterance]:
    """All utterances of a directory in id order, `segments` resolved.

    Raises:
        UserError: no wav.scp; a segment that names an unknown recording or has no valid times.
    """
    wavs = read_recordings(folder)
    segments = Path(folder) / "segments"
    if not segments.is_file():
        return [Utterance(utt, source) for utt, source in sorted(wavs.items())]
    utterances = []
    for utt, line in sorted(read_table(segments).items()):
        fields = line.split()
        where = f"{segments}: '{utt}'"
        if len(fields) != 3 or fields[0] not in wavs:
            raise UserError(f"{where}: expected '<recording of wav.scp> <start> <end>', found '{line}'.")
        try:
            start, end = float(fields[1]), float(fields[2])
        except ValueError as error:
            raise UserError(f"{where}: start and end must be seconds, found '{line}'.") from error
        if start < 0 or 0 <= end <= start:
            raise UserError(f"{where}: the segment ends ({end}) before it starts ({start}).")
        utterances.append(Utterance(utt, wavs[fields[0]], start, end))
    return utterances
