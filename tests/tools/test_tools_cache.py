"""The cache: checksums, downloads from a real HTTP server, archives, and entries that are whole or absent."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.cache import download_url, obtain, sha256_of, sha256_of_tree, unpack, verify
from mooer_tk.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `short` breaks off in the middle."""

    def do_GET(self) -> None:
        if self.path != "/short":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 400)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "file").write_bytes(b"payload" * 1000)
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def test_download_and_checksum(server: str, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"payload" * 1000).hexdigest()
    path = download_url(f"{server}/file", tmp_path / "out" / "file", sha256)
    assert sha256_of(path) == sha256
    verify(path, sha256)


def test_a_wrong_checksum_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checksum mismatch.*7000 bytes.*expected 00.*Run the same command again"):
        download_url(f"{server}/file", tmp_path / "out" / "file", "00")
    assert os.listdir(tmp_path / "out") == []


def test_verify_removes_a_wrong_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"no weights")
    found = hashlib.sha256(b"no weights").hexdigest()
    with pytest.raises(UserError, match=f"checksum mismatch: weights .*has SHA-256 {found}, expected ab12"):
        verify(path, "ab12")
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "told"), [("short", "400 of 1000 bytes came"), ("absent", "(?i)not found"), ("", "checksum mismatch")]
)
def test_a_failed_download_leaves_nothing(server: str, tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        download_url(f"{server}/{name}", tmp_path / "out" / "file", "00")
    assert os.listdir(tmp_path / "out") == []


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download http://127\.0\.0\.1:9/file: .*Check the network"):
        download_url("http://127.0.0.1:9/file", tmp_path / "file")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "usr" / "share").mkdir(parents=True)
    (folder / "usr" / "share" / "a.txt").write_text("ä" * 999)
    (folder / "usr" / "b.bin").write_bytes(os.urandom(5001))
    (folder / "usr" / "link").symlink_to("b.bin")
    return folder


def test_zip_and_tar(tree: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.whl", "w") as archive:
        for path in ("usr/share/a.txt", "usr/b.bin"):
            archive.write(tree / path, path)
    for suffix in ("gz", "xz"):
        with tarfile.open(tmp_path / f"t.tar.{suffix}", f"w:{suffix}") as archive:
            archive.add(tree / "usr", "usr")
    for name in ("t.whl", "t.tar.gz", "t.tar.xz"):
        target = tmp_path / f"from-{name}"
        target.mkdir()
        unpack(tmp_path / name, target)
        assert sha256_of_tree(target) == sha256_of_tree(tree)


@pytest.mark.parametrize("dpkg", [True, False], ids=["dpkg", "python"])
@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_deb(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, dpkg: bool) -> None:
    """A real Debian package gives the same files through dpkg and, where there is none, through Python."""
    (tree / "DEBIAN").mkdir()
    control = "Package: t\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n"
    (tree / "DEBIAN" / "control").write_text(control)
    deb, target = tmp_path / "t.deb", tmp_path / "out"
    try:
        subprocess.run(["dpkg-deb", f"-Z{compression}", "-b", tree, deb], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("only a Debian system can build a Debian package")
    if not dpkg:
        monkeypatch.setenv("PATH", "")
    target.mkdir()
    unpack(deb, target)
    assert sha256_of_tree(target / "usr") == sha256_of_tree(tree / "usr")
    assert (target / "usr" / "link").read_bytes() == (tree / "usr" / "b.bin").read_bytes()


def test_damaged_archives_are_told(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        archive.add(tree / "usr", "usr")
    raw = (tmp_path / "t.tar.gz").read_bytes()
    (tmp_path / "t.tar.gz").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "t.whl").write_bytes(b"<html>proxy error</html>")
    (tmp_path / "t.deb").write_bytes(b"<html>proxy error</html>")
    for name in ("t.tar.gz", "t.whl", "t.deb"):
        with pytest.raises(UserError, match=f"cannot unpack .*{name}.*fetch it again"):
            unpack(tmp_path / name, tmp_path)


def test_an_archive_may_not_write_outside(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        archive.add(tree / "usr" / "b.bin", "../evil")
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    with pytest.raises(UserError, match="cannot unpack"):
        unpack(tmp_path / "t.tar.gz", target)
    assert not (tmp_path / "deep" / "evil").exists()


MAKER = """
import sys, time
from pathlib import Path
from hub.cache import obtain
def make(folder):
    print("making", flush=True)
    for part in range(int(sys.argv[2])):
        (folder / str(part)).write_text("x" * 1000)
        time.sleep(0.02)
print(obtain(Path(sys.argv[1]), make))
"""


def start(entry: Path, parts: int) -> subprocess.Popen:
    command = [sys.executable, "-c", MAKER, str(entry), str(parts)]
    found_in = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"}
    return subprocess.Popen(command, env=found_in, stdout=subprocess.PIPE, text=True)


def test_processes_that_want_the_same_entry_make_it_once(tmp_path: Path) -> None:
    entry = tmp_path / "cache" / "entry"
    outputs = [process.communicate()[0] for process in [start(entry, 20) for _ in range(4)]]
    assert sum("making" in output for output in outputs) == 1
    assert all(output.endswith(f"{entry}\n") for output in outputs)
    assert len(os.listdir(entry)) == 20


def test_a_killed_maker_leaves_no_entry_and_blocks_nobody(tmp_path: Path) -> None:
    entry = tmp_path / "cache" / "entry"
    with start(entry, 1000) as process:
        assert process.stdout.readline() == "making\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert not entry.exists()
    assert any(name.endswith(".tmp") for name in os.listdir(entry.parent))
    with start(entry, 5) as process:
        assert process.communicate(timeout=20)[0] == f"making\n{entry}\n"
    assert len(os.listdir(entry)) == 5
    assert sorted(os.listdir(entry.parent)) == [".entry.lock", "entry"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Set MOOER_CACHE to a writable directory"):
        obtain(tmp_path / "file" / "entry", lambda folder: None)
