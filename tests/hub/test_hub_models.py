"""Model names: the order of the sources, what each says, and a model hub on this machine that speaks the hub's API."""

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

from mooer_tk.errors import UserError
from mooer_tk.hub.models import MODELS, resolve_model, resolve_teacher

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOOER_OFFLINE", "1")


def test_a_folder_is_taken_as_it_is(tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_model(str(tiny_whisper))
    assert (found.path, found.source) == (tiny_whisper, "path")
    monkeypatch.chdir(tiny_whisper.parent)
    assert resolve_model(f"./{tiny_whisper.name}").path == tiny_whisper


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} holds no config.json. Give the folder of a model"):
        resolve_model(str(tmp_path))
    with pytest.raises(UserError, match=r"nowhere holds no config\.json"):
        resolve_model("./nowhere")


def test_unknown_names(offline: None) -> None:
    with pytest.raises(UserError, match="unknown model 'whisper-bas': did you mean 'whisper-base'"):
        resolve_model("whisper-bas")
    with pytest.raises(UserError, match="unknown teacher 'smollm2-135m-instruct'"):
        resolve_teacher("smollm2-135m-instruct")


def test_packages_give_a_model_and_its_teacher(tiny_whisper: Path, offline: None) -> None:
    """The short name and the hub's name mean the same model, converted once and then taken from the cache."""
    from transformers import WhisperForConditionalGeneration

    for name in ("whisper-tiny.en", "openai/whisper-tiny.en"):
        found = resolve_model(name)
        assert found.source in ("cache", "hub")
        assert found.path == tiny_whisper
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    assert model.config.d_model == 384
    teacher = resolve_teacher("whisper-tiny.en").path
    assert {"model.bin", "config.json", "tokenizer.json"} <= set(os.listdir(teacher))


def test_the_order_can_be_changed(tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "packages,path")
    assert resolve_model("whisper-tiny.en").source == "packages"
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "path")
    with pytest.raises(UserError, match=r"'whisper-tiny\.en' was found in none of path"):
        resolve_model("whisper-tiny.en")
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "hub,disc")
    with pytest.raises(UserError, match="MOOER_MODEL_SOURCE names 'disc'"):
        resolve_model("whisper-tiny.en")


def test_offline_is_told_at_once(offline: None) -> None:
    before = time.monotonic()
    with pytest.raises(UserError, match=r"hub: nobody/nothing is not downloaded and this run is offline"):
        resolve_model("nobody/nothing")
    assert time.monotonic() - before < 5


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
    """`mooer fetch NAME` in a process of its own, because the hub's client reads its settings when it is imported."""
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "MOOER_CACHE": str(home / "mooer"), "no_proxy": "127.0.0.1"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MOOER_"))}
    command = [sys.executable, "-m", "mooer_tk.bin.main", "fetch", name]
    return subprocess.run(
        command, env={**inherited, **own, **settings}, capture_output=True, text=True, timeout=60, check=False
    )


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


def test_every_known_model_has_a_package() -> None:
    from mooer_tk.hub.packages import PACKAGES

    assert all(model.package in PACKAGES and model.convert for model in MODELS.values())
