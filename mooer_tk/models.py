"""From a model's name to a folder on this machine, in an order that the user can see and change.

`path`: the name is a folder. `cache`: what tools/fetch.py has made of the embedded packages. `hub`: what the model
hub's client has already downloaded. `packages`: the cache once more. Nothing is downloaded here: tools/fetch.py, which
asks the same sources in the same order, brings what is missing at `hub` and `packages`. $MOOER_MODEL_SOURCE, such as
`path,packages`, changes the order.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mooer_tk.errors import UserError, nearest
from mooer_tk.progress import log


@dataclass(frozen=True)
class ResolvedModel:
    """A model's folder and which source it came from."""

    path: Path
    source: str


@dataclass(frozen=True)
class KnownModel:
    """A model: its repository on the hub, and what its package becomes below `cache_root()`, if it has one."""

    repo: str
    entry: str = ""


MODELS = {
    "whisper-base": KnownModel("openai/whisper-base", "models/whisper-base-ct2"),
    "whisper-tiny.en": KnownModel("openai/whisper-tiny.en", "models/whisper-tiny.en-ct2"),
    "smollm2-135m-instruct": KnownModel("HuggingFaceTB/SmolLM2-135M-Instruct", "models/smollm2-135m-instruct-gguf"),
}
TEACHERS = {
    "whisper-base": KnownModel("Systran/faster-whisper-base", "packages/whisper-base-ct2"),
    "whisper-tiny.en": KnownModel("Systran/faster-whisper-tiny.en", "packages/whisper-tiny.en-ct2"),
}
Source = Callable[[KnownModel], Path | None]


def cache_root() -> Path:
    """The directory that holds everything fetched; made when something is put there."""
    return Path(os.environ.get("MOOER_CACHE") or Path.home() / ".cache" / "mooer_tk").expanduser().resolve()


def resolve_model(name: str, kind: str = "model", bring: Mapping[str, Source] | None = None) -> ResolvedModel:
    """Find a model as a transformers folder, or a Whisper teacher as a CTranslate2 folder for faster-whisper.

    Args:
        name: a folder, a name of `MODELS` or `TEACHERS`, or `organisation/name` on the model hub.
        kind: "model" or "teacher".
        bring: what else sources such as `hub` and `packages` do with a model (default: look, and bring nothing).

    Raises:
        UserError: an unknown name, or no source has it; the message tells what each source said.
    """
    table = TEACHERS if kind == "teacher" else MODELS
    short = next((known for known, model in table.items() if name in (known, model.repo)), name)
    is_path = name.startswith(("/", ".", "~")) or Path(name).exists()
    if short not in table and not is_path and name.count("/") != 1:
        raise UserError(f"unknown {kind} '{name}': {nearest(name, table)}, or give a folder, or organisation/name")
    model = table.get(short) or KnownModel("" if is_path else name)
    sources: dict[str, Source] = {
        "path": lambda _: _from_path(Path(name)) if is_path else None,
        "cache": _from_cache,
        "hub": _from_hub,
        "packages": _from_cache,
        **(bring or {}),
    }
    order = os.environ.get("MOOER_MODEL_SOURCE", "").replace(",", " ").split() or list(sources)
    if unknown := [source for source in order if source not in sources]:
        raise UserError(f"MOOER_MODEL_SOURCE names '{unknown[0]}': {nearest(unknown[0], sources)}")
    said = ""
    for source in order:
        try:
            path = sources[source](model)
        except UserError as error:
            said += f"\n  {source}: {error}"
            continue
        if path:
            log(f"{kind} {name}: from {source}, {path}")
            return ResolvedModel(path, source)
    if not bring and not is_path:
        said += f"\n  to bring it here, run: tools/fetch.py {'teacher:' if kind == 'teacher' else ''}{short}"
    raise UserError(f"{kind} '{name}' was found in none of {', '.join(order)}:{said or ' nothing there'}")


def _from_path(path: Path) -> Path:
    path = path.expanduser().resolve()
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json. Give the folder of a model.")
    return path


def _from_cache(model: KnownModel) -> Path | None:
    path = cache_root() / model.entry
    return path if model.entry and path.is_dir() else None


def _from_hub(model: KnownModel) -> Path | None:
    if not model.repo:
        return None
    if path := downloaded(model.repo):
        return path
    raise UserError(f"{model.repo} is not downloaded, or not all of it")


def downloaded(repo: str) -> Path | None:
    """Where the hub's client keeps a repository; None when configuration or weights are missing."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """True when the configuration and every weight file are there; an interrupted download may lack some."""
    if not (folder / "config.json").is_file():
        return False
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if all((folder / shard).is_file() for shard in shards):
            return True
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin", "model.bin"))
