"""Checkpoints: whole or absent, the right ones kept, and their average is the arithmetic mean."""

import json
import os

import pytest
import torch

from mooer_tk.config import TrainConfig
from mooer_tk.errors import UserError
from mooer_tk.train.checkpoints import average, best, list_checkpoints, restore, save_checkpoint
from mooer_tk.train.engine import TorchEngine
from mooer_tk.train.processes import Processes


def engine(weights):
    """An engine of plain torch over some tensors: those of whole numbers are buffers."""
    module = torch.nn.Module()
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            module.register_parameter(name, torch.nn.Parameter(tensor.clone(memory_format=torch.contiguous_format)))
        else:
            module.register_buffer(name, tensor.clone())
    return TorchEngine(module, [{"params": list(module.parameters()), "lr_scale": 1.0}], TrainConfig(), Processes())


def save(folder, step, criterion, weights=None, **kept):
    state = {"step": step, **({} if criterion is None else {"criterion": criterion})}
    weights = weights or {"w": torch.full((2,), float(step))}
    save_checkpoint(folder, state, engine(weights), Processes(), **{"keep": 2, **kept})


def steps(found):
    return [state["step"] for _, state in found]


def test_the_best_and_the_newest_are_kept(tmp_path):
    for step, criterion in ((1, 9.0), (2, 5.0), (3, 7.0), (4, 6.0), (5, 8.0)):
        save(tmp_path, step, criterion)
    assert steps(list_checkpoints(tmp_path)) == [2, 4, 5]
    assert steps(best(list_checkpoints(tmp_path), 2)) == [2, 4]


def test_the_newest_ones_are_kept_too_and_those_without_dev_scores_are_no_ones_best(tmp_path):
    for step, criterion in ((1, 5.0), (2, None), (3, 6.0), (4, None), (5, None)):
        save(tmp_path, step, criterion, keep=1, keep_last=2)
    assert steps(list_checkpoints(tmp_path)) == [1, 4, 5]
    assert steps(best(list_checkpoints(tmp_path), 3)) == [1]


def test_of_equal_ones_the_later_is_better(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, 5.0)
    assert steps(best(list_checkpoints(tmp_path), 1)) == [3]
    assert steps(list_checkpoints(tmp_path)) == [2, 3]


def test_a_checkpoint_gives_back_weights_optimizer_and_random_state(tmp_path):
    torch.manual_seed(5)
    weights = {"a": torch.randn(3, 4).T, "n": torch.tensor([3, 4])}
    trained = engine(weights)
    trained.backward((trained.module.a**2).sum())
    trained.step(0.1)
    expected = torch.get_rng_state()
    save_checkpoint(tmp_path, {"step": 7, "criterion": 1.0}, trained, Processes(), keep=1)
    ((path, state),) = list_checkpoints(tmp_path)
    again = engine({"a": torch.zeros(4, 3), "n": torch.zeros(2, dtype=torch.long)})
    torch.manual_seed(9)
    restore(path, state, again, Processes())
    assert torch.equal(torch.get_rng_state(), expected)
    assert torch.equal(again.module.n, weights["n"]) and torch.equal(again.module.a, trained.module.a)
    for one in (trained, again):
        one.backward((one.module.a**2).sum())
        one.step(0.1)
    assert torch.equal(again.module.a, trained.module.a)


def test_another_number_of_processes_is_refused(tmp_path):
    save(tmp_path, 1, 1.0)
    ((path, state),) = list_checkpoints(tmp_path)
    with pytest.raises(UserError, match="of a run in 2 processes, this one has 1"):
        restore(path, {**state, "processes": 2}, engine({"w": torch.ones(2)}), Processes())


def test_what_a_kill_left_half_written_does_not_count_and_is_removed(tmp_path):
    save(tmp_path, 1, 1.0)
    pid = 2**22 + 1  # above Linux's highest process id
    half = tmp_path / f".step-000002.{pid}.tmp"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert steps(list_checkpoints(tmp_path)) == [1]
    assert os.listdir(tmp_path) == ["step-000001"]


def test_the_newest_is_the_newest_beyond_a_million_steps(tmp_path):
    for step in (999_000, 1_000_000):
        save(tmp_path, step, 1.0)
    assert steps(list_checkpoints(tmp_path)) == [999_000, 1_000_000]


def test_an_error_while_writing_leaves_the_others(tmp_path):
    save(tmp_path, 1, 1.0)
    broken = engine({"w": torch.ones(2)})
    broken.save = lambda folder: (folder / "optimizer.pt" / "x").write_text("no such folder")
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, {"step": 2, "criterion": 1.0}, broken, Processes(), keep=2)
    assert os.listdir(tmp_path) == ["step-000001"]


def test_the_average_is_the_arithmetic_mean_and_leaves_whole_numbers(tmp_path):
    torch.manual_seed(0)
    several = [{"w": torch.randn(3, 3), "n": torch.tensor([5, 7])} for _ in range(3)]
    for step, weights in enumerate(several):
        save(tmp_path, step, 1.0, weights, keep=9)
    mean = average([path for path, _ in list_checkpoints(tmp_path)])
    torch.testing.assert_close(mean["w"], torch.stack([one["w"] for one in several]).mean(0))
    assert mean["n"].tolist() == [5, 7] and mean["n"].dtype == torch.int64
    ((path, _), *_) = list_checkpoints(tmp_path)
    assert torch.equal(average([path])["w"], several[0]["w"])


def test_averaging_different_models_is_a_user_error(tmp_path):
    save(tmp_path, 1, 1.0, {"w": torch.ones(2)})
    save(tmp_path, 2, 1.0, {"w": torch.ones(3)})
    with pytest.raises(UserError, match="different models"):
        average([path for path, _ in list_checkpoints(tmp_path)])


def test_the_state_of_a_checkpoint_can_be_read_by_a_person(tmp_path):
    save(tmp_path, 3, 0.25)
    text = (tmp_path / "step-000003" / "state.json").read_text()
    assert json.loads(text) == {"step": 3, "criterion": 0.25, "processes": 1} and text.count("\n") > 2
