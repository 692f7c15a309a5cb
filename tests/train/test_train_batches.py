"""Turns of processes, pools near each other on the disk, and readers that lose no more than what is damaged."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mooer_tk.config import DataConfig
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.errors import UserError
from mooer_tk.train.batches import Reader, plan_epoch, rounds, stream
from mooer_tk.train.examples import Example
from mooer_tk.train.processes import Processes

PLAN = {"stack": 5, "prompt": 30, "seed": 7}


@pytest.fixture
def many():
    """1,000 utterances in 20 shards, lengths spread as speech is."""
    lengths = np.clip(np.random.default_rng(1).lognormal(5.0, 0.7, 1000), 20, 1000).astype(int)
    entries = {str(i): SimpleNamespace(shard=f"shard-{i // 50}") for i in range(1000)}
    shards = SimpleNamespace(folder="x", entries=entries)
    return [Example(str(i), "asr", shards, [0] * (n // 30), [], int(n), 1.0) for i, n in enumerate(lengths)]


@pytest.fixture
def corpus(tmp_path, write_states):
    """Ten utterances in two shards, as examples."""
    rng = np.random.default_rng(0)
    arrays = {f"u{i}": rng.standard_normal((10 + i, 4)) for i in range(10)}
    items = list(arrays.items())
    write_states(tmp_path / "states", dict(items[:5]), dict(items[5:]))
    shards = ShardReader(tmp_path / "states")
    return [Example(utt, "asr", shards, [1, 2], [3], len(a), 1.0, classes=[1]) for utt, a in items]


def damage(examples, *utts):
    for utt in utts:
        entry = examples[0].shards.entries[utt]
        with (examples[0].shards.folder / entry.shard).open("r+b") as tar:
            tar.seek(entry.offset)
            tar.write(b"\xff" * 8)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_all_processes_together_see_each_pass_once_and_have_equally_many_turns(size):
    plans = [[[e, i] for i in range(n)] for e, n in enumerate((5, 2, 4, 1, 6, 30))]
    taken = [
        list(itertools.islice(rounds(plans.__getitem__, Processes(rank, size), (0, 0)), 36 // size))
        for rank in range(size)
    ]
    together = [batch for turn in zip(*taken, strict=True) for (_, batch), _ in turn]
    expected = [batch for plan in plans for batch in plan]
    assert together == expected[: len(together)]
    assert all(len({place for _, place in turn}) == 1 for turn in zip(*taken, strict=True))


def test_a_process_goes_on_from_any_place_as_if_it_had_never_stopped():
    plans = [[[e, i] for i in range(n)] for e, n in enumerate((5, 2, 4, 1, 60))]
    whole = list(itertools.islice(rounds(plans.__getitem__, Processes(1, 3), (0, 0)), 15))
    for stop in range(1, 14):
        place = whole[stop - 1][1]
        rest = list(itertools.islice(rounds(plans.__getitem__, Processes(1, 3), place), 15 - stop))
        assert rest == whole[stop:]


def test_batches_of_one_turn_are_of_like_size(many):
    def waiting(plan):
        """How much longer than the mean the longest of each four takes."""
        longest = [max(many[i].frames for i in batch) for batch in plan]
        turns = [longest[i : i + 4] for i in range(0, len(longest) // 4 * 4, 4)]
        return np.mean([max(turn) / np.mean(turn) - 1 for turn in turns])

    plan = plan_epoch(many, DataConfig(), **PLAN, epoch=0, processes=4)
    assert waiting(plan) < 0.1 < 0.5 < waiting(plan_epoch(many, DataConfig(), **PLAN, epoch=0))
    assert Counter(i for batch in plan for i in batch) == Counter(range(1000))


@pytest.mark.parametrize(("shuffle_utts", "most"), [(0, 0.1), (330, 0.2)])
def test_turns_stay_of_like_size_in_every_epoch_and_nothing_is_lost(many, shuffle_utts, most):
    """A pass that ends with a short turn would shift the turns of all later ones; small pools are coarser."""
    config, size = DataConfig(shuffle_utts=shuffle_utts, batch_utts=8), 4
    plans = [plan_epoch(many, config, **PLAN, epoch=epoch, processes=size) for epoch in range(3)]
    for plan in plans:
        assert Counter(i for batch in plan for i in batch) == Counter(range(1000))
    steps = sum(map(len, plans)) // size
    taken = [itertools.islice(rounds(plans.__getitem__, Processes(r, size), (0, 0)), steps) for r in range(size)]
    waits = {0: [], 1: [], 2: []}
    for turn in zip(*taken, strict=True):
        assert len({epoch for (epoch, _), _ in turn}) == 1
        longest = [max(many[i].frames for i in batch) for (_, batch), _ in turn]
        waits[turn[0][0][0]].append(max(longest) / np.mean(longest) - 1)
    assert max(np.mean(some) for some in waits.values()) < most


def test_single_utterances_are_repeated_where_there_are_fewer_than_processes(many):
    plan = plan_epoch(many[:3], DataConfig(), **PLAN, epoch=0, processes=8)
    assert len(plan) == 8 and {i for batch in plan for i in batch} == {0, 1, 2}


def test_near_shuffling_reads_a_few_shards_at_a_time_and_still_every_utterance_once(many):
    config = DataConfig(shuffle_utts=200, batch_utts=8)
    plan = plan_epoch(many, config, **PLAN, epoch=0)
    assert Counter(i for batch in plan for i in batch) == Counter(range(1000))
    order = [i for batch in plan for i in batch]
    for first in range(0, 1000, 200):
        assert len({i // 50 for i in order[first : first + 200]}) <= 5
    assert plan != plan_epoch(many, config, **PLAN, epoch=1)


def test_a_damaged_utterance_is_named_and_the_others_are_read(corpus):
    damage(corpus, "u3")
    batch = Reader(corpus).read(corpus[2:5], 0)
    assert batch.utts == ["u2", "u4"] and list(batch.lost) == ["u3"] and not batch.void
    assert "damaged at 'u3'" in batch.lost["u3"] and batch.lengths.tolist() == [12, 14]


def test_a_batch_that_is_lost_as_a_whole_keeps_its_process_busy_but_does_not_count(corpus):
    damage(corpus, "u0", "u3", "u4")
    batch = Reader(corpus).read(corpus[3:5], 0)
    assert batch.void and sorted(batch.lost) == ["u3", "u4"] and batch.utts == ["u1"]
    damage(corpus, *(f"u{i}" for i in range(10)))
    with pytest.raises(UserError, match="not one utterance"):
        Reader(corpus).read(corpus[3:5], 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_changes_nothing_and_leaves_the_random_numbers_alone(corpus, workers):
    plan = [[0, 1], [2], [3, 4, 5], [6, 7, 8, 9]]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = list(itertools.islice(stream(Reader(corpus), lambda _: plan, Processes(), (0, 1), workers), 6))
    assert [batch.utts for batch, _ in found] == [[f"u{i}" for i in b] for b in [*plan[1:], *plan[:3]]]
    assert [place for _, place in found] == [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3)]
    assert torch.equal(torch.get_rng_state(), state)
