"""Precision: auto follows the hardware, and bfloat16 products stay close to float32 ones."""

import pytest
import torch

from mooer_tk.errors import UserError
from mooer_tk.precision import autocast, has_native_bfloat16


@pytest.mark.parametrize(
    ("precision", "able", "dtype"),
    [
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_products_have_the_precision_that_was_asked_for(precision, able, dtype, monkeypatch):
    monkeypatch.setattr("mooer_tk.precision.has_native_bfloat16", lambda device: able)
    layer = torch.nn.Linear(3, 4)
    with autocast(precision):
        assert layer(torch.ones(2, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_is_asked_what_it_can_do(flag, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True}, raising=False)
    assert has_native_bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
    assert not has_native_bfloat16()
    # Versions of torch that cannot tell.
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_native_bfloat16()


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(UserError, match=r"'bfloat'.*'bfloat16'"):
        autocast("bfloat")
