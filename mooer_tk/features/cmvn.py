"""Global mean and variance normalisation in Kaldi's nnet text form (`am.mvn`): x -> (x + shift) * scale."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mooer_tk.errors import UserError

_BLOCK = r"<{}>\s+(\d+)\s+(\d+)\s+<LearnRateCoef>\s+\S+\s+\[([^\]]*)\]"


@dataclass(frozen=True)
class CMVN:
    """`shift` and `scale`, (F,) each; applied to features (..., F)."""

    shift: Tensor
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Normalise features (..., F)."""
        if features.shape[-1] != len(self.shift):
            sizes = f"{len(self.shift)} values, these have {features.shape[-1]}"
            raise UserError(f"the CMVN file is for features of {sizes}. MooER's am.mvn has 560: 7 frames of 80.")
        return (features + self.shift.to(features.device)) * self.scale.to(features.device)


def read_cmvn(path: Path | str) -> CMVN:
    """Read `am.mvn`.

    Raises:
        UserError: no such file, or one that lacks <AddShift> or <Rescale> or has another number of values than it says.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the CMVN file {path}: {error}.") from error
    values = []
    for name in ("AddShift", "Rescale"):
        found = re.search(_BLOCK.format(name), text)
        if found is None:
            raise UserError(f"{path} has no <{name}> block; expected Kaldi's nnet text form, as in FunASR's am.mvn.")
        try:
            row = torch.tensor([float(value) for value in found[3].split()])
        except ValueError as error:
            raise UserError(f"{path}, <{name}>: {error}.") from error
        if not int(found[1]) == int(found[2]) == len(row):
            raise UserError(f"{path}, <{name}>: says {found[1]} values and has {len(row)}; the file is cut or edited.")
        values.append(row)
    if len(values[0]) != len(values[1]):
        raise UserError(f"{path}: <AddShift> has {len(values[0])} values and <Rescale> {len(values[1])}.")
    return CMVN(*values)
