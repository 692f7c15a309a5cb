"""Writes that are whole or absent, and the marker that says a unit of work is finished.

A reader never sees half a file: everything is written beside its destination under a temporary name,
flushed to the disk and renamed (POSIX rename is atomic within a file system).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mooer_tk.errors import UserError

DONE = "done.json"
# What a file system says when it will not take a write; other errors in a block that writes are its own.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    Raises:
        UserError: the file system refused (disk full, no permission); `path` is left as it was.
    """
    with _beside(Path(path)) as temporary:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def replacing_dir(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; it becomes `path` when the block ends without an error."""
    with _beside(Path(path)) as temporary:
        temporary.mkdir()
        yield temporary
        if Path(path).exists():
            shutil.rmtree(path)
        os.replace(temporary, path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, free at the start and at the end."""
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise _refused(path, error) from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}. Nothing half-written was kept; "
        "free some space or choose another place, and run the same command again."
    )


@contextlib.contextmanager
def sole_writer(folder: Path | str, *, lock: str = ".lock", wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to `folder` for the length of the block; a killed owner lets go of it.

    Args:
        lock: name of the lock's file in `folder`; processes with different locks do not meet.
        wait: wait for another process that is at work there, instead of refusing.

    Raises:
        UserError: another process is at work there.
    """
    folder = Path(folder)
    _make_folder(folder)
    with (folder / lock).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = f"another process is writing to {folder} ({file.read().strip()})"
            raise UserError(f"{owner}: wait for it, or end it and run the same command again.") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def sweep_leftovers(folder: Path | str) -> None:
    """Remove temporary files and directories that a killed process left in `folder`."""
    for leftover in Path(folder).glob(".*.tmp"):
        owner = leftover.suffixes[-2].lstrip(".") if len(leftover.suffixes) > 1 else ""
        if owner.isdigit() and _is_running(owner):
            continue
        _remove(leftover)


def _is_running(process: str) -> bool:
    """True for a process that lives; one that has ended but that nobody has asked for yet has no command line."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, readable by a person."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON object; empty where there is no such file, or none that can be read."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def fingerprint(*parts: Any) -> str:
    """A short hash of settings and input files: `Path` parts count by their content, all others by their JSON."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(part.read_bytes() if part.is_file() else b"absent")
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def is_done(folder: Path | str, mark: str) -> bool:
    """True when `folder` holds a finished marker with this fingerprint (same settings, same inputs)."""
    return read_json(Path(folder) / DONE).get("fingerprint") == mark


def mark_done(folder: Path | str, mark: str, **facts: Any) -> None:
    """Write the finished marker; it must be the last write of the work it stands for."""
    write_json(Path(folder) / DONE, {"fingerprint": mark, **facts})
