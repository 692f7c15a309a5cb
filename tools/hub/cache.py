"""The download cache: every entry is a finished directory or absent, whatever was killed on the way."""

from __future__ import annotations

import errno
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from mooer_tk.data.atomic import replacing, replacing_dir, sole_writer, sweep_leftovers
from mooer_tk.errors import UserError

TIMEOUT_SECONDS = 30
AR_MAGIC, AR_HEADER_BYTES = b"!<arch>\n", 60


def obtain(target: Path, make: Callable[[Path], None]) -> Path:
    """Return the cache entry `target`; when it is absent, let `make` fill an empty directory that becomes it.

    Processes that want the same entry wait for the first one. A killed `make` leaves nothing that counts as finished.
    """
    if target.is_dir():
        return target
    _need_writable(target.parent)
    with sole_writer(target.parent, lock=f".{target.name}.lock", wait=True):
        if not target.is_dir():
            sweep_leftovers(target.parent)
            with replacing_dir(target) as folder:
                make(folder)
    return target


def _need_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(
            f"cannot write the cache {folder}: {error.strerror}. Set MOOER_CACHE to a writable directory."
        ) from error


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_tree(folder: Path | str) -> str:
    """SHA-256 over the sorted `<relative path> <SHA-256>` lines of every regular file below `folder`."""
    folder = Path(folder)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return hashlib.sha256("".join(f"{name} {sha256_of(folder / name)}\n" for name in files).encode()).hexdigest()


def verify(path: Path | str, sha256: str) -> None:
    """Compare a file with its pinned SHA-256.

    Raises:
        UserError: it differs; the file is removed, so that no later run takes it for good.
    """
    path, found = Path(path), sha256_of(path)
    if found == sha256:
        return
    size = path.stat().st_size
    path.unlink()
    raise UserError(
        f"checksum mismatch: {path.name} ({size} bytes) has SHA-256 {found}, expected {sha256}. It was removed from "
        f"{path.parent}. Run the same command again; if it repeats, a proxy or mirror serves another file."
    )


def download_url(url: str, target: Path | str, sha256: str | None = None) -> Path:
    """Download `url` to the file `target`, atomically; it must have this SHA-256 if one is given.

    Raises:
        UserError: no network, an HTTP error, a transfer cut short, or a wrong checksum.
    """
    target = Path(target)
    with replacing(target) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply, temporary.open("wb") as file:
                shutil.copyfileobj(reply, file)
                expected = reply.headers.get("Content-Length")
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            why = getattr(error, "reason", None) or error
            raise UserError(f"cannot download {url}: {why}. Check the network or the proxy (https_proxy).") from error
        if expected and int(expected) != temporary.stat().st_size:
            raise UserError(
                f"cannot download {url}: {temporary.stat().st_size} of {expected} bytes came. Run the command again."
            )
        if sha256:
            verify(temporary, sha256)
    return target


def unpack(archive: Path | str, target: Path | str) -> None:
    """Unpack a .whl, .zip, .deb, .tar.gz or .tar.xz into the existing directory `target`.

    Raises:
        UserError: not such an archive, or a damaged one.
    """
    archive, target = Path(archive), Path(target)
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as file:
                file.extractall(target)
        elif archive.suffix == ".deb" and shutil.which("dpkg"):
            subprocess.run(["dpkg", "-x", str(archive), str(target)], check=True, capture_output=True, text=True)
        else:
            data = _data_of_deb(archive) if archive.suffix == ".deb" else archive.open("rb")
            with data, tarfile.open(fileobj=data) as file:
                file.extractall(target, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, lzma.LZMAError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip()
        raise UserError(f"cannot unpack {archive}: {detail}. Remove it and fetch it again.") from error


def _data_of_deb(archive: Path) -> io.BytesIO:
    """The tar file with the contents of a Debian package, which is an `ar` archive (deb(5))."""
    raw = archive.read_bytes()
    if not raw.startswith(AR_MAGIC):
        raise tarfile.ReadError("not a Debian package")
    at = len(AR_MAGIC)
    while at + AR_HEADER_BYTES <= len(raw):
        name, size = raw[at : at + 16].decode().strip(" /"), int(raw[at + 48 : at + 58])
        at += AR_HEADER_BYTES
        if name.startswith("data.tar"):
            data = raw[at : at + size]
            return io.BytesIO(_zstd(data) if name.endswith(".zst") else data)
        at += size + size % 2
    raise tarfile.ReadError("the Debian package has no data.tar")


def _zstd(data: bytes) -> bytes:
    try:
        from zstandard import ZstdDecompressor
    except ImportError as error:
        raise UserError("this .deb is packed with zstd: install dpkg, or pip install zstandard") from error
    return ZstdDecompressor().stream_reader(data).read()
