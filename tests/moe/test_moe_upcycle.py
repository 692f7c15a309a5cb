"""UME: what grows out of a dense model starts with its output; what is frozen stays, and experts grow apart."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import Batch
from mooer_tk.moe.layer import mixtures
from mooer_tk.moe.upcycle import upcycle
from mooer_tk.u2pp.config import ModelConfig, MoEConfig
from mooer_tk.u2pp.model import U2pp

SMALL = ModelConfig(
    dim=32, heads=4, layers=3, ffn=48, kernel=5, decoder_layers=2, right_layers=1, decoder_ffn=48, dropout=0.1
)
UNITS = 20


def pair(experts: int = 4, top_k: int = 2, seed: int = 0) -> tuple[U2pp, U2pp]:
    """A dense model that is not at its start, and what grows out of it."""
    torch.manual_seed(5)
    dense = U2pp(SMALL, UNITS)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    grown = U2pp(dataclasses.replace(SMALL, moe=MoEConfig(experts, top_k)), UNITS)
    upcycle(dense.state_dict(), grown, seed=seed)
    return dense.eval(), grown.eval()


def batch() -> Batch:
    torch.manual_seed(2)
    lengths = torch.tensor([120, 90, 50])
    answers = [[3, 4, 5, 6], [7, 7], [8, 9, 10]]
    return Batch(["a", "b", "c"], torch.randn(3, 120, 80), lengths, [], answers, [])


@pytest.mark.parametrize(("experts", "top_k", "seed"), [(8, 2, 0), (8, 2, 7), (4, 1, 0), (3, 3, 1)])
def test_the_grown_model_gives_what_the_dense_one_gave(experts: int, top_k: int, seed: int) -> None:
    dense, grown = pair(experts, top_k, seed)
    some = batch()
    for chunk in (-1, 4):
        found = [model.encoder(some.states, some.lengths, chunk) for model in (dense, grown)]
        inside = found[0][2]
        torch.testing.assert_close(found[1][0][inside], found[0][0][inside], atol=1e-6, rtol=1e-6)
    inputs, targets, lengths = dense.teach(some.answers, some.states.device)
    states, _, heard = found[0]
    for name in ("left", "right"):
        logits = [getattr(model, name)(inputs, lengths, states, heard)[0][targets >= 0] for model in (dense, grown)]
        torch.testing.assert_close(logits[1], logits[0], atol=1e-6, rtol=1e-6)
    losses = grown(some)
    for name, (loss, count) in dense(some).items():
        assert losses[name][0].item() == pytest.approx(loss.item(), rel=1e-6)
        assert losses[name][1] == count


def test_at_the_start_the_task_tells_the_routers_nothing() -> None:
    """So something else must break the symmetry: the balance loss has a gradient."""
    _, grown = pair()
    for part in grown.train().modules():
        # Its masks differ from expert to expert.
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    losses = grown(batch())
    routers = [moe.router.weight for moe in mixtures(grown).values()]
    task = sum(losses[name][0] for name in ("ctc", "l2r", "r2l"))
    for gradient in torch.autograd.grad(task, routers, retain_graph=True):
        assert gradient.abs().max() < 1e-6 * task.item()
    balance = torch.autograd.grad(losses["balance"][0], routers)
    assert all(gradient.abs().max() > 1e-4 for gradient in balance)


def test_only_experts_and_routers_learn_and_they_grow_apart() -> None:
    _, grown = pair()
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    grown.freeze_dense().train()
    weights = {"ctc": 1.0, "l2r": 1.0, "r2l": 1.0, "balance": 0.01, "z": 0.0}
    optimizer = torch.optim.AdamW([p for p in grown.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        loss = sum(weights[name] * total / count for name, (total, count) in grown(batch()).items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = {name for name, p in grown.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(".experts." in name or ".router." in name for name in moved)
    for moe in mixtures(grown).values():
        one, other = (expert.linear1.weight for expert in moe.experts[:2])
        assert not torch.equal(one, other)


def test_what_is_frozen_stays_in_eval_mode() -> None:
    _, grown = pair()
    assert all(part.training for part in grown.train().modules())
    grown.eval().freeze_dense().train()
    inside = {id(part) for moe in mixtures(grown).values() for part in moe.modules()}
    for part in list(grown.modules())[1:]:
        assert part.training == (id(part) in inside)
    assert not any(part.training for part in grown.eval().modules())


def test_what_cannot_grow_is_refused() -> None:
    dense, grown = pair()
    with pytest.raises(UserError, match="no experts"):
        upcycle(dense.state_dict(), U2pp(SMALL, UNITS))
    weights = {name: value for name, value in dense.state_dict().items() if name != "encoder.layers.0.ffn.linear1.bias"}
    with pytest.raises(UserError, match=r"missing encoder\.layers\.0\.ffn\.experts\.0\.linear1\.bias"):
        upcycle(weights, grown)
    with pytest.raises(UserError, match="expected"):
        upcycle(dense.state_dict(), U2pp(dataclasses.replace(SMALL, ffn=64, moe=MoEConfig(4)), UNITS))
