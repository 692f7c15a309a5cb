"""The loop on small objectives: whole-batch normalisation, epochs, schedule, and failures that are not swallowed."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

from mooer_tk.config import DecodeConfig, OptimConfig, TrainConfig
from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import Batch, Fill
from mooer_tk.train.checkpoints import list_checkpoints
from mooer_tk.train.examples import Example
from mooer_tk.train.loop import Trainer
from mooer_tk.train.objectives import Instruct
from mooer_tk.train.schedule import learning_rate

OPTIM = OptimConfig(lr=0.1, warmup_steps=1, clip=1e6)
CONFIG = TrainConfig(steps=4, log_every=1, eval_every=100, optim=OPTIM)


class ToyModule(torch.nn.Linear):
    """The square of one number times another, summed; `poison` changes the values of an utterance."""

    poison: dict = {}

    def forward(self, batch):
        values = super().forward(batch.states).square()
        for utt, fate in self.poison.items():
            if utt in batch.utts:
                values = fate(values)
        return {"ce": (values.sum(), len(batch.utts))}


class Toy:
    """Learns one number from four utterances; `plan` is what the test wants it to be, `unreadable` is lost."""

    weights = {"ce": 1.0}

    def __init__(self, batches, poison=None, bias=False, unreadable=()):
        self.unreadable = unreadable
        self.module = ToyModule(1, 1, bias=bias)
        torch.nn.init.ones_(self.module.weight)
        self.module.poison = poison or {}
        self.batches, self.seen, self.reader = batches, [], self

    def groups(self):
        return [{"params": list(self.module.parameters()), "lr_scale": 1.0}]

    def plan(self, epoch, processes):
        return self.batches

    def heaviest_first(self, plan):
        return sorted(plan, key=len, reverse=True)

    def __getitem__(self, turn):
        (_, indices), place = turn
        self.seen.append(indices)
        lost = {f"utt{i}": "damaged" for i in indices if i in self.unreadable}
        indices = [i for i in indices if i not in self.unreadable]
        states = torch.tensor([[float(i + 1)] for i in indices])
        utts = [f"utt{i}" for i in indices]
        return Batch(utts, states, torch.ones(len(indices)), [], [[0]] * len(indices), [], lost=lost), place

    def ready(self, batch, device):
        return batch

    def counts(self, batch):
        return {"ce": len(batch.utts)}

    def work(self, batch):
        return Fill(len(batch.utts), 0, 4), 1e9 * len(batch.utts)

    def evaluate(self, processes, in_step):
        return {"loss": self.module.weight.item(), "criterion": self.module.weight.item()}


def lines(folder, kind="train"):
    found = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def with_sgd(trainer):
    """A linear optimizer, under which equal updates mean equal gradients; AdamW would hide a wrong scale."""
    trainer.engine.optimizer = torch.optim.SGD(trainer.objective.groups(), lr=0.1)
    return trainer


def test_micro_batches_of_any_sizes_give_the_update_of_the_whole_batch(tmp_path):
    weights, logs = [], []
    for name, batches in {"whole": [[0, 1, 2, 3]], "halves": [[0, 1], [2, 3]], "uneven": [[3], [0, 1, 2]]}.items():
        toy = Toy(batches)
        config = replace(CONFIG, steps=3, accumulate=len(batches), optim=replace(OPTIM, lr=0.01))
        with_sgd(Trainer(toy, config, tmp_path / name)).run()
        weights.append(toy.module.weight.item())
        logs.append([line["loss"] for line in lines(tmp_path / name)])
    assert weights[0] < 1
    assert weights[1:] == pytest.approx(weights[:1] * 2, rel=1e-6)
    assert logs[0] == logs[1] == logs[2] and logs[0][0] == pytest.approx((1 + 4 + 9 + 16) / 4)


def instruct(model, frames, plan, config):
    """The real objective over random states, with batches of the test's choice."""
    generator = torch.Generator().manual_seed(4)
    states = {str(i): torch.randn(n, 8, generator=generator).numpy() for i, n in enumerate(frames)}
    words = ["yes", "a much longer answer than the others have", "no no", "please hold"]
    examples = [
        Example(utt, "asr", states, model.prompt.answer([words[i]], model.tokenizer), [300 + i, 310], len(one), 1.0)
        for i, (utt, one) in enumerate(states.items())
    ]
    objective = Instruct(model, examples, [], config, DecodeConfig())
    objective.plan = lambda epoch, processes: plan
    objective.evaluate = lambda processes, in_step: {"criterion": 0.0}
    return objective


