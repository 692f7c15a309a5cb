"""Average the best checkpoints of a run, or the last, and export one model (stage 6)."""

import argparse
from pathlib import Path

from mooer_tk.config import git_hash
from mooer_tk.data.atomic import fingerprint, is_done, mark_done
from mooer_tk.errors import UserError
from mooer_tk.progress import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", type=Path, help="directory of an instruct or u2pp run (stage 5)")
    parser.add_argument("out", type=Path, help="directory for the exported model")
    parser.add_argument("--best", type=int, default=3, help="how many checkpoints, by dev criterion")
    parser.add_argument("--last", type=int, default=0, help="the newest so many instead")


def run(args: argparse.Namespace) -> int:
    """Average and export."""
    from mooer_tk.llm.checkpoint import export_run as export
    from mooer_tk.train.checkpoints import average, best, list_checkpoints

    found = list_checkpoints(args.run / "checkpoints")
    chosen = found[-args.last :] if args.last else best(found, args.best)
    if not chosen:
        raise UserError(f"{args.run} holds no checkpoint to average: run the training stage first.")
    mark = fingerprint([(path.name, state) for path, state in chosen], args.run / "done.json")
    if is_done(args.out, mark):
        log(f"{args.out} is up to date")
        return 0
    if (args.run / "start").is_dir():
        from mooer_tk.u2pp.job import export_run as export
    names = [path.name for path, _ in chosen]
    weights = average([path for path, _ in chosen])
    export(args.run, args.out, weights, {"git": git_hash(), "run": str(args.run), "averaged": names})
    mark_done(args.out, mark)
    log(f"{args.out}: the average of {', '.join(names)}")
    return 0
