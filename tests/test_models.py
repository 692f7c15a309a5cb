"""Model names: the order of the sources, and what each says. Downloads: tests/tools/test_tools_fetch.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mooer_tk.errors import UserError
from mooer_tk.models import resolve_model


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MOOER_CACHE", str(tmp_path / "cache"))
    # The client reads its environment when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


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


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown model 'whisper-bas': did you mean 'whisper-base'"):
        resolve_model("whisper-bas")
    with pytest.raises(UserError, match="unknown teacher 'smollm2-135m-instruct'"):
        resolve_model("smollm2-135m-instruct", "teacher")


def test_packages_give_a_model_and_its_teacher(tiny_whisper: Path, tiny_teacher: Path) -> None:
    """The short name and the hub's name mean the same model, converted once and then taken from the cache."""
    from transformers import WhisperForConditionalGeneration

    for name in ("whisper-tiny.en", "openai/whisper-tiny.en"):
        found = resolve_model(name)
        assert found.source in ("cache", "hub")
        assert found.path == tiny_whisper
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    assert model.config.d_model == 384
    teacher = resolve_model("whisper-tiny.en", "teacher").path
    assert teacher == tiny_teacher
    assert {"model.bin", "config.json", "tokenizer.json"} <= set(os.listdir(teacher))


def test_the_order_can_be_changed(tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    (own_cache / "models").mkdir(parents=True)
    (own_cache / "models" / "whisper-tiny.en-ct2").symlink_to(tiny_whisper)
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "packages,path")
    assert resolve_model("whisper-tiny.en").source == "packages"
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "hub, cache")
    assert resolve_model("whisper-tiny.en").source == "cache"
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "path")
    with pytest.raises(UserError, match=r"'whisper-tiny\.en' was found in none of path"):
        resolve_model("whisper-tiny.en")
    monkeypatch.setenv("MOOER_MODEL_SOURCE", "cache,disc")
    with pytest.raises(UserError, match="MOOER_MODEL_SOURCE names 'disc'"):
        resolve_model("whisper-tiny.en")


def test_the_hub_is_not_asked(own_cache: Path) -> None:
    before = time.monotonic()
    with pytest.raises(UserError, match=r"hub: nobody/nothing is not downloaded, or not all of it\n  to bring it here"):
        resolve_model("nobody/nothing")
    assert time.monotonic() - before < 5


def test_what_the_hubs_client_has_is_found_when_it_is_whole(own_cache: Path, tmp_path: Path) -> None:
    repo, commit = tmp_path / "hub" / "models--org--toy", "0123456789abcdef0123456789abcdef01234567"
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    (folder / "1.safetensors").touch()
    with pytest.raises(UserError, match="hub: org/toy is not downloaded, or not all of it"):
        resolve_model("org/toy")
    (folder / "2.safetensors").touch()
    found = resolve_model("org/toy")
    assert (found.path, found.source) == (folder, "hub")


def test_what_is_nowhere_names_the_sources_and_the_command_that_brings_it(own_cache: Path) -> None:
    """By the name that tools/fetch.py knows, however the user called it; nothing is downloaded or made here."""
    for kind, name, known in (
        ("model", "HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("teacher", "whisper-base", "teacher:whisper-base"),
        ("model", "nobody/nothing", "nobody/nothing"),
    ):
        with pytest.raises(UserError) as told:
            resolve_model(name, kind)
        assert f"'{name}' was found in none of path, cache, hub, packages:\n  hub: " in str(told.value)
        assert str(told.value).endswith(f"\n  to bring it here, run: tools/fetch.py {known}")
    with pytest.raises(UserError) as told:
        resolve_model("./nowhere")
    assert "tools/fetch.py" not in str(told.value)
    assert not own_cache.exists()
