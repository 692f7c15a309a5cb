"""A training run of U2++: what its command line asks for, the objective it becomes, and the model it leaves."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mooer_tk.config import git_hash, load_config
from mooer_tk.data.array_shards import read_meta
from mooer_tk.encoders.log_mel import LogMel
from mooer_tk.errors import UserError
from mooer_tk.progress import log
from mooer_tk.train.batches import Reader
from mooer_tk.train.examples import state_statistics
from mooer_tk.train.job import Job
from mooer_tk.u2pp.config import U2ppConfig
from mooer_tk.u2pp.model import U2pp, load_model, save_model
from mooer_tk.u2pp.objective import BareText, U2ppObjective
from mooer_tk.u2pp.units import Units


def read_job(args: argparse.Namespace) -> Job:
    """Read config and sources; with --init-model the shape and the units are that model's.

    Raises:
        UserError: anything that cannot be trained.
    """
    config = load_config(args.config, args.set, U2ppConfig)
    start = None
    if args.init_model:
        start, saved, _ = load_model(args.init_model)
        config.model = saved.model
        if ignored := [one for one in args.set if one.startswith("model.")]:
            log(f"the model is that of {args.init_model}; without effect: {' '.join(ignored)}")
    if config.loss.freeze and not config.model.moe.experts:
        raise UserError("loss.freeze trains experts alone, and this model has none: start from mooer upcycle.")
    if config.model.moe.experts and config.train.engine == "deepspeed" and config.train.zero_stage == 3:
        raise UserError("ZeRO-3 waits for every expert in every step, and frames choose theirs: train.zero_stage=2.")
    job = Job.read(args, config, [Path(config.model.units)], start)
    for source in job.sources + job.dev:
        read_meta(source.states, audio=True)
    return job


def build_objective(job: Job, out: Path | None) -> U2ppObjective:
    """Model and data of a run; reports go to `out`, and the model that it starts from, if there is such a place."""
    config, model = job.config, job.start
    units, front = Units(config.model.units), LogMel(config.model.mels)
    torch.manual_seed(config.train.seed)
    train_set, dev_set = job.examples(config.train.data, BareText(), units, out, front.frame_ms)
    if model is None:
        model = U2pp(config.model, units.size)
        reader = Reader(train_set, front)
        mean, std = state_statistics(train_set, lambda example: reader.read([example]).features[0])
        model.encoder.mean.copy_(mean)
        model.encoder.std.copy_(std.clamp_min(1e-5))
    if out:
        save_model(out / "start", config, units.path, model.state_dict(), {"git": git_hash()})
    if config.loss.freeze:
        model.freeze_dense()
    return U2ppObjective(model, units, train_set, dev_set, config, out)


def export_run(run: Path, out: Path, weights: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write the model of a run from averaged weights; what was frozen is what the run started with."""
    model, config, units = load_model(run / "start")
    save_model(out, config, units.path, {**model.state_dict(), **weights}, info)
