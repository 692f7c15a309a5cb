"""The joint loss against its parts by hand, and the directory that a model lives in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import Batch
from mooer_tk.u2pp.config import LossConfig, ModelConfig, MoEConfig, U2ppConfig
from mooer_tk.u2pp.model import U2pp, is_u2pp, load_model, loss_weights

UNITS = 12
SMALL = ModelConfig(dim=32, heads=4, layers=2, ffn=48, kernel=5, decoder_layers=1, right_layers=1, decoder_ffn=48)


def make(**changes: object) -> U2pp:
    torch.manual_seed(6)
    return U2pp(ModelConfig(**{**vars(SMALL), "dropout": 0.0, **changes}), UNITS)


def batch(answers: list[list[int]]) -> Batch:
    torch.manual_seed(8)
    lengths = torch.tensor([160, 120, 60][: len(answers)])
    return Batch(["a", "b", "c"][: len(answers)], torch.randn(len(answers), 160, 80), lengths, [], answers, [])


def test_each_loss_is_what_its_formula_says() -> None:
    model, some = make().eval(), batch([[3, 4, 5], [6, 6]])
    losses = model(some)
    states, lengths, heard = model.encoder(some.states, some.lengths)
    ctc = 0.0
    for row, length, answer in zip(model.log_probs(states), lengths, some.answers, strict=True):
        ctc += torch.nn.functional.ctc_loss(
            row[:length, None], torch.tensor([answer]), length[None], torch.tensor([len(answer)]), reduction="sum"
        ).item()
    assert losses["ctc"][0].item() == pytest.approx(ctc, rel=1e-5)
    assert losses["ctc"][1] == 5
    for name, side, turn in (("l2r", model.left, 1), ("r2l", model.right, -1)):
        total = 0.0
        for i, answer in enumerate(some.answers):
            given = [model.ends, *answer[::turn]]
            logits, _ = side(torch.tensor([given]), torch.tensor([len(given)]), states[i : i + 1], heard[i : i + 1])
            # WeNet: mass 0.9 on the token, the rest shared by all others; the constant of the KL form left out.
            for token, one in zip([*answer[::turn], model.ends], logits[0].log_softmax(-1), strict=True):
                target = torch.full((UNITS,), 0.1 / (UNITS - 1))
                target[token] = 0.9
                total -= (target * one).sum().item()
        assert losses[name][0].item() == pytest.approx(total, rel=1e-5)
        assert losses[name][1] == 7


def test_the_weights_of_the_losses() -> None:
    config = U2ppConfig(model=ModelConfig(moe=MoEConfig(8, 2, balance=0.01, z_loss=0.001)))
    assert loss_weights(config) == pytest.approx({"ctc": 0.3, "l2r": 0.49, "r2l": 0.21, "balance": 0.01, "z": 0.001})
    assert sum(list(loss_weights(U2ppConfig(loss=LossConfig(0.5, 0.0))).values())[:3]) == 1.0


def test_the_loss_of_a_batch_is_that_of_its_utterances() -> None:
    model, some = make().eval(), batch([[3, 4, 5], [6, 6], [7]])
    together = {name: total.item() for name, (total, _) in model(some).items()}
    alone = dict.fromkeys(together, 0.0)
    for i, answer in enumerate(some.answers):
        length = some.lengths[i]
        one = Batch(["x"], some.states[i : i + 1, :length], length[None], [], [answer], [])
        alone = {name: alone[name] + total.item() for name, (total, _) in model(one).items()}
    assert together == pytest.approx(alone, rel=1e-4)


def test_ctc_alone_for_a_while() -> None:
    model, some = make().train(), batch([[3, 4, 5]])
    model.ctc_only = True
    assert list(model(some)) == ["ctc"]
    assert list(model.eval()(some)) == ["ctc", "l2r", "r2l"]


def test_a_model_without_the_right_decoder() -> None:
    assert list(make(right_layers=0)(batch([[3]]))) == ["ctc", "l2r"]


def test_a_model_comes_back_from_its_directory(saved_model: Callable[..., Path]) -> None:
    folder = saved_model(experts=4)
    model, config, units = load_model(folder)
    assert is_u2pp(folder)
    assert config.model.moe.experts == 4
    assert config.model.units == str(folder / "units.txt")
    assert model.ends == units.ends
    assert not model.training


def test_a_directory_that_is_none_and_weights_that_do_not_fit(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    assert not is_u2pp(tmp_path)
    with pytest.raises(UserError, match="no U2\\+\\+ model"):
        load_model(tmp_path / "nowhere")
    folder = saved_model()
    config = folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("ffn: 48", "ffn: 64"), encoding="utf-8")
    with pytest.raises(UserError, match=r"macaron\.linear1\.weight is \(48, 32\), expected \(64, 32\)"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot read the weights"):
        load_model(folder)
