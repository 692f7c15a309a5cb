"""Show a config as it resolves, or the values of some of its keys."""

import argparse
from operator import attrgetter
from pathlib import Path

from mooer_tk.config import dump, load_config, system_of
from mooer_tk.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("config", type=Path, help="experiment YAML")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--get", nargs="+", metavar="KEY", help="print these values only, such as llm.model")


def run(args: argparse.Namespace) -> int:
    """Print the resolved YAML, or values separated by blanks."""
    if system_of(args.config) == "u2pp":
        from mooer_tk.u2pp.config import U2ppConfig as Kind
    else:
        from mooer_tk.config import Config as Kind
    config = load_config(args.config, args.set, Kind)
    if not args.get:
        print(dump(config), end="")
        return 0
    try:
        print(*(attrgetter(key)(config) for key in args.get))
    except AttributeError as error:
        raise UserError(f"--get: {error}; mooer config {args.config} shows all keys.") from error
    return 0
