"""Measure the toolkit against a plain loop, on the embedded recipe, and write BENCHMARKS.md.

  python -m benchmarks.run [--only throughput,loading,padding,warm_start] [--recipe egs/asterisk/mooer]

Ratios are taken side by side in one run, so that they mean the same on a busy or a slow machine; seconds do not.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import loading, recognisers, throughput, warm_start
from benchmarks.recipe import Recipe
from mooer_tk.config import git_hash
from mooer_tk.errors import UserError, exit_status, nearest
from mooer_tk.progress import log
from mooer_tk.score.tables import print_table
from utils.update_results import replace_table

ROOT = Path(__file__).resolve().parent.parent
OWN = {"moe_layer": recognisers.layer, "rtf": recognisers.real_time_factor, "latency": recognisers.latency}
OF_RECIPE = ("loading", "padding", "throughput", "warm_start")


def main(argv: list[str] | None = None) -> int:
    """Read the command line, measure, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "egs/asterisk/mooer", help="a prepared recipe (stage 4)")
    parser.add_argument("--only", default=",".join((*OWN, *OF_RECIPE)), help="which tables (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "BENCHMARKS.md", help="the file with the tables")
    parser.add_argument("--tokens", type=int, default=6000, help="throughput: answer tokens of each (%(default)s)")
    parser.add_argument("--wer", type=float, default=30.0, help="warm_start: dev WER to reach, %% (%(default)s)")
    parser.add_argument(
        "--patience", type=float, default=2.0, help="warm_start: times as long without it (%(default)s)"
    )
    args = parser.parse_args(argv)
    return exit_status("benchmarks.run", lambda: _measure(args))


def _measure(args: argparse.Namespace) -> int:
    recipe = Recipe(args.recipe.resolve())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
            **OWN,
            "loading": lambda: loading.measure(recipe, out),
            "padding": lambda: loading.padding(recipe),
            "throughput": lambda: throughput.measure(recipe, out, args.tokens),
            "warm_start": lambda: warm_start.measure(recipe, out, args.wer, args.patience),
        }
        names = args.only.split(",")
        if unknown := [name for name in names if name not in tables]:
            raise UserError(f"there is no table '{unknown[0]}': {nearest(unknown[0], tables)}")
        if set(names) & set(OF_RECIPE) and not (recipe.folder / "dump" / "en" / "train" / "done.json").is_file():
            log(f"{recipe.folder} is not prepared: running its stages 0 to 4")
            if subprocess.run(["./run.sh", "--stop-stage", "4"], cwd=recipe.folder).returncode:
                raise UserError(
                    f"stages 0 to 4 of {recipe.folder} failed: mend what they say above, and measure again."
                )
        for name in names:
            rows = tables[name]()
            print_table(rows, title=name)
            replace_table(args.out, name, [{**row, "git": git_hash(), "machine": _machine()} for row in rows])
    return 0


def _machine() -> str:
    """The processor, in the words of the kernel, and how many of its cores are ours."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
