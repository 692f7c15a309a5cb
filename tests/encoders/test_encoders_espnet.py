"""ESPnet's encoders, where ESPnet is installed (tools/install_espnet.sh); without it, a message that says how."""

import importlib.util

import numpy as np
import pytest
import torch
import yaml

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.espnet import ESPnetEncoder
from mooer_tk.encoders.table import build_encoder
from mooer_tk.errors import UserError

installed = pytest.mark.skipif(importlib.util.find_spec("espnet2") is None, reason="ESPnet is not installed")
CONFIG = {
    "frontend": "default",
    "frontend_conf": {"fs": "16k", "n_fft": 512, "hop_length": 160},
    "normalize": "global_mvn",
    "encoder_conf": {"output_size": 32, "attention_heads": 4, "linear_units": 48, "num_blocks": 2},
}


@pytest.mark.skipif(importlib.util.find_spec("espnet2") is not None, reason="ESPnet is installed")
def test_without_espnet_the_message_says_how_to_install_it():
    with pytest.raises(UserError, match=r"tools/install_espnet\.sh"):
        ESPnetEncoder({**CONFIG, "encoder": "conformer"})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"encoder": "conformr"}, "'conformer'"),
        ({"encoder": "conformer", "frontend": "s3prl"}, "s3prl"),
        ({"encoder": "conformer", "frontend_conf": {"fs": 8000}}, "8000 Hz, .*choose one of fs: 16k"),
    ],
)
def test_what_is_not_supported_is_named(change, word):
    with pytest.raises(UserError, match=word):
        ESPnetEncoder({**CONFIG, **change})


def test_a_folder_without_a_model_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml and one \.pth"):
        build_encoder(EncoderConfig("espnet", str(tmp_path)))


@installed
@pytest.mark.parametrize("kind", ["conformer", "e_branchformer", "transformer"])
def test_a_packed_model_loads_strictly_and_company_changes_nothing(tmp_path, waves, kind):
    config = {**CONFIG, "encoder": kind}
    if kind == "e_branchformer":
        shape = {"output_size": 32, "attention_heads": 4, "linear_units": 48, "num_blocks": 2, "cgmlp_linear_units": 48}
        config["encoder_conf"] = shape
    torch.manual_seed(0)
    model = ESPnetEncoder(config).freeze()
    model.normalize.mean.normal_()
    model.normalize.std.fill_(2.0)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({**model.state_dict(), "decoder.embed.weight": torch.zeros(2)}, tmp_path / "valid.acc.best.pth")
    again = build_encoder(EncoderConfig("espnet", str(tmp_path), precision="float32"))
    assert (again.dim, again.frame_ms) == (32, 40.0)
    speech = list(waves.values())[:4]
    for states, samples, expected in zip(again.encode(speech), speech, model.encode(speech), strict=True):
        np.testing.assert_array_equal(states, expected)
        np.testing.assert_allclose(states, again.encode([samples])[0], atol=1e-5)
        assert len(states) == pytest.approx(len(samples) / 640, abs=2)
    spoiled = {name: value for name, value in model.state_dict().items() if name != "normalize.std"}
    torch.save(spoiled, tmp_path / "valid.acc.best.pth")
    with pytest.raises(UserError, match=r"missing normalize\.std"):
        build_encoder(EncoderConfig("espnet", str(tmp_path)))
