"""Mixtures of experts: the grouped dispatch against a loop over frames, padding, losses, noise, active parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mooer_tk.moe.layer import FeedForward, MoE, active, mixtures


def make(experts: int = 5, top_k: int = 2, noise: float = 0.0) -> MoE:
    torch.manual_seed(1)
    return MoE(8, 16, 0.0, nn.SiLU(), experts=experts, top_k=top_k, noise=noise)


def by_loop(moe: MoE, frame: torch.Tensor) -> torch.Tensor:
    """One frame through its experts, as the paper writes it."""
    logits = moe.router.weight @ frame
    kept, chosen = logits.topk(moe.top_k)
    weights = kept.exp() / kept.exp().sum()
    return sum(w * moe.experts[i](frame) for w, i in zip(weights, chosen.tolist(), strict=True))


@pytest.mark.parametrize(("experts", "top_k"), [(5, 2), (4, 1), (3, 3)])
def test_the_grouped_dispatch_is_a_loop_over_frames(experts: int, top_k: int) -> None:
    moe = make(experts, top_k).eval()
    x = torch.randn(3, 7, 8)
    expected = torch.stack([torch.stack([by_loop(moe, frame) for frame in row]) for row in x])
    torch.testing.assert_close(moe(x), expected, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_the_loop() -> None:
    moe, x = make(), torch.randn(2, 5, 8, requires_grad=True)
    moe(x).square().sum().backward()
    found = [p.grad.clone() for p in moe.parameters()] + [x.grad.clone()]
    moe.zero_grad()
    x.grad = None
    torch.stack([by_loop(moe, frame) for frame in x.flatten(0, 1)]).square().sum().backward()
    for one, other in zip(found, [p.grad for p in moe.parameters()] + [x.grad], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_padding_goes_to_no_expert() -> None:
    moe = make().eval()
    x, inside = torch.randn(2, 6, 8), torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    clean = moe(x, inside)
    assert moe.load.sum() == 8 * moe.top_k
    assert torch.equal(clean[~inside], torch.zeros(4, 8))
    # Whatever stands there changes nothing, not even what is no number.
    x[~inside] = torch.nan
    assert torch.equal(moe(x, inside), clean)


def test_a_batch_of_nothing_but_padding() -> None:
    moe = make()
    x = torch.randn(1, 3, 8, requires_grad=True)
    out = moe(x, torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(out, torch.zeros(1, 3, 8))
    assert all(torch.isfinite(one) for one in moe.losses.values())


def test_the_balance_loss_is_one_for_an_even_router_and_grows_with_its_bias() -> None:
    moe = make(experts=4, top_k=1)
    frames = torch.eye(8)[:4].repeat(3, 1)[None]
    with torch.no_grad():
        # Frame i goes to expert i, and every expert has the same mean probability.
        moe.router.weight.copy_(50 * torch.eye(8)[:4])
    moe(frames)
    assert moe.losses["balance"].item() == pytest.approx(1.0, abs=1e-4)
    with torch.no_grad():
        moe.router.weight.zero_()[0] = 50.0
    moe(frames)
    assert moe.losses["balance"].item() == pytest.approx(4.0, abs=1e-4)


def test_the_z_loss_is_the_squared_log_sum_of_the_logits() -> None:
    moe, x = make(), torch.randn(2, 5, 8)
    moe(x)
    expected = (x.flatten(0, 1) @ moe.router.weight.T).exp().sum(-1).log().square().mean()
    torch.testing.assert_close(moe.losses["z"], expected)


def test_noise_is_for_training_alone() -> None:
    moe, x = make(noise=5.0), torch.randn(1, 50, 8)
    assert not torch.equal(moe.train().route(x[0])[0], moe.route(x[0])[0])
    moe.eval()
    assert torch.equal(moe.route(x[0])[0], moe.route(x[0])[0])


def test_weights_are_float32_and_sum_to_one_under_autocast() -> None:
    moe = make()
    with torch.autocast("cpu", torch.bfloat16):
        chosen, weights = moe.route(torch.randn(9, 8))
        out = moe(torch.randn(1, 9, 8))
    assert weights.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(weights.sum(-1), torch.ones(9))
    assert all(len(set(row)) == moe.top_k for row in chosen.tolist())


def test_active_parameters_are_those_of_the_chosen_experts() -> None:
    dense = FeedForward(8, 16, 0.0, nn.SiLU())
    size = sum(p.numel() for p in dense.parameters())
    model = nn.Sequential(make(experts=5, top_k=2), dense)
    assert list(mixtures(model)) == ["0"]
    assert active(model) == 3 * size + 5 * 8