def test_two_micro_batches_of_the_speech_llm_give_the_update_of_one(tmp_path, make_model):
    updates = []
    for plan in ([[0, 1, 2, 3]], [[0, 3], [1, 2]], [[1], [0, 2, 3]]):
        model = make_model("posterior")
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        config = replace(CONFIG, steps=2, accumulate=len(plan), ctc_weight=0.5, precision="float32")
        folder = tmp_path / str(len(updates))
        with_sgd(Trainer(instruct(model, [30, 8, 21, 14], plan, config), config, folder)).run()
        updates.append({name: p.detach() - start[name] for name, p in model.named_parameters() if name in start})
        assert {"loss_ce", "loss_ctc"} <= lines(folder)[0].keys()
    for other in updates[1:]:
        for name, update in updates[0].items():
            torch.testing.assert_close(other[name], update, rtol=1e-3, atol=1e-6)
    assert sum(update.abs().sum() for update in updates[0].values()) > 0.1


def test_each_epoch_sees_every_batch_once_and_the_run_ends_at_its_last_step(tmp_path):
    toy = Toy([[0], [1, 2], [3]])
    Trainer(toy, replace(CONFIG, steps=8), tmp_path).run()
    assert toy.seen == [[0], [1, 2], [3], [0], [1, 2], [3], [0], [1, 2]]
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))


def test_accumulation_crosses_the_end_of_an_epoch_without_losing_a_batch(tmp_path):
    toy = Toy([[0], [1], [2]])
    Trainer(toy, replace(CONFIG, steps=3, accumulate=2), tmp_path).run()
    assert toy.seen == [[0], [1], [2], [0], [1], [2]]


def test_dev_scores_and_checkpoints_come_at_their_steps_and_at_the_last_but_not_at_zero(tmp_path):
    toy = Toy([[0]])
    scores = Trainer(toy, replace(CONFIG, steps=7, eval_every=3, keep=9), tmp_path).run()
    assert [line["step"] for line in lines(tmp_path, "dev")] == [3, 6, 7]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000003", "step-000006", "step-000007"]
    assert scores["loss"] == pytest.approx(toy.module.weight.item(), abs=1e-3)


def test_evaluation_leaves_the_random_numbers_of_training_alone(tmp_path):
    drawn = {}
    for every in (1, 100):
        toy = Toy([[0]])
        drawn[every] = numbers = []
        toy.work = lambda batch, numbers=numbers: numbers.append(torch.rand(()).item()) or (Fill(1, 0, 1), 1.0)
        toy.evaluate = lambda processes, in_step: {"criterion": torch.rand(()).item()}
        Trainer(toy, replace(CONFIG, eval_every=every), tmp_path / str(every)).run()
    assert drawn[1] == drawn[100] and len(set(drawn[1])) == 4


