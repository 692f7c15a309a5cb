"""Train: the adapter's CTC warm start (stage 4), or adapter + LoRA (stage 5).

  mooer train warm_start --config conf/mooer.yaml --out exp/x/warm --source asr:dump/en/train:data/en/train_pl/text ...
  mooer train instruct   --config conf/mooer.yaml --out exp/x/llm  --init exp/x/warm/adapter.safetensors --source ...

The same command goes on where a killed run stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mooer_tk.config import Config, dump, git_hash, load_config
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import fingerprint, is_done, mark_done, replacing, write_json, write_text
from mooer_tk.progress import log

if TYPE_CHECKING:
    from mooer_tk.llm.checkpoint import Parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("kind", choices=("warm_start", "instruct"))
    parser.add_argument("--config", type=Path, help="experiment YAML")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--out", type=Path, required=True, help="directory of the run")
    parser.add_argument("--source", action="append", required=True, help="task:states:text[+translation][:weight]")
    parser.add_argument("--dev", action="append", required=True, help="the same form, for dev scores")
    parser.add_argument("--init", type=Path, help="instruct: adapter.safetensors of a warm start (default: random)")
    parser.add_argument("--init-model", type=Path, help="instruct: go on training this model (exp/NAME, or a release)")
    parser.add_argument("--max-skip", type=float, default=0.1, help="share of skipped utterances that stops the stage")


def run(args: argparse.Namespace) -> int:
    """Train, export what the next stage needs, draw the curves."""
    from mooer_tk.adapters.table import resolve_stack
    from mooer_tk.llm.checkpoint import model_files, read_parts
    from mooer_tk.score.plots import plot_loss
    from mooer_tk.train.examples import Source
    from mooer_tk.train.loop import Trainer

    config = load_config(args.config, args.set)
    parts = read_parts(args.init_model, config) if args.init_model else None
    if parts:
        # What the weights were made for; the rest of the config is this run's own.
        config.adapter, config.llm, config.prompt = parts.config.adapter, parts.config.llm, parts.config.prompt
    sources = [Source.parse(one) for one in args.source]
    first = sources[0].states
    resolve_stack(config.adapter, ShardReader(first).meta.get("frame_ms"), str(first))
    dev = [Source.parse(one) for one in args.dev]
    inputs = [path for source in sources + dev for path in (source.states / "done.json", *source.tables)]
    inputs += [args.init] if args.init else []
    inputs += model_files(args.init_model) if args.init_model else []
    mark = fingerprint(dump(config), args.kind, args.source, args.dev, *inputs)
    if is_done(args.out, mark):
        log(f"{args.out} is up to date")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    _forget_other_run(args.out, mark)
    write_text(args.out / "config.yaml", dump(config))
    write_json(args.out / "run.json", {"fingerprint": mark, "git": git_hash(), "sources": args.source, "dev": args.dev})

    objective, settings = _objective(args, config, sources, dev, parts)
    scores = Trainer(objective, settings, args.out).run()
    if args.kind == "warm_start":
        _export_best_warm_start(objective, args.out)
    with replacing(args.out / "loss.png") as picture:
        plot_loss(args.out / "train.jsonl", picture)
    mark_done(args.out, mark, **scores)
    return 0


def _forget_other_run(out: Path, mark: str) -> None:
    """A run of other settings in the same place cannot be gone on with: start anew, and say so."""
    import json
    import shutil

    try:
        earlier = json.loads((out / "run.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        earlier = mark
    if earlier != mark:
        log(f"{out} holds a run of other settings or data: starting anew")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _objective(args: argparse.Namespace, config: Config, sources: list, dev: list, parts: Parts | None) -> tuple:
    from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
    from mooer_tk.adapters.table import build_adapter
    from mooer_tk.llm.causal_lm import load_llm
    from mooer_tk.llm.checkpoint import build_from, build_model, load_adapter, tokens_in_use
    from mooer_tk.llm.prompt import named_prompt
    from mooer_tk.train.examples import load_examples, state_statistics
    from mooer_tk.train.objectives import Instruct, WarmStart

    settings = config.warm_start if args.kind == "warm_start" else config.train
    torch.manual_seed(settings.seed)
    llm, tokenizer = load_llm(config.llm)
    prompt = parts.prompt if parts else named_prompt(config.prompt)
    # What the run was trained with: the export takes it from here, whatever the config's own prompt is called.
    prompt.save(args.out / "prompt.json")

    def examples(lines: list, name: str) -> list:
        report = args.out / f"skipped_{name}.tsv"
        return load_examples(lines, settings.data, prompt, tokenizer, report, max_skip=args.max_skip)

    train_set, dev_set = examples(sources, "train"), examples(dev, "dev")
    dim = train_set[0].shards.entries[train_set[0].utt].shape[1]
    if args.kind == "warm_start":
        train_set = [example for example in train_set if example.transcript]
        dev_set = [example for example in dev_set if example.transcript]
        table = llm.get_input_embeddings().weight
        adapter = build_adapter(config.adapter, dim, table.shape[1], dropout=settings.state_dropout)
        adapter.set_statistics(*state_statistics(train_set))
        head = EmbeddingCTCHead(tokens_in_use([example.transcript for example in train_set]), table)
        return WarmStart(adapter, head, tokenizer, train_set, dev_set, settings), settings
    if parts:
        parts.config = config
        model = build_from(parts, str(args.init_model), llm=(llm, tokenizer))
    else:
        adapter = load_adapter(args.init) if args.init else None
        model = build_model(config, dim, adapter=adapter, llm=(llm, tokenizer), prompt=prompt)
    if settings.checkpointing:
        # Reentrant checkpointing gives the adapter no gradient: what enters the LLM is no leaf.
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    model.precision = settings.precision
    if not args.init and not parts:
        model.adapter.set_statistics(*state_statistics(train_set))
    return Instruct(model, train_set, dev_set, settings, config.decode), settings


def _export_best_warm_start(objective: object, out: Path) -> None:
    from mooer_tk.llm.checkpoint import save_adapter
    from mooer_tk.train.checkpoints import best, list_checkpoints, load_weights
    from mooer_tk.weights import load_strictly

    ((path, state),) = best(list_checkpoints(out / "checkpoints"), 1)
    load_strictly(objective.module, load_weights(path), str(path))
    with replacing(out / "adapter.safetensors") as temporary:
        save_adapter(temporary, objective.adapter, objective.head)
    log(f"{out}/adapter.safetensors: the warm start of {path.name}, dev CTC-greedy WER {state['wer']:.1f} %")
