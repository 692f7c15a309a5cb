"""Arrays of many utterances in tar shards with an index: streamed by any tar reader, read at random through mmap.

    <dir>/meta.json            what the arrays are (encoder, size, frame rate) and the fingerprint of their making
    <dir>/shard-00000.tar      <utt>.npy members, uncompressed, or <utt>.flac where the arrays are audio
    <dir>/shard-00000.jsonl    a line an utterance: where its data lie in the tar, shape, seconds, checksum; or why it
                               is skipped

The index is written last, so a shard with an index is whole. As nothing else of the tar is read, damage at any place
costs the utterance that lies there, and no other.
"""

import io
import json
import mmap
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mooer_tk.data.atomic import DONE, read_json, replacing, write_json, write_text
from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.errors import UserError

FLAC = "flac"
AGAIN = "remove the directory and rerun stage 3"


class DamagedError(UserError):
    """The data of one utterance cannot be read; the others of its shard may be sound."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a shard: `bytes` of data from `offset` on in the tar; the dtype is numpy's name, or "flac"."""

    utt: str
    shard: str
    offset: int
    bytes: int
    crc: int
    shape: tuple[int, ...]
    dtype: str
    seconds: float


class ShardWriter:
    """Writes the shards of one directory; shards that are already whole are left alone.

    Args:
        folder: the directory of shards.
        meta: facts of the arrays; must hold "fingerprint". Shards of another fingerprint are removed.
    """

    def __init__(self, folder: Path | str, meta: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if read_json(self.folder / "meta.json").get("fingerprint") != meta["fingerprint"]:
            for old in [self.folder / DONE, *sorted(self.folder.glob("shard-*"), reverse=True)]:
                old.unlink(missing_ok=True)
            write_json(self.folder / "meta.json", meta)

    def describe(self, **facts: Any) -> None:
        """Add facts of the arrays that are known only once the first of them is made."""
        write_json(self.folder / "meta.json", {**read_json(self.folder / "meta.json"), **facts})

    def is_whole(self, number: int) -> bool:
        """True when this shard was finished by an earlier run."""
        return self._index(number).is_file()

    def write(
        self,
        number: int,
        items: Iterable[tuple[str, np.ndarray, float]],
        skipped: dict[str, str],
        *,
        audio: bool = False,
    ) -> None:
        """Write one shard from (utt, array, seconds) items; `skipped` (utt -> reason) may fill while it is read.

        `audio` says that the arrays are samples (T,) in [-1, 1] at 16 kHz: they are kept as 16-bit FLAC.
        """
        lines = []
        tar_path = self._index(number).with_suffix(".tar")
        with replacing(tar_path) as temporary, tarfile.open(temporary, "w") as tar:
            for utt, array, seconds in items:
                whole, data = _encode_audio(array) if audio else _encode_array(array)
                member = tarfile.TarInfo(f"{utt}.{FLAC if audio else 'npy'}")
                member.size = len(whole)
                tar.addfile(member, io.BytesIO(whole))
                # The member ends here, filled up to whole blocks; its last bytes are the data.
                end = tar.offset - -len(whole) % tarfile.BLOCKSIZE
                place = {"offset": end - len(data), "bytes": len(data), "crc": zlib.crc32(data)}
                kind = {"shape": array.shape, "dtype": FLAC if audio else array.dtype.str}
                lines.append({"utt": utt, **place, **kind, "seconds": round(seconds, 3)})
        lines.extend({"utt": utt, "skipped": reason} for utt, reason in sorted(skipped.items()))
        write_text(self._index(number), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _index(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.jsonl"


def _encode_array(array: np.ndarray) -> tuple[bytes, bytes]:
    """The member's bytes, and those of them that are data."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    whole = buffer.getvalue()
    return whole, whole[len(whole) - array.nbytes :]


def _encode_audio(samples: np.ndarray) -> tuple[bytes, bytes]:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return buffer.getvalue(), buffer.getvalue()


def read_meta(folder: Path | str, *, unfinished: bool = False, audio: bool = False) -> dict[str, Any]:
    """The facts of a directory of shards, without its index.

    Raises:
        UserError: the directory has no shards, its making was not finished (unless `unfinished`), or its shards are not
            of audio (if `audio`).
    """
    meta = read_json(Path(folder) / "meta.json")
    if not meta or not (unfinished or (Path(folder) / DONE).is_file()):
        raise UserError(f"{folder} holds no finished shards: run stage 3 (mooer states) for it first.")
    if audio and not meta.get("audio"):
        raise UserError(f"{folder} holds encoder states, and here audio is needed: mooer states DATA OUT --audio.")
    return meta


class ShardReader:
    """Random access by utterance id to a directory of shards.

    Args:
        folder: the directory of shards.
        unfinished: read what is there, even if the stage that writes it has not closed it.
        audio: shards of audio are needed.

    Attributes:
        meta: the facts in meta.json.
        entries: utt -> Entry.
        skipped: utt -> reason.

    Raises:
        UserError: see `read_meta`.
    """

    def __init__(self, folder: Path | str, *, unfinished: bool = False, audio: bool = False) -> None:
        self.folder, self.meta = Path(folder), read_meta(folder, unfinished=unfinished, audio=audio)
        self.entries: dict[str, Entry] = {}
        self.skipped: dict[str, str] = {}
        for index in sorted(self.folder.glob("shard-*.jsonl")):
            for line in index.read_text(encoding="utf-8").splitlines():
                facts = json.loads(line)
                if "skipped" in facts:
                    self.skipped[facts["utt"]] = facts["skipped"]
                elif "crc" in facts:
                    shape = tuple(facts.pop("shape"))
                    self.entries[facts["utt"]] = Entry(shard=f"{index.stem}.tar", shape=shape, **facts)
                else:
                    raise UserError(f"{index} is of an older version: remove {self.folder} and rerun stage 3.")
        self._maps: dict[str, mmap.mmap] = {}

    def __getitem__(self, utt: str) -> np.ndarray:
        """The array of an utterance: a read-only view into the mapped shard; audio is decoded to float32 samples.

        Raises:
            DamagedError: the shard is missing, shorter than its index says, or its data are not what was written.
        """
        entry = self.entries[utt]
        file = self.folder / entry.shard
        try:
            if entry.shard not in self._maps:
                with file.open("rb") as opened:
                    self._maps[entry.shard] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            data = np.frombuffer(self._maps[entry.shard], np.uint8, entry.bytes, entry.offset)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{file} is missing or cut short at '{utt}' ({error}): {AGAIN}.") from error
        if zlib.crc32(data) != entry.crc:
            raise DamagedError(f"{file} is damaged at '{utt}': {AGAIN}.")
        if entry.dtype == FLAC:
            return soundfile.read(io.BytesIO(data), dtype="float32")[0]
        return data.view(entry.dtype).reshape(entry.shape)

    def __contains__(self, utt: str) -> bool:
        return utt in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
