"""A U2++ model small enough to be made anew, its data, and shards of a dozen recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mooer_tk.u2pp.config import ModelConfig, MoEConfig, U2ppConfig
from mooer_tk.u2pp.model import U2pp, save_model
from mooer_tk.u2pp.units import Units

SHAPE = {"dim": 32, "heads": 4, "layers": 2, "ffn": 48, "kernel": 5, "dropout": 0.0}
SHAPE |= {"decoder_layers": 1, "right_layers": 1, "decoder_ffn": 48}


@pytest.fixture(scope="session")
def units_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Characters of English."""
    path = tmp_path_factory.mktemp("units") / "units.txt"
    path.write_text("\n".join("▁abcdefghijklmnopqrstuvwxyz'") + "\n", encoding="utf-8")
    return path


@pytest.fixture
def saved_model(units_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """saved_model(experts=0, name="model", modes=[...]) -> the directory of an untrained model, always the same."""

    def save(experts: int = 0, name: str = "model", modes: tuple[str, ...] = ("attention_rescoring",)) -> Path:
        config = U2ppConfig(model=ModelConfig(**SHAPE, moe=MoEConfig(experts)))
        config.decode.modes, config.decode.beam = list(modes), 4
        torch.manual_seed(9)
        model = U2pp(config.model, Units(units_file).size)
        # It has heard nothing yet, and would find nothing but blanks or nothing but one letter.
        with torch.no_grad():
            model.ctc.weight.mul_(6.0)
        save_model(tmp_path / name, config, units_file, model.state_dict(), {"git": "test"})
        return tmp_path / name

    return save


@pytest.fixture(scope="session")
def audio_shards(write_prompts: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and the audio shards dump/ of the dozen recordings."""
    from mooer_tk.bin.main import main

    folder = tmp_path_factory.mktemp("shards")
    write_prompts(folder / "data")
    assert main(["states", str(folder / "data"), str(folder / "dump"), "--audio"]) == 0
    return folder


@pytest.fixture
def speech(waves: dict[str, np.ndarray]) -> np.ndarray:
    """One recording, samples (T,)."""
    return waves["conf-onlyperson"]
