"""Checkpoints: whole or absent, the right ones kept, and their average is the arithmetic mean."""

import json
import os

import pytest
import torch

from mooer_tk.errors import UserError
from mooer_tk.train.checkpoints import average, best, list_checkpoints, load_optimizer, load_weights, save_checkpoint


def save(folder, step, criterion, weights=None, keep=2):
    weights = weights or {"w": torch.full((2,), float(step))}
    save_checkpoint(folder, {"step": step, "criterion": criterion}, weights, {"state": {}}, keep=keep)


def steps(found):
    return [state["step"] for _, state in found]


def test_the_best_and_the_newest_are_kept(tmp_path):
    for step, criterion in ((1, 9.0), (2, 5.0), (3, 7.0), (4, 6.0), (5, 8.0)):
        save(tmp_path, step, criterion)
    assert steps(list_checkpoints(tmp_path)) == [2, 4, 5]
    assert steps(best(list_checkpoints(tmp_path), 2)) == [2, 4]


def test_of_equal_ones_the_later_is_better(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, 5.0)
    assert steps(best(list_checkpoints(tmp_path), 1)) == [3]
    assert steps(list_checkpoints(tmp_path)) == [2, 3]


def test_a_checkpoint_gives_back_weights_optimizer_and_random_state(tmp_path):
    torch.manual_seed(5)
    weights = {"a": torch.randn(3, 4).T, "n": torch.tensor([3, 4])}
    state = torch.get_rng_state()
    save(tmp_path, 7, 1.0, weights)
    ((path, _),) = list_checkpoints(tmp_path)
    for name, tensor in load_weights(path).items():
        assert torch.equal(tensor, weights[name])
    saved = load_optimizer(path)
    assert saved["optimizer"] == {"state": {}} and torch.equal(saved["rng"], state)


def test_what_a_kill_left_half_written_does_not_count_and_is_removed(tmp_path):
    save(tmp_path, 1, 1.0)
    pid = 2**22 + 1  # above Linux's highest process id
    half = tmp_path / f".step-000002.{pid}.tmp"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert steps(list_checkpoints(tmp_path)) == [1]
    assert os.listdir(tmp_path) == ["step-000001"]


def test_an_error_while_writing_leaves_the_others(tmp_path):
    save(tmp_path, 1, 1.0)
    with pytest.raises(AttributeError):
        save(tmp_path, 2, 1.0, {"w": "no tensor"})
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


def test_nothing_to_average_and_different_models_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="run the training stage first"):
        average([])
    save(tmp_path, 1, 1.0, {"w": torch.ones(2)})
    save(tmp_path, 2, 1.0, {"w": torch.ones(3)})
    with pytest.raises(UserError, match="different models"):
        average([path for path, _ in list_checkpoints(tmp_path)])


def test_the_state_of_a_checkpoint_can_be_read_by_a_person(tmp_path):
    save(tmp_path, 3, 0.25)
    text = (tmp_path / "step-000003" / "state.json").read_text()
    assert json.loads(text) == {"step": 3, "criterion": 0.25} and text.count("\n") > 2
