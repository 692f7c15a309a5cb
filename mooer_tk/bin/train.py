"""Train: the adapter's CTC warm start (stage 4), adapter + LoRA (stage 5), or a U2++ recogniser.

  mooer train warm_start --config conf/mooer.yaml --out exp/x/warm --source asr:dump/en/train:data/en/train_pl/text ...
  mooer train instruct   --config conf/mooer.yaml --out exp/x/llm  --init exp/x/warm/adapter.safetensors --source ...
  mooer train u2pp       --config conf/dense.yaml --out exp/x/train --set model.units=units.txt --source asr:dump/a:t...

The same command goes on where a killed run stopped. `utils/plot.py loss exp/x/llm` draws the curves of train.jsonl.
Several processes, on one host or many:

  torchrun --standalone --nproc-per-node 8 -m mooer_tk.bin.main train instruct ...
  deepspeed --hostfile hosts --no_local_rank --module mooer_tk.bin.main train ... --set train.engine=deepspeed
  srun mooer train instruct ...
"""

import argparse
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.table import build_adapter, resolve_stack
from mooer_tk.config import TrainConfig, dump, git_hash, load_config
from mooer_tk.data.array_shards import read_meta
from mooer_tk.data.atomic import DONE, is_done, mark_done, read_json, replacing, sole_writer, write_json, write_text
from mooer_tk.encoders.table import build_encoder
from mooer_tk.errors import UserError
from mooer_tk.llm.causal_lm import load_llm
from mooer_tk.llm.checkpoint import build_from, build_model, load_adapter, read_parts, tokens_in_use
from mooer_tk.llm.counting import memory, shape_of
from mooer_tk.llm.prompt import named_prompt
from mooer_tk.model_dir import is_u2pp, model_files
from mooer_tk.progress import log
from mooer_tk.train.batches import Reader, with_states
from mooer_tk.train.checkpoints import best, list_checkpoints
from mooer_tk.train.examples import Example, Source, state_statistics
from mooer_tk.train.job import Job
from mooer_tk.train.loop import Trainer
from mooer_tk.train.objectives import Instruct, SpeechObjective, WarmStart
from mooer_tk.train.processes import Processes
from mooer_tk.u2pp import job as u2pp


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("kind", choices=("warm_start", "instruct", "u2pp"))
    parser.add_argument("--config", type=Path, help="experiment YAML")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--out", type=Path, required=True, help="directory of the run")
    parser.add_argument("--source", action="append", required=True, help="task:states:text[+translation][:weight]")
    parser.add_argument("--dev", action="append", required=True, help="the same form, for dev scores")
    parser.add_argument("--init", type=Path, help="instruct: adapter.safetensors of a warm start (default: random)")
    parser.add_argument("--init-model", type=Path, help="instruct, u2pp: start from this model (exp/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="check all, take the heaviest step, write nothing")
    parser.add_argument("--max-skip", type=float, default=0.1, help="share of utterances that may be skipped or lost")


def run(args: argparse.Namespace) -> int:
    """Train, and export what the next stage needs."""
    processes = Processes.join()
    try:
        return _dry_run(args, processes) if args.dry_run else _train(args, processes)
    finally:
        processes.leave()


def _train(args: argparse.Namespace, processes: Processes) -> int:
    job = _read_job(args)
    if is_done(args.out, job.mark):
        if processes.main:
            log(f"{args.out} is up to date")
        return 0
    # The launcher's processes outlive it when it is killed: they must not meet those of the next start.
    with sole_writer(args.out) if processes.main else nullcontext():
        if processes.main:
            _put_other_run_aside(args.out, job.mark)
            facts = {"git": git_hash(), "processes": processes.size, "sources": args.source, "dev": args.dev}
            write_json(args.out / "run.json", {"fingerprint": job.mark, **facts})
        processes.wait()
        objective, settings = _objective(job, processes, args.out if processes.main else None)
        if processes.main:
            # Not before: an encoder that runs in training tells how many of its states become an embedding.
            write_text(args.out / "config.yaml", dump(job.config))
        max_lost = int(args.max_skip * len({example.utt for example in objective.train}))
        scores = Trainer(objective, settings, args.out, processes, max_lost).run()
        if processes.main:
            if args.kind == "warm_start":
                _export_best_warm_start(args.out)
            mark_done(args.out, job.mark, **scores)
    return 0


def _dry_run(args: argparse.Namespace, processes: Processes) -> int:
    """Check config and data, estimate memory, and take the heaviest step; nothing is written."""
    job = _read_job(args)
    with tempfile.TemporaryDirectory() as folder:
        objective, settings = _objective(job, processes, None)
        plan = objective.plan(0, processes.size)
        hours = sum(e.shards.entries[e.utt].seconds for e in objective.train) / 3600
        found = Trainer(objective, settings, Path(folder), processes).try_step()
    if not processes.main:
        return 0
    steps = len(plan) / (processes.size * settings.accumulate)
    print(f"data      {len(objective.train)} training examples, {hours:.2f} h; {len(objective.dev)} dev examples")
    print(f"an epoch  {len(plan)} micro-batches, {steps:.1f} steps; the run has {settings.steps / steps:.2f} epochs")
    print(f"one step  {' '.join(f'{name} {value:g}' for name, value in found.items())} (the heaviest batches)")
    if args.kind == "instruct":
        batch = max(map(len, plan))
        zero = settings.zero_stage if settings.engine == "deepspeed" else 0
        first = objective.train[0]
        entry = first.shards.entries[first.utt]
        shape = shape_of(objective.module, objective.encoder, 1000 * entry.seconds / first.frames)
        parts = memory(job.config, shape, batch=batch, zero=zero, gpus=processes.size)
        print(f"estimate  {sum(parts.values()):.1f} GiB a GPU for {batch} utterances of 10 s of speech")
    return 0


def _read_job(args: argparse.Namespace) -> Job:
    if args.kind == "u2pp":
        return u2pp.read_job(args)
    config = load_config(args.config, args.set)
    parts = read_parts(args.init_model) if args.init_model else None
    if parts:
        # What the weights were made for; the rest of the config is this run's own.
        made, parts.config = parts.config, config
        config.adapter, config.llm, config.prompt = made.adapter, made.llm, made.prompt
    first = Source.parse(args.source[0]).states
    meta = read_meta(first)
    if not meta.get("audio"):
        resolve_stack(config.adapter, meta.get("frame_ms"), str(first))
    encoder = model_files(config.encoder.model) if is_u2pp(config.encoder.model) else []
    return Job.read(args, config, [*encoder, *([args.init] if args.init else [])], parts)


def _put_other_run_aside(out: Path, mark: str) -> None:
    """A run of other settings in the same place cannot be gone on with: start anew, and say where it is."""
    earlier = read_json(out / "run.json").get("fingerprint", mark)
    checkpoints, aside = out / "checkpoints", out / f"checkpoints.{earlier}"
    if earlier != mark:
        (out / DONE).unlink(missing_ok=True)
    if earlier != mark and checkpoints.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        checkpoints.rename(aside)
        log(f"{out} holds a run of other settings or data: starting anew; its checkpoints are now in {aside}")


def _objective(job: Job, processes: Processes, out: Path | None) -> tuple[SpeechObjective, TrainConfig]:
    """The objective and its settings; reports go to `out`, if there is one."""
    args, config = job.args, job.config
    if args.kind == "u2pp":
        return u2pp.build_objective(job, out), config.train
    settings = config.warm_start if args.kind == "warm_start" else config.train
    torch.manual_seed(settings.seed)
    parts = job.start
    llm, tokenizer = load_llm(config.llm)
    prompt = parts.prompt if parts else named_prompt(config.prompt)
    encoder = None
    if job.is_audio():
        encoder = build_encoder(config.encoder).to(processes.device)
        resolve_stack(config.adapter, encoder.frame_ms, config.encoder.name)
    if out:
        # What the run was trained with: the export takes it from here, whatever the config's own prompt is called.
        prompt.save(out / "prompt.json")

    def statistics(some: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        reader = Reader(some, encoder)
        return state_statistics(some, lambda e: with_states(reader.read([e]), encoder, processes.device).states[0])

    state_ms = encoder.frame_ms if encoder else 0.0
    train_set, dev_set = job.examples(settings.data, prompt, tokenizer, out, state_ms)
    dim = encoder.dim if encoder else train_set[0].shards.entries[train_set[0].utt].shape[1]
    if args.kind == "warm_start":
        train_set = [example for example in train_set if example.transcript]
        dev_set = [example for example in dev_set if example.transcript]
        if not train_set or not dev_set:
            raise UserError("the warm start learns transcripts, and --source or --dev has none: asr:STATES:TEXT.")
        table = llm.get_input_embeddings().weight
        adapter = build_adapter(config.adapter, dim, table.shape[1], dropout=settings.state_dropout)
        adapter.set_statistics(*statistics(train_set))
        head = EmbeddingCTCHead(tokens_in_use([example.transcript for example in train_set]), table)
        return WarmStart(adapter, head, tokenizer, train_set, dev_set, settings, encoder), settings
    if parts:
        model = build_from(parts, str(args.init_model), llm=(llm, tokenizer))
    else:
        adapter = load_adapter(args.init) if args.init else None
        model = build_model(config, dim, adapter=adapter, llm=(llm, tokenizer), prompt=prompt)
    if settings.checkpointing:
        # Reentrant checkpointing gives the adapter no gradient: what enters the LLM is no leaf.
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    if not args.init and not parts:
        model.adapter.set_statistics(*statistics(train_set))
    return Instruct(model, train_set, dev_set, settings, config.decode, encoder), settings


def _export_best_warm_start(out: Path) -> None:
    ((path, state),) = best(list_checkpoints(out / "checkpoints"), 1)
    with replacing(out / "adapter.safetensors") as temporary:
        shutil.copyfile(path / "weights.safetensors", temporary)
    log(f"{out}/adapter.safetensors: the warm start of {path.name}, dev CTC-greedy WER {state['wer']:.1f} %")
