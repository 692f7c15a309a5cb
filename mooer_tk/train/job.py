"""What a command line of `mooer train` asks for, whatever it trains: read, checked, and told apart from other runs."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooer_tk.config import DataConfig, essence
from mooer_tk.data.array_shards import read_meta
from mooer_tk.data.atomic import fingerprint
from mooer_tk.llm.prompt import Prompt
from mooer_tk.model_dir import model_files
from mooer_tk.train.examples import Example, Source, load_examples


@dataclass
class Job:
    """A run: its config and data; `mark` is the fingerprint of all that the result depends on."""

    args: argparse.Namespace
    config: Any
    sources: list[Source]
    dev: list[Source]
    mark: str
    start: Any  # what was read of the model of --init-model; None without one

    @classmethod
    def read(cls, args: argparse.Namespace, config: Any, inputs: list[Path], start: Any) -> "Job":
        """Parse the sources; `inputs` are files that count beside them and beside the model of --init-model.

        Raises:
            UserError: a malformed source.
        """
        sources, dev = ([Source.parse(one) for one in lines] for lines in (args.source, args.dev))
        files = [path for source in sources + dev for path in (source.states / "done.json", *source.tables)]
        files += [*inputs, *(model_files(args.init_model) if args.init_model else [])]
        mark = fingerprint(essence(config), args.kind, args.source, args.dev, *files)
        return cls(args, config, sources, dev, mark, start)

    def is_audio(self) -> bool:
        """Whether the sources are audio shards; they cannot be of both kinds."""
        folders = [source.states for source in self.sources + self.dev]
        audio = any(read_meta(folder).get("audio") for folder in folders)
        for folder in folders:
            read_meta(folder, audio=audio)
        return audio

    def examples(
        self, config: DataConfig, prompt: Prompt, tokenizer: Any, out: Path | None, state_ms: float
    ) -> tuple[list[Example], list[Example]]:
        """Training and dev examples (train/examples.py); what is skipped is named in `out`, if there is one."""
        found = []
        for name, sources in (("train", self.sources), ("dev", self.dev)):
            report = out / f"skipped_{name}.tsv" if out else None
            options = {"max_skip": self.args.max_skip, "state_ms": state_ms}
            found.append(load_examples(sources, config, prompt, tokenizer, report, **options))
        return found[0], found[1]