def test_the_schedule_warms_up_and_ends_at_its_share():
    config = OptimConfig(lr=1e-3, warmup_steps=10, min_lr_share=0.1)
    rates = [learning_rate(step, config, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4) and rates[4] == pytest.approx(5e-4) and max(rates) == rates[9] == 1e-3
    assert all(one > other for one, other in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(1e-4)
    assert learning_rate(1, replace(config, warmup_steps=0), 1) > 0


def test_the_scale_of_a_group_multiplies_the_schedule(tmp_path):
    toy = Toy([[0]])
    toy.groups = lambda: [{"params": list(toy.module.parameters()), "lr_scale": 0.25}]
    trainer = Trainer(toy, CONFIG, tmp_path)
    trainer.run()
    assert trainer.engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * learning_rate(4, OPTIM, 4))


def test_a_huge_gradient_is_clipped(tmp_path):
    toy = Toy([[1000]])
    with_sgd(Trainer(toy, replace(CONFIG, steps=1, optim=replace(OPTIM, clip=0.5)), tmp_path)).run()
    assert toy.module.weight.item() == pytest.approx(1 - 0.1 * 0.5)
    assert lines(tmp_path)[0]["grad_norm"] > 1e5


@pytest.mark.parametrize("fate", [lambda v: v * math.nan, lambda v: v * math.inf, lambda v: (v - v.detach()).sqrt()])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_utterances_names(tmp_path, fate):
    # The third makes a finite loss of an infinite gradient.
    toy = Toy([[0], [1], [2, 3]], poison={"utt3": fate})
    with pytest.raises(UserError, match=r"step 3: .*not finite, on utt2, utt3"):
        Trainer(toy, replace(CONFIG, eval_every=1), tmp_path).run()
    assert math.isfinite(toy.module.weight.item())
    assert [line["step"] for line in lines(tmp_path, "dev")] == [1, 2]


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_no_failure_is_taken_for_the_end_of_an_epoch(tmp_path, error):
    def fail(_):
        raise error("something else")

    toy = Toy([[0], [1], [2]], poison={"utt2": fail})
    with pytest.raises(error, match="something else") as raised:
        Trainer(toy, CONFIG, tmp_path).run()
    assert len(lines(tmp_path)) == 2
    assert raised.value.__cause__ is None


def test_too_little_memory_names_the_batch_and_the_settings(tmp_path):
    # A real failure of the allocator: four exabytes.
    toy = Toy([[0], [1, 2]], poison={"utt2": lambda values: values + torch.empty(2**60).sum()})
    with pytest.raises(UserError, match=r"step 2: out of memory on 2 utterances .*utt1, utt2.*data\.batch_positions"):
        Trainer(toy, CONFIG, tmp_path).run()


def test_what_cannot_be_read_is_named_once_however_often_it_is_met(tmp_path, capsys):
    toy = Toy([[0, 1], [2, 3]], unreadable=(1,))
    (tmp_path / "lost.tsv").write_text("utt9\tof an earlier run\n")
    for steps in (4, 6):
        Trainer(toy, replace(CONFIG, steps=steps), tmp_path, max_lost=1).run()
    assert toy.seen.count([0, 1]) == 3
    assert (tmp_path / "lost.tsv").read_text() == "utt1\tdamaged\n"
    assert capsys.readouterr().err.count("cannot be read") == 1


def test_more_lost_utterances_than_allowed_stop_the_run(tmp_path):
    with pytest.raises(UserError, match=r"2 utterances .* cannot be read .*lost\.tsv.*, 1 may be lost.*--max-skip"):
        Trainer(Toy([[0, 1], [2, 3]], unreadable=(1, 2)), CONFIG, tmp_path, max_lost=1).run()
    assert [line["step"] for line in lines(tmp_path)] == [1]
    assert (tmp_path / "lost.tsv").read_text() == "utt1\tdamaged\nutt2\tdamaged\n"


@pytest.mark.parametrize("bad", [1, 2])
def test_so_many_bad_steps_are_passed_over_as_configured_and_named(tmp_path, bad):
    fates = {f"utt{i}": lambda v: v * math.nan for i in range(bad)}
    toy = Toy([[0], [1], [2], [3]], poison=fates)
    trainer = Trainer(toy, replace(CONFIG, max_bad_steps=1), tmp_path)
    if bad == 1:
        trainer.run()
        assert toy.module.weight.item() < 1
    else:
        with pytest.raises(UserError, match=r"step 2: .*not finite, on utt1"):
            trainer.run()
        assert toy.module.weight.item() == 1
    named = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [(one["step"], one["utts"]) for one in named] == [(i + 1, [f"utt{i}"]) for i in range(bad)]


def test_it_stops_early_once_the_dev_scores_no_longer_fall_and_again_when_it_is_called_again(tmp_path):
    falling = iter([5.0, 3.0, 4.0, 3.5, 1.0, 1.0, 1.0])
    toy = Toy([[0]])
    toy.evaluate = lambda processes, in_step: {"criterion": next(falling)}
    config = replace(CONFIG, steps=50, eval_every=2, patience=2)
    assert Trainer(toy, config, tmp_path).run() == {"criterion": 3.5}
    assert [line["step"] for line in lines(tmp_path, "dev")] == [2, 4, 6, 8]
    assert Trainer(toy, config, tmp_path).run() == {"criterion": 3.5}
    assert len(lines(tmp_path)) == 8


def test_checkpoints_between_the_evaluations_are_gone_on_from(tmp_path):
    whole, parts = Toy([[0], [1], [2]]), Toy([[0], [1], [2]])
    config = replace(CONFIG, steps=9, save_every=2, eval_every=5, keep=1)
    Trainer(whole, config, tmp_path / "whole").run()
    broken = Toy([[0], [1], [2]])
    broken.counts = lambda batch: {"ce": 1} if len(broken.seen) < 8 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        Trainer(broken, config, tmp_path / "parts").run()
    assert [state["step"] for _, state in list_checkpoints(tmp_path / "parts" / "checkpoints")] == [5, 6]
    Trainer(parts, config, tmp_path / "parts").run()
    assert parts.seen == [[0], [1], [2]] and torch.equal(parts.module.weight, whole.module.weight)


def test_the_log_tells_speed_padding_memory_and_time_left_and_tensorboard_has_it_too(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(Toy([[0, 1, 2], [3]]), replace(CONFIG, log_every=2), tmp_path).run()
    line = lines(tmp_path)[0]
    assert line["padding"] == 0.5 and line["tokens_per_s"] > 0 and line["mfu"] > 0 and line["memory_gib"] > 0.05
    assert line["left"] == "0:00"
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
    assert {"dev/criterion", "train/lr", "train/padding"} <= set(events.Tags()["scalars"])


def test_a_constant_rate_falls_at_the_end():
    config = OptimConfig(lr=1e-3, schedule="constant", warmup_steps=10, decay_from=0.8, min_lr_share=0.1)
    rates = [learning_rate(step, config, 100) for step in range(1, 101)]
    assert rates[4] == pytest.approx(5e-4) and set(rates[9:80]) == {1e-3}
    assert all(one > other for one, other in itertools.pairwise(rates[79:])) and rates[-1] == pytest.approx(1e-4)


def test_an_epoch_without_a_batch_is_a_user_error_not_an_endless_loop(tmp_path):
    with pytest.raises(UserError, match="without a single batch"):
        Trainer(Toy([]), CONFIG, tmp_path).run()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    Trainer(Toy([[0]]), replace(CONFIG, eval_every=2), tmp_path).run()
    other = Toy([[0]], bias=True)
    with pytest.raises(UserError, match=r"step-000004 do not fit .*missing bias"):
        Trainer(other, replace(CONFIG, steps=9), tmp_path).run()


def test_warmup_decay_gives_the_rates_that_mooers_log_shows():
    """DeepSpeed's WarmupDecayLR as the original ran it: its log at global steps 500, 550 and 600."""
    config = OptimConfig(schedule="warmup_decay", lr=1e-4, warmup_steps=1000, decay_steps=1_000_000)
    for step, rate in ((500, 8.9966e-5), (550, 9.1345e-5), (600, 9.2605e-5), (1000, 1e-4)):
        assert learning_rate(step, config, 10) == pytest.approx(rate, rel=1e-4)
    assert learning_rate(500_500, config, 10) == pytest.approx(5e-5, rel=1e-3)
    assert learning_rate(1_000_000, config, 10) == 0.0
    assert learning_rate(2_000_000, config, 10) == 0.0
    with pytest.raises(UserError, match=r"'cosin'.*'cosine'"):
        learning_rate(1, OptimConfig(schedule="cosin"), 10)


def test_a_line_of_the_log_is_the_mean_over_its_steps(tmp_path):
    """Batches are of like lengths, so that one alone says little."""
    toy = Toy([[1], [2], [3], [4]])
    Trainer(toy, replace(CONFIG, log_every=4, optim=replace(OPTIM, lr=0.0)), tmp_path).run()
    alone = []
    for batch in toy.batches:
        one = Toy([batch])
        folder = tmp_path / str(batch[0])
        folder.mkdir()
        Trainer(one, replace(CONFIG, steps=1, optim=replace(OPTIM, lr=0.0)), folder).run()
        alone.append(lines(folder)[0]["loss"])
    assert len(set(alone)) > 1
    assert lines(tmp_path)[0]["loss"] == pytest.approx(sum(alone) / 4, rel=1e-3)
