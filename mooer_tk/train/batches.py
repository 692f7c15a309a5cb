"""Micro-batches: which utterances share one, whose turn each of them is, and what is read for it."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mooer_tk.config import DataConfig
from mooer_tk.data.array_shards import DamagedError
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.errors import UserError
from mooer_tk.features.augment import Augmenter
from mooer_tk.llm.speech_llm import Batch
from mooer_tk.train.examples import TASK_PARTS, Example
from mooer_tk.train.processes import Processes

Place = tuple[int, int]  # epoch, and micro-batches of it that all processes have taken together
Turn = tuple[tuple[int, list[int]], Place]  # epoch and indices of a micro-batch, and the place after it


def plan_epoch(
    examples: list[Example], config: DataConfig, *, stack: int, prompt: int, seed: int, epoch: int, processes: int = 1
) -> list[list[int]]:
    """The micro-batches of one pass: lists of indices into `examples`, a function of (seed, epoch, processes) alone.

    Utterances are drawn by weight, shuffled, sorted by length within pools of many batches, cut to the budget of
    padded positions, and the batches shuffled again: little padding, and every epoch is different. As many as there
    are processes stay together, so that those wait little for each other; the number of batches is a multiple of
    theirs, for a turn that lacks some would shift those of all later epochs.
    """
    rng = np.random.default_rng([seed, epoch])
    weights = np.array([example.weight for example in examples])
    # Of the examples of an instruction source, one a pass and utterance counts.
    draws = rng.integers(len(TASK_PARTS), size=1 + max((e.choice[0] for e in examples if e.choice), default=0))
    weights *= [e.choice is None or draws[e.choice[0]] == e.choice[1] for e in examples]
    copies = np.floor(weights + rng.random(len(examples))).astype(int)
    order = rng.permutation(np.repeat(np.arange(len(examples)), copies))
    if config.shuffle_utts:
        order = _near(order, examples, rng)
    sizes = np.array([example.positions(stack, prompt) for example in examples])
    pool = config.shuffle_utts or 50 * config.batch_utts * processes
    batches: list[list[int]] = []
    for first in range(0, len(order), pool):
        chunk = order[first : first + pool]
        some = _fill_up(_cut(chunk[np.argsort(sizes[chunk], kind="stable")], sizes, config), processes)
        batches += _shuffle(some, processes, rng) if config.shuffle_utts else some
    return batches if config.shuffle_utts else _shuffle(batches, processes, rng)


def _near(order: np.ndarray, examples: list[Example], rng: np.random.Generator) -> np.ndarray:
    """Shards in a random order, and the utterances of a shard together: reads of a pool stay within a few files."""
    names = {name: number for number, name in enumerate(sorted({e.place for e in examples}))}
    turns = rng.permutation(len(names))
    return order[np.argsort([turns[names[examples[i].place]] for i in order], kind="stable")]


def _cut(ordered: np.ndarray, sizes: np.ndarray, config: DataConfig) -> list[list[int]]:
    """Cut indices, shortest first, into batches within the budgets of positions and utterances."""
    batches: list[list[int]] = []
    batch: list[int] = []
    for index in ordered:
        # Sorted upwards: the newcomer is the longest, so it sets the padded size.
        if batch and (len(batch) == config.batch_utts or sizes[index] * (len(batch) + 1) > config.batch_positions):
            batches.append(batch)
            batch = []
        batch.append(int(index))
    return [*batches, batch] if batch else batches


def _fill_up(batches: list[list[int]], processes: int) -> list[list[int]]:
    """Halve the batches with the most utterances until each process has as many; single utterances are repeated."""
    while len(batches) % processes:
        fullest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[fullest]
        half = len(batch) // 2
        if half:
            batches[fullest : fullest + 1] = [batch[:half], batch[half:]]
        else:
            batches.append(batches[-1])
    return batches


def _shuffle(batches: list[list[int]], together: int, rng: np.random.Generator) -> list[list[int]]:
    groups = rng.permutation(len(batches) // together) * together
    return [batch for first in groups for batch in batches[first : first + together]]


def rounds(plan: Callable[[int], list[list[int]]], processes: Processes, place: Place) -> Iterator[Turn]:
    """The endless turns of one process from `place` on.

    All processes go through the same sequence of micro-batches, epoch after epoch, and take every size-th of them:
    none of them can run out of work before the others do.

    Raises:
        UserError: an epoch without a batch.
    """
    epoch, position = place
    batches = plan(epoch)
    while True:
        for rank in range(processes.size):
            if position == len(batches):
                epoch, position = epoch + 1, 0
                batches = plan(epoch)
            if not batches:
                raise UserError("an epoch without a single batch: are all source weights 0?")
            if rank == processes.rank:
                own = (epoch, batches[position])
            position += 1
        yield own, (epoch, position)


class Reader(Dataset):
    """Reads the micro-batches of turns: cached states as they are, audio through the encoder's front end.

    Args:
        examples: what the indices mean.
        encoder: whose front end audio needs; None where all is cached.
        augmenter: changes audio; None leaves it as it is.
    """

    def __init__(
        self, examples: list[Example], encoder: SpeechEncoder | None = None, augmenter: Augmenter | None = None
    ) -> None:
        # A reader may be another process, which cannot touch what lies on a GPU.
        if encoder and any(parameter.is_cuda for parameter in encoder.parameters()):
            encoder = copy.deepcopy(encoder).cpu()
        self.examples, self.encoder, self.augmenter = examples, encoder, augmenter

    def __getitem__(self, turn: Turn) -> tuple[Batch, Place]:
        """The micro-batch of a turn, and the place after it."""
        (epoch, indices), place = turn
        return self.read([self.examples[i] for i in indices], epoch), place

    def read(self, examples: list[Example], epoch: int | None = None) -> Batch:
        """Read a few examples; what cannot be read is named in `lost`. Without an epoch nothing is augmented."""
        found: list[tuple[Example, Tensor, int]] = []
        lost: dict[str, str] = {}
        for example in examples:
            try:
                found.append((example, *self._load(example, epoch)))
            except DamagedError as error:
                lost[example.utt] = str(error)
        void = not found
        if void:
            found = [self._any()]
        chosen, arrays, samples = map(list, zip(*found, strict=True))
        return Batch(
            utts=[example.utt for example in chosen],
            states=None if self.encoder else torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True),
            lengths=None if self.encoder else torch.tensor([len(one) for one in arrays]),
            tasks=[example.task for example in chosen],
            answers=[example.answer for example in chosen],
            targets=[example.classes for example in chosen],
            features=arrays if self.encoder else [],
            samples=samples if self.encoder else [],
            lost=lost,
            void=void,
        )

    def _load(self, example: Example, epoch: int | None) -> tuple[Tensor, int]:
        array = example.shards[example.utt]
        if self.encoder is None:
            return torch.from_numpy(array.astype(np.float32)), 0
        if self.augmenter is None or epoch is None:
            return self.encoder.features(array), len(array)
        rng = self.augmenter.generator(example.utt, epoch)
        samples = self.augmenter.samples(array, rng)
        features = self.encoder.features(samples)
        return self.augmenter.features(features, self.encoder.speech_frames(len(samples), features), rng), len(samples)

    def _any(self) -> tuple[Example, Tensor, int]:
        """Some example that can be read: a process that has nothing to compute would keep the others waiting."""
        for example in self.examples:
            try:
                return (example, *self._load(example, None))
            except DamagedError:
                continue
        raise UserError("not one utterance of the training data can be read: rerun stage 3.")


def with_states(batch: Batch, encoder: SpeechEncoder | None, device: torch.device) -> Batch:
    """The batch on the device; where its states are not cached, the encoder, which lies there, computes them."""
    if batch.states is None:
        with torch.no_grad():
            states = encoder.encode_features([one.to(device) for one in batch.features], batch.samples)
        batch.states = torch.nn.utils.rnn.pad_sequence([one.float() for one in states], batch_first=True)
        batch.lengths = torch.tensor([len(one) for one in states])
    batch.states, batch.lengths = batch.states.to(device), batch.lengths.to(device)
    return batch


def stream(
    reader: Dataset, plan: Callable[[int], list[list[int]]], processes: Processes, place: Place, workers: int
) -> Iterator[tuple[Batch, Place]]:
    """This process's micro-batches from `place` on, and the place after each; `workers` processes read ahead."""
    loader = DataLoader(
        reader,
        sampler=rounds(plan, processes, place),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        collate_fn=tuple,  # as they are: torch's own makes lists of tuples
        # Its own, or the loader would draw from the random numbers of the training.
        generator=torch.Generator(),
    )
    return iter(loader)
