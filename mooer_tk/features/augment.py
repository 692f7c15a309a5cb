"""Changes to speech in training: speed, noise, and SpecAugment's masks; drawn by seed, pass and utterance alone."""

import zlib

import numpy as np
import soxr
from torch import Tensor

from mooer_tk.config import AugmentConfig
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.audio import SAMPLE_RATE
from mooer_tk.errors import UserError

SPEEDS = (0.5, 2.0)


class Augmenter:
    """Applies a config to one utterance at a time; a worker needs no random state of its own.

    Args:
        config: what to do.
        seed: of the run.

    Raises:
        UserError: a setting out of its range, or noise that is no audio.
    """

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        if any(not SPEEDS[0] <= speed <= SPEEDS[1] for speed in config.speed):
            raise UserError(f"augment.speed {config.speed}: factors are {SPEEDS[0]} to {SPEEDS[1]}.")
        if len(config.noise_snr) != 2 or not 0 <= config.noise_share <= 1 or not 0 <= config.time_share <= 1:
            raise UserError("augment: noise_snr is [lowest, highest] in dB; noise_share and time_share are 0 to 1.")
        self.config, self.seed = config, seed
        self.noise = ShardReader(config.noise, audio=True) if config.noise else None
        self.noises = sorted(self.noise) if self.noise else []

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        config = self.config
        masks = config.freq_masks or config.time_masks or config.sub_masks or config.trim_width
        return bool(config.speed or self.noise or masks)

    def generator(self, utt: str, epoch: int) -> np.random.Generator:
        """The random numbers of one utterance in one pass."""
        return np.random.default_rng([self.seed, epoch, zlib.crc32(utt.encode())])

    def samples(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change speed (with pitch, as Kaldi does) and add noise: samples (T,) at 16 kHz -> (T',)."""
        if self.config.speed and (speed := float(rng.choice(self.config.speed))) != 1.0:
            samples = soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE)
        if self.noises and rng.random() < self.config.noise_share:
            noise = self.noise[self.noises[rng.integers(len(self.noises))]]
            begin = int(rng.integers(max(len(noise) - len(samples), 0) + 1))
            noise = np.resize(noise[begin : begin + len(samples)], len(samples))
            level = rng.uniform(*self.config.noise_snr)
            power = np.mean(samples**2) / max(float(np.mean(noise**2)), 1e-12)
            samples = samples + noise * np.sqrt(power / 10 ** (level / 10))
        return samples.astype(np.float32)

    def features(self, features: Tensor, speech: int, rng: np.random.Generator) -> Tensor:
        """Change features (T, F), of which `speech` frames are speech -> (T', F), T' < T where the end is cut.

        SpecAugment (Park et al., arXiv 1904.08779): masked values become the mean of the utterance's speech. spec-sub
        copies an earlier stretch over a later one (U2++, arXiv 2106.05642), spec-trim cuts the end (WeNet).
        """
        config = self.config
        features, mean = features.clone(), features[:speech].mean()
        for _ in range(config.sub_masks):
            end = int(rng.integers(1, speech + 1))
            begin = end - int(rng.integers(min(config.sub_width, end) + 1))
            back = int(rng.integers(begin + 1))
            features[begin:end] = features[begin - back : end - back].clone()
        for _ in range(config.freq_masks):
            width = int(rng.integers(min(config.freq_width, features.shape[1]) + 1))
            begin = int(rng.integers(features.shape[1] - width + 1))
            features[:speech, begin : begin + width] = mean
        for _ in range(config.time_masks):
            most = int(config.time_share * speech)
            width = int(rng.integers((min(most, config.time_width) if config.time_width else most) + 1))
            begin = int(rng.integers(speech - width + 1))
            features[begin : begin + width] = mean
        cut = int(rng.integers(config.trim_width + 1))
        return features[: speech - cut] if 2 * cut < speech and cut else features
