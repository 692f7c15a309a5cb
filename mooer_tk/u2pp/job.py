"""A training run of U2++: what its command line asks for, the objective it becomes, and the model it leaves."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from mooer_tk.config import essence, git_hash, load_config
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import fingerprint
from mooer_tk.encoders.log_mel import LogMel
from mooer_tk.errors import UserError
from mooer_tk.model_dir import model_files
from mooer_tk.progress import log
from mooer_tk.train.batches import Reader
from mooer_tk.train.checkpoints import average
from mooer_tk.train.examples import Example, Source, load_examples, state_statistics
from mooer_tk.u2pp.config import U2ppConfig
from mooer_tk.u2pp.model import U2pp, load_model, save_model
from mooer_tk.u2pp.objective import BareText, U2ppObjective
from mooer_tk.u2pp.units import Units


@dataclass
class U2ppJob:
    """A command line, read and checked; `mark` is the fingerprint of all that the result depends on."""

    config: U2ppConfig
    sources: list[Source]
    dev: list[Source]
    mark: str


def read_job(args: argparse.Namespace) -> U2ppJob:
    """Read config and sources; with --init-model the shape and the units are that model's.

    Raises:
        UserError: anything that cannot be trained.
    """
    config = load_config(args.config, args.set, U2ppConfig)
    if args.init_model:
        config.model = load_model(args.init_model)[1].model
        if ignored := [one for one in args.set if one.startswith("model.")]:
            log(f"the model is that of {args.init_model}; without effect: {' '.join(ignored)}")
    sources, dev = ([Source.parse(one) for one in lines] for lines in (args.source, args.dev))
    for source in sources + dev:
        if not ShardReader(source.states).meta.get("audio"):
            raise UserError(
                f"{source.states} holds encoder states, but U2++ needs audio: mooer states DATA OUT --audio."
            )
    if config.loss.freeze and not config.model.moe.experts:
        raise UserError("loss.freeze trains experts alone, and this model has none: start from mooer upcycle.")
    if config.model.moe.experts and config.train.engine == "deepspeed" and config.train.zero_stage == 3:
        raise UserError(
            "ZeRO-3 waits for every expert in every step, and frames choose theirs: set train.zero_stage=2."
        )
    inputs = [path for source in sources + dev for path in (source.states / "done.json", *source.tables)]
    inputs += [Path(config.model.units), *(model_files(args.init_model) if args.init_model else [])]
    return U2ppJob(config, sources, dev, fingerprint(essence(config), args.kind, args.source, args.dev, *inputs))


def build_objective(args: argparse.Namespace, job: U2ppJob, out: Path | None) -> U2ppObjective:
    """Model and data of a run; reports go to `out`, and the model that it starts from, if there is such a place."""
    config = job.config
    units = Units(config.model.units)
    torch.manual_seed(config.train.seed)
    front = LogMel(config.model.mels)

    def examples(sources: list[Source], name: str) -> list[Example]:
        report = out / f"skipped_{name}.tsv" if out else None
        options = {"max_skip": args.max_skip, "state_ms": LogMel.frame_ms}
        return load_examples(sources, config.train.data, BareText(), units, report, **options)

    train_set, dev_set = examples(job.sources, "train"), examples(job.dev, "dev")
    if args.init_model:
        model = load_model(args.init_model)[0]
    else:
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


def export(run: Path, out: Path, checkpoints: list[Path]) -> None:
    """Average checkpoints of a run and write the model; what was frozen is what the run started with."""
    model, config, units = load_model(run / "start")
    weights = {**model.state_dict(), **average(checkpoints)}
    names = [path.name for path in checkpoints]
    save_model(out, config, units.path, weights, {"git": git_hash(), "run": str(run), "averaged": names})
    log(f"{out}: the average of {', '.join(names)}")
