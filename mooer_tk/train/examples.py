"""Training examples: which states, which task, which text; and their batches under a budget of positions."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from mooer_tk.config import DataConfig
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.data.skips import report_skips
from mooer_tk.errors import UserError
from mooer_tk.llm.prompt import Prompt
from mooer_tk.progress import log
from mooer_tk.score.normalise import get_normaliser

TASK_PARTS = {"asr": ("asr",), "ast": ("ast",), "asr_ast": ("asr", "ast")}
# A source of instructions: every pass draws one of the tasks for each of its utterances.
INSTRUCTION = "instruction"


@dataclass(frozen=True)
class Source:
    """One line of training data: `task:states:text[+translation][:weight]`.

    `weight` is how often an utterance of it is seen per pass (0.5: every second pass on average, 2: twice).
    asr takes a transcript; ast a translation, after a transcript for the CTC loss (`text+translation`) if there is
    one; asr_ast takes both, and so does instruction, which draws one of the three tasks whenever it is seen.
    """

    task: str
    states: Path
    tables: tuple[Path, ...]
    weight: float = 1.0

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read the command line's form.

        Raises:
            UserError: a wrong form, an unknown task, or the wrong number of tables for it.
        """
        fields = line.split(":")
        if len(fields) not in (3, 4) or fields[0] not in (*TASK_PARTS, INSTRUCTION):
            raise UserError(f"'{line}' is not of the form asr|ast|asr_ast|instruction:DIR:TABLE[+TABLE][:WEIGHT].")
        tables = tuple(Path(one) for one in fields[2].split("+"))
        if len(tables) not in {"asr": (1,), "ast": (1, 2)}.get(fields[0], (2,)):
            raise UserError(f"source '{line}': asr takes one table, ast [asr+]translation, others asr+translation.")
        try:
            weight = float(fields[3]) if len(fields) == 4 else 1.0
        except ValueError:
            weight = -1.0
        if not 0 <= weight < math.inf:
            raise UserError(f"source '{line}': the weight must be a number, 0 or more.")
        return cls(fields[0], Path(fields[1]), tables, weight)


@dataclass(slots=True)
class Example:
    """One utterance with its task, and what it weighs in positions."""

    utt: str
    task: str
    shards: ShardReader
    answer: list[int]
    transcript: list[int]  # LLM tokens of the normalised transcript; empty when there is none
    frames: int
    weight: float
    choice: tuple[int, int] | None = None  # instruction: which utterance, and which of `TASK_PARTS` this example is
    classes: list[int] = field(default_factory=list)  # of the transcript, for a CTC head; empty where none is trained

    @property
    def place(self) -> str:
        """The file that holds it."""
        return f"{self.shards.folder}/{self.shards.entries[self.utt].shard}"

    def positions(self, stack: int, prompt: int) -> int:
        """Positions that the LLM sees at the most: speech, prompt and answer."""
        return self.frames // stack + prompt + len(self.answer)


def load_examples(
    sources: list[Source],
    config: DataConfig,
    prompt: Prompt,
    tokenizer: Any,
    report: Path | None,
    *,
    max_skip: float = 0.1,
    state_ms: float = 0.0,
) -> list[Example]:
    """Pair states (or audio, of which the encoder makes a state every `state_ms`) with texts.

    Utterances without one of them are counted in `report` (None: in the log alone). ASR targets are normalised
    (normaliser "target-en"), translations keep their form (MooER's tutorial).

    Raises:
        UserError: a missing table or shard directory, nothing left to train on, or too many skips.
    """
    normalise = get_normaliser("target-en")
    skipped: dict[str, str] = {}
    examples: list[Example] = []
    total = drawn = 0
    # Sources of several tasks share their shards, and the index of a large corpus is long.
    readers = {folder: ShardReader(folder) for folder in {source.states for source in sources}}
    for source in sources:
        tasks = tuple(TASK_PARTS) if source.task == INSTRUCTION else (source.task,)
        for task in tasks:
            prompt.check_task(task)
        shards = readers[source.states]
        tables = [read_table(path) for path in source.tables]
        parts = ("asr", "ast") if len(tables) == 2 else TASK_PARTS[source.task]
        total += len(shards)
        for utt in shards:
            texts = {part: table.get(utt, "") for part, table in zip(parts, tables, strict=True)}
            if "asr" in texts:
                texts["asr"] = normalise(texts["asr"])
            reason = _unfit(texts, shards.entries[utt].seconds, config)
            if reason:
                skipped[f"{source.task}:{utt}"] = reason
                continue
            # A leading blank gives the words of a transcript the same tokens wherever they stand.
            transcript = tokenizer.encode(" " + texts["asr"], add_special_tokens=False) if "asr" in texts else []
            entry = shards.entries[utt]
            frames = round(1000 * entry.seconds / state_ms) if state_ms else entry.shape[0]
            drawn += len(tasks) > 1
            for number, task in enumerate(tasks):
                answer = prompt.answer([texts[part] for part in TASK_PARTS[task]], tokenizer)
                choice = (drawn, number) if len(tasks) > 1 else None
                examples.append(Example(utt, task, shards, answer, transcript, frames, source.weight, choice))
    summary = report_skips("training examples", skipped, total, report, max_share=max_skip)
    if report:
        log(summary)
    if not examples:
        raise UserError(f"nothing to train on: all {total} utterances were skipped{f', see {report}' * bool(report)}.")
    return examples


def _unfit(texts: dict[str, str], seconds: float, config: DataConfig) -> str:
    missing = [part for part, text in texts.items() if not text]
    if missing:
        return f"no {'transcript' if missing[0] == 'asr' else 'translation'}"
    if not config.min_seconds <= seconds <= config.max_seconds:
        return f"duration: {seconds:.2f} s is outside {config.min_seconds:g}-{config.max_seconds:g} s"
    return ""


def state_statistics(
    examples: list[Example], states_of: Callable[[Example], torch.Tensor], most: int = 2000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-dimension mean and deviation (D,) of the states of at most `most` examples, chosen by hash of their ids."""
    chosen = sorted(examples, key=lambda e: hashlib.sha1(e.utt.encode()).digest())[:most]
    total = square = torch.zeros((), dtype=torch.float64)
    frames = 0
    for example in chosen:
        states = states_of(example).double().cpu()
        total, square, frames = total + states.sum(0), square + states.square().sum(0), frames + len(states)
    mean = total / frames
    return mean.float(), (square / frames - mean.square()).clamp_min(0).sqrt().float()
