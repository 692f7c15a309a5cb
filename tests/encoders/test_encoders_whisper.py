"""Whisper's encoder on real speech: the converted weights, batching, shorter windows, and that it stays frozen."""

import numpy as np
import pytest
import torch

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.table import build_encoder
from mooer_tk.encoders.whisper import WhisperEncoder
from mooer_tk.errors import UserError


@pytest.fixture(scope="module")
def encoder(tiny_whisper):
    return build_encoder(EncoderConfig(model=str(tiny_whisper), window_s=10, precision="float32"))


@pytest.fixture(scope="module")
def whole(tiny_whisper):
    return build_encoder(EncoderConfig(model=str(tiny_whisper), window_s=30))


@pytest.fixture(scope="module")
def some(waves):
    return [waves[name] for name in ("queue-thankyou", "vm-sorry", "ss-noservice", "pbx-invalidpark")]


def cosines(one, other):
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_the_front_end_is_that_of_faster_whisper(encoder, waves):
    extractor = pytest.importorskip("faster_whisper.feature_extractor").FeatureExtractor(feature_size=80)
    samples = waves["vm-sorry"]
    padded = np.pad(samples, (0, 160_000 - len(samples)))
    expected = extractor(padded, padding=0)[:, :1000].T
    np.testing.assert_allclose(encoder.features(samples).numpy(), expected, atol=2e-3)


def test_the_number_of_states_is_a_state_each_20_ms(encoder, waves):
    for samples in (waves["vm-sorry"], waves["vm-sorry"][:1600], waves["vm-sorry"][:1601]):
        (states,) = encoder.encode([samples])
        assert states.shape == (-(-len(samples) // 320), encoder.dim)
        assert states.dtype == np.float32 and np.isfinite(states).all()
    assert (encoder.dim, encoder.frame_ms) == (384, 20.0)


def test_a_batch_of_different_lengths_equals_one_by_one(encoder, some):
    # Of one window and of two, so that both groups and the order of results are seen.
    mixed = [some[0], np.concatenate(some[1:]), some[1], np.concatenate([some[3], *some[1:]]), some[2][:4000]]
    assert len({len(encoder.features(samples)) for samples in mixed}) == 2
    for together, samples in zip(encoder.encode(mixed), mixed, strict=True):
        (alone,) = encoder.encode([samples])
        assert together.shape == alone.shape
        np.testing.assert_allclose(together, alone, atol=1e-4)


def test_short_windows_keep_the_states_of_whispers_own_window(encoder, whole, some):
    short, long = np.concatenate(encoder.encode(some)), np.concatenate(whole.encode(some))
    assert short.shape == long.shape
    assert cosines(short, long).mean() > 0.98
    # What the claim is worth: the states of other speech are not as near.
    assert cosines(short, np.roll(long, 50, axis=0)).mean() < 0.8


def test_more_than_thirty_seconds_is_refused(encoder):
    with pytest.raises(ValueError, match="at most 30 s"):
        encoder.encode([np.zeros(30 * 16_000 + 1, np.float32)])


def test_a_frozen_encoder_stays_in_eval_mode_and_gives_no_gradients(toy_whisper):
    encoder = WhisperEncoder(toy_whisper)
    assert encoder.train().training
    model = torch.nn.ModuleDict({"encoder": encoder.freeze(), "adapter": torch.nn.Linear(16, 4)})
    model.train()
    assert model["adapter"].training
    assert not any(module.training for module in encoder.modules())
    states, _ = encoder(torch.randn(1, 1000, 80), torch.tensor([1000]))
    assert not states.requires_grad
    model["adapter"](states).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert model["adapter"].weight.grad.abs().sum() > 0


def test_neighbouring_frames_keep_different_positions_in_bfloat16(tiny_whisper):
    # Positions counted in bfloat16 are equal from frame 256 on; a table in float32 that is rounded keeps them apart.
    encoder = WhisperEncoder(tiny_whisper).freeze().bfloat16()
    with torch.inference_mode():
        states, _ = encoder(torch.zeros(1, 3000, 80), torch.tensor([3000]))
    for place in (256, 512, 1024):
        assert (states[0, place] - states[0, place + 1]).abs().max() > 0


def test_unknown_encoders_windows_and_models_are_user_errors(tiny_whisper, tmp_path):
    with pytest.raises(UserError, match="did you mean 'whisper'"):
        build_encoder(EncoderConfig(name="wisper", model=str(tiny_whisper)))
    with pytest.raises(UserError, match="window_s is 40"):
        WhisperEncoder(tiny_whisper, window_s=40)
    with pytest.raises(UserError, match=str(tmp_path)):
        build_encoder(EncoderConfig(model=str(tmp_path)))


def test_bfloat16_products_change_the_states_by_a_hundredth_at_most(tiny_whisper, waves):
    """Real weights and speech: the residual stream stays float32, so errors do not pile up over the layers."""
    speech = list(waves.values())[:3]
    exact = WhisperEncoder(tiny_whisper, window_s=5).freeze().encode(speech)
    rough = WhisperEncoder(tiny_whisper, window_s=5, precision="bfloat16").freeze().encode(speech)
    for a, b in zip(exact, rough, strict=True):
        assert 0 < np.linalg.norm(a - b) < 0.02 * np.linalg.norm(a)
