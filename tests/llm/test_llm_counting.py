"""The paper's model, to the parameter, without a byte of its weights; and what memory it takes."""

from pathlib import Path

import pytest

from mooer_tk.config import load_config
from mooer_tk.errors import UserError
from mooer_tk.llm.counting import count, memory

PAPER = {"encoder": 157_975_648, "adapter": 9_442_816, "lora": 161_480_704, "llm": 7_615_616_512}
CONF = Path(__file__).resolve().parents[2] / "egs/mt5k/mooer/conf/mooer_7b.yaml"


@pytest.fixture(scope="module")
def config():
    return load_config(CONF)


@pytest.fixture(scope="module")
def shape(config):
    return count(config)


def test_the_paper_to_the_parameter(shape):
    assert {name: getattr(shape, name) for name in PAPER} == PAPER
    assert shape.trainable == 170_923_520


def test_the_command_prints_them(mooer, capsys):
    assert mooer("params", CONF, "--memory", "--batch", 8, "--zero", 2, "--gpus", 8) == 0
    printed = capsys.readouterr().out
    for number in PAPER.values():
        assert f"{number:,}" in printed
    assert "each GPU" in printed


def test_milliseconds_an_embedding_count(config, shape):
    slow = load_config(CONF, ["adapter.frame_ms=240"])
    again = count(slow)
    assert (shape.frame_ms, again.frame_ms) == (120.0, 240.0)
    assert again.adapter - shape.adapter == 2 * 512 * 2048  # Paraformer's states are 512 wide, two more a frame
    slow.adapter.frame_ms = 100
    with pytest.raises(UserError, match=r"no multiple of the 60 ms .*: choose 60, 120, 180"):
        count(slow)


def test_zero_shares_out_stage_by_stage_and_the_batch_costs(config, shape):
    def total(**changes):
        return sum(memory(config, shape, **{"batch": 8, "zero": 2, "gpus": 8, **changes}).values())

    by_stage = [total(zero=stage) for stage in range(4)]
    assert by_stage == sorted(by_stage, reverse=True) and len(set(by_stage)) == 4
    # Seven of eight parts of the optimizer's states: 12 bytes a trained parameter.
    assert by_stage[0] - by_stage[1] == pytest.approx(12 * shape.trainable * 7 / 8 / 2**30)
    # Frozen weights alone are shared from stage 3 on.
    assert by_stage[2] - by_stage[3] == pytest.approx(2 * (shape.llm + shape.lora) * 7 / 8 / 2**30)
    assert total(batch=16) > total() > total(seconds=5.0)
    # The original's own log: 43 GB at the peak with a batch of 8; 15.8 GB of them before the first step.
    assert 15 < total(seconds=1.0) < total(seconds=20.0) < 43


def test_checkpointing_saves_most_of_the_activations(config, shape):
    plain = memory(config, shape, batch=8, zero=2, gpus=8)["activations"]
    again = load_config(None, ["train.checkpointing=true"])
    again.encoder, again.adapter = config.encoder, config.adapter
    assert memory(again, shape, batch=8, zero=2, gpus=8)["activations"] < 0.3 * plain


def test_a_frozen_llm_and_an_unknown_one(config):
    frozen = load_config(None, ["llm.lora.rank=0"])
    frozen.encoder, frozen.adapter, frozen.llm.model = config.encoder, config.adapter, config.llm.model
    assert count(frozen).lora == 0
    frozen.llm.model = "nobody/nothing-7b"
    with pytest.raises(UserError, match="nobody/nothing-7b"):
        count(frozen)
