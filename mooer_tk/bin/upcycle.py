"""Grow a trained dense U2++ model into a mixture of experts that starts with the same output (UME).

mooer upcycle --from exp/dense --out exp/ume/start --experts 8 --top-k 2
mooer train u2pp --init-model exp/ume/start --set loss.freeze=true ...
"""

import argparse
import copy
from pathlib import Path

from mooer_tk.errors import UserError
from mooer_tk.progress import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--from", dest="dense", type=Path, required=True, help="a dense model: exp/NAME, or exported")
    parser.add_argument("--out", type=Path, required=True, help="directory of the model to write")
    parser.add_argument("--experts", type=int, default=8, help="experts in place of each feed-forward layer")
    parser.add_argument("--top-k", type=int, default=2, help="experts that a frame goes through")
    parser.add_argument("--balance", type=float, default=0.01, help="weight of the balance loss in training")
    parser.add_argument("--noise", type=float, default=0.0, help="deviation of the noise on the routers' logits")
    parser.add_argument("--seed", type=int, default=0, help="of the routers' random start")


def run(args: argparse.Namespace) -> int:
    """Read, grow, write."""
    from mooer_tk.moe.upcycle import upcycle
    from mooer_tk.u2pp.config import MoEConfig
    from mooer_tk.u2pp.model import U2pp, load_model, save_model

    dense, config, units = load_model(args.dense)
    if config.model.moe.experts:
        raise UserError(f"{args.dense} has experts already: give the dense model that it grew from.")
    grown = copy.deepcopy(config)
    grown.model.moe = MoEConfig(args.experts, args.top_k, args.balance, args.noise)
    model = U2pp(grown.model, units.size)
    upcycle(dense.state_dict(), model, seed=args.seed)
    # No commit: what is trained from here depends on these files, and must not start anew because of it.
    save_model(args.out, grown, units.path, model.state_dict(), {"grown_from": str(args.dense)})
    log(f"{args.out}: {args.dense} with {args.experts} experts, {args.top_k} of them for a frame")
    return 0
