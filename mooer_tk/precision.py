"""In which precision matrix products are computed: weights, sums, norms and losses stay float32."""

from contextlib import AbstractContextManager

import torch

from mooer_tk.errors import UserError, nearest

PRECISIONS = ("auto", "float32", "bfloat16")


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager:
    """The context for a setting of `PRECISIONS`.

    auto means bfloat16 where the hardware multiplies it natively and float32 elsewhere: emulated, it is slower.

    Raises:
        UserError: an unknown setting.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}' is unknown: {nearest(precision, PRECISIONS)}")
    wanted = precision == "bfloat16" or (precision == "auto" and has_native_bfloat16(device))
    return torch.autocast(device, torch.bfloat16, enabled=wanted)


def has_native_bfloat16(device: str = "cpu") -> bool:
    """True for GPUs from Ampere on, and for CPUs with AVX512-BF16 or AMX."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older versions of torch do not tell.
    able = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
