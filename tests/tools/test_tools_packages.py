"""The embedded packages: fetched for real, checked, killed in the middle, and served as upstream's tarball."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub import packages
from hub.cache import sha256_of_tree
from hub.packages import PACKAGES, fetch_package
from mooer_tk.errors import UserError
from mooer_tk.models import cache_root
from tools import fetch

TEXT = "asterisk-transcripts-1.6.1"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOOER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """apt-get is not there, pip has no index, and downloads go to a proxy that does not answer."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


def test_what_is_in_the_cache_needs_no_network(sounds: Path, no_network: None) -> None:
    before = time.monotonic()
    assert fetch_package("asterisk-sounds-en-1.6.1") == sounds
    assert time.monotonic() - before < 0.5


def test_the_content_is_what_is_pinned(sounds: Path) -> None:
    assert sha256_of_tree(sounds / "audio") == PACKAGES["asterisk-sounds-en-1.6.1"].sha256["audio/"]
    assert len(list((sounds / "audio").rglob("*.g722"))) == 568


def test_without_network_each_source_says_why(empty_cache: Path, no_network: None) -> None:
    with pytest.raises(UserError) as told:
        fetch_package(TEXT)
    message = str(told.value)
    assert "asterisk-core-sounds-en is a Debian/Ubuntu package and this system has no apt-get" in message
    assert "cannot download https://downloads.asterisk.org/" in message
    with pytest.raises(UserError, match=r"pip cannot download espeakng-loader==0\.2\.4"):
        fetch_package("espeak-ng")
    assert [name for name in os.listdir(empty_cache / "packages") if not name.endswith(".lock")] == []


def test_unknown_package() -> None:
    with pytest.raises(UserError, match="unknown package 'flit': did you mean 'flite'"):
        fetch_package("flit")


def test_a_killed_fetch_is_finished_by_the_same_command(empty_cache: Path, kill_mooer: Callable[..., None]) -> None:
    """Killed while the packages are downloaded and unpacked; the second run ends as an undisturbed one."""
    folder = empty_cache / "packages"
    program = (fetch.__file__,)
    kill_mooer(["asterisk-text"], lambda: any(folder.glob(".*.tmp/.work/unpacked/*")), moment=0.5, program=program)
    assert not (folder / TEXT).exists()
    assert fetch.main(["asterisk-text"]) == 0
    assert sorted(os.listdir(folder)) == [f".{TEXT}.lock", TEXT]
    assert {path.name for path in (folder / TEXT).iterdir()} == {f"{lang}.txt" for lang in packages.SOUND_LANGS}


def test_other_content_than_pinned_is_refused(
    sounds: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, upstream: Callable[..., str]
) -> None:
    """The tarball holds the right recordings and a transcript in which one byte differs."""
    monkeypatch.setenv("PATH", "")
    url = upstream(sounds, change=lambda text: text.replace(b"Goodbye", b"Goodbuy"))
    use_source(monkeypatch, url)
    with pytest.raises(UserError, match=r"checksum mismatch: transcript\.txt"):
        fetch_package("asterisk-sounds-en-1.6.1")
    assert not (cache_root() / "packages" / "asterisk-sounds-en-1.6.1").exists()


def test_where_there_is_no_apt_the_tarball_gives_the_same(
    sounds: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, upstream: Callable[..., str]
) -> None:
    monkeypatch.setenv("PATH", "")
    use_source(monkeypatch, upstream(sounds))
    assert sha256_of_tree(fetch_package("asterisk-sounds-en-1.6.1")) == sha256_of_tree(sounds)


def test_recordings_that_are_missing_are_noticed(
    sounds: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, upstream: Callable[..., str]
) -> None:
    monkeypatch.setenv("PATH", "")
    use_source(monkeypatch, upstream(sounds, leave_out="vm-sorry.g722"))
    with pytest.raises(UserError, match="audio/ has 567 files, expected 568"):
        fetch_package("asterisk-sounds-en-1.6.1")


def use_source(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    name = "asterisk-sounds-en-1.6.1"
    apt, _ = PACKAGES[name].sources
    monkeypatch.setitem(PACKAGES, name, dataclasses.replace(PACKAGES[name], sources=(apt, (f"url:{url}",))))


@pytest.fixture
def upstream(tmp_path: Path) -> Callable[..., str]:
    """Serve a tarball laid out as upstream's: recordings, transcript and licence side by side."""

    def serve(sounds: Path, change: Callable[[bytes], bytes] = bytes, leave_out: str = "") -> str:
        www = tmp_path / "www"
        www.mkdir()
        (www / "core-sounds-en.txt").write_bytes(change((sounds / "transcript.txt").read_bytes()))
        with tarfile.open(www / "sounds-1.6.1.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(www / "core-sounds-en.txt", "core-sounds-en.txt")
            archive.add(__file__, "LICENSE-asterisk-core-sounds-en-g722-1.6.1")
            for path in sorted((sounds / "audio").rglob("*.g722")):
                if path.name != leave_out:
                    archive.add(path, path.relative_to(sounds / "audio"))
        handler = functools.partial(QuietHandler, directory=str(www))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/sounds-1.6.1.tar.gz"

    servers: list[http.server.ThreadingHTTPServer] = []
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
