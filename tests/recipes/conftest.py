"""A copy of the recipes to run, and the environment they run in."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipes in a checkout of their own, so that nothing is written to the user's."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "egs", root / "egs", symlinks=True, ignore=shutil.ignore_patterns("data", "dump", "exp", "downloads")
    )
    for name in ("utils", "tools"):
        (root / name).symlink_to(ROOT / name)
    folder = root / "egs" / "asterisk" / "mooer"
    (folder / "RESULTS.md").unlink(missing_ok=True)
    return folder


def environment(recipe: Path) -> dict[str, str]:
    """`mooer`, `python` and `python3` of the interpreter that runs the tests come first."""
    folder = recipe.parent / "bin"
    folder.mkdir(exist_ok=True)
    for name, module in (("mooer", "-m mooer_tk.bin.main"), ("python", ""), ("python3", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VIRTUAL_ENV": sys.prefix,
        "OMP_NUM_THREADS": "2",
    }
