"""What training does to speech: as much as asked, the same for one pass and utterance, other the next time."""

import numpy as np
import pytest
import torch

from mooer_tk.config import AugmentConfig
from mooer_tk.data.array_shards import ShardWriter
from mooer_tk.data.atomic import mark_done
from mooer_tk.errors import UserError
from mooer_tk.features.augment import Augmenter


@pytest.fixture
def speech(waves):
    return waves["vm-sorry"]


@pytest.fixture
def noise(tmp_path):
    """A directory of audio shards with three seconds of noise."""
    rng = np.random.default_rng(0)
    samples = {f"n{i}": 0.1 * rng.standard_normal(48_000).astype(np.float32) for i in range(3)}
    writer = ShardWriter(tmp_path / "noise", {"fingerprint": "n", "audio": True})
    writer.write(0, [(utt, wave, 3.0) for utt, wave in samples.items()], {}, audio=True)
    mark_done(tmp_path / "noise", "n")
    return str(tmp_path / "noise")


def change(config, speech, utt="u", epoch=0, seed=1):
    augmenter = Augmenter(config, seed)
    return augmenter.samples(speech, augmenter.generator(utt, epoch))


def test_it_depends_on_seed_pass_and_utterance_alone(speech, noise):
    config = AugmentConfig(speed=[0.8, 0.9, 1.1, 1.2], noise=noise, noise_share=1.0)
    first = change(config, speech)
    assert np.array_equal(first, change(config, speech))
    others = [change(config, speech, epoch=1), change(config, speech, utt="v"), change(config, speech, seed=2)]
    assert not any(len(one) == len(first) and np.allclose(one, first) for one in others)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_length_and_pitch_as_kaldi_does(speech, speed):
    changed = change(AugmentConfig(speed=[speed]), speech)
    assert len(changed) == pytest.approx(len(speech) / speed, rel=1e-3)
    assert changed.dtype == np.float32

    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    heard = change(AugmentConfig(speed=[speed]), tone)
    peak = np.abs(np.fft.rfft(heard)).argmax() * 16_000 / len(heard)
    assert peak == pytest.approx(440 * speed, abs=1)


def test_noise_is_as_loud_as_asked_and_reaches_its_share(speech, noise):
    config = AugmentConfig(noise=noise, noise_share=0.5, noise_snr=[10.0, 10.0])
    added = [change(config, speech, utt=str(i)) - speech for i in range(200)]
    loud = [one for one in added if np.any(one)]
    assert len(loud) == pytest.approx(100, abs=25)
    for one in loud[:5]:
        assert 10 * np.log10((speech**2).mean() / (one**2).mean()) == pytest.approx(10, abs=0.1)


def test_specaugment_masks_frames_and_bins_of_the_speech_only():
    config = AugmentConfig(freq_masks=2, freq_width=10, time_masks=2, time_share=0.2)
    features = torch.rand(100, 40) + 1.0
    before = features.clone()
    augmenter = Augmenter(config, 3)
    shares = []
    for epoch in range(50):
        masked = augmenter.features(features, 60, augmenter.generator("u", epoch))
        assert torch.equal(masked[60:], features[60:])
        changed = masked[:60] != features[:60]
        assert torch.all(masked[:60][changed] == features[:60].mean())
        frames, bins = changed.all(1).sum(), changed.all(0).sum()
        assert frames <= 2 * 12 and bins <= 2 * 10
        shares.append(changed.float().mean().item())
    assert 0.1 < np.mean(shares) < 0.5
    assert torch.equal(features, before)


def test_without_settings_nothing_changes(speech):
    augmenter = Augmenter(AugmentConfig(), 0)
    assert not augmenter.active
    assert np.array_equal(change(AugmentConfig(), speech), speech)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"speed": [3.0]}, "factors are 0.5 to 2"),
        ({"noise_snr": [1.0]}, "lowest, highest"),
        ({"time_share": 2.0}, "0 to 1"),
    ],
)
def test_settings_out_of_range_are_user_errors(settings, word):
    with pytest.raises(UserError, match=word):
        Augmenter(AugmentConfig(**settings), 0)


def test_states_are_no_noise(tmp_path, write_states):
    with pytest.raises(UserError, match="audio is needed"):
        Augmenter(AugmentConfig(noise=str(write_states(tmp_path / "states", {"a": np.ones((3, 2))}))), 0)
