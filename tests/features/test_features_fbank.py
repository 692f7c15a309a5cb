"""The FunASR / MooER front end on real speech, against Kaldi's own C++ and against the definition."""

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch

from mooer_tk.errors import UserError
from mooer_tk.features.cmvn import CMVN, read_cmvn
from mooer_tk.features.fbank import fbank, low_frame_rate


def kaldi(samples: np.ndarray) -> np.ndarray:
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hamming"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(16_000, (samples * 2**15).tolist())
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def batch(waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = [torch.from_numpy(wave) for wave in waves]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.tensor([len(one) for one in waves])


def test_it_agrees_with_kaldi_on_real_speech(waves):
    speech = list(waves.values())
    features, frames = fbank(*batch(speech))
    for row, count, samples in zip(features, frames.tolist(), speech, strict=True):
        expected = kaldi(samples)
        assert len(expected) == count
        # Kaldi's own sums are float32: now and then a quiet bin of its is off by a thousandth.
        assert np.quantile(np.abs(row[:count].numpy() - expected), 0.999) < 1e-3
        np.testing.assert_allclose(row[:count], expected, atol=2e-3)


def test_it_agrees_with_its_definition_in_float64(waves):
    samples = next(iter(waves.values())).astype(np.float64) * 2**15
    features, frames = fbank(*batch([next(iter(waves.values()))]))
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 82)
    places = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    for index in range(0, int(frames), 7):
        piece = samples[160 * index : 160 * index + 400]
        piece = piece - piece.mean()
        piece = piece - 0.97 * np.concatenate([piece[:1], piece[:-1]])
        power = np.abs(np.fft.rfft(piece * np.hamming(400), 512)) ** 2
        weights = [np.interp(places, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(80)]
        expected = np.log(np.maximum(np.array(weights) @ power, np.finfo(np.float32).eps))
        np.testing.assert_allclose(features[0, index], expected, atol=1e-3)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2)])
def test_edges_are_snipped(samples, frames):
    features, count = fbank(torch.zeros(1, samples), torch.tensor([samples]))
    assert count.tolist() == [frames]
    assert features.shape[1] >= frames
    assert features.isfinite().all()


def by_hand(frames: np.ndarray, m: int, n: int) -> np.ndarray:
    """LFR as its description says: copies of the first frame before, of the last one behind."""
    padded = np.concatenate([np.repeat(frames[:1], (m - 1) // 2, 0), frames, np.repeat(frames[-1:], m + n, 0)])
    return np.stack([padded[i * n : i * n + m].reshape(-1) for i in range(-(-len(frames) // n))])


@pytest.mark.parametrize(("m", "n"), [(7, 6), (5, 2), (1, 1)])
def test_low_frame_rate_stacks_and_company_changes_nothing(m, n):
    rng = np.random.default_rng(0)
    speech = [rng.standard_normal((count, 3)).astype(np.float32) for count in (1, 5, 6, 7, 12, 40)]
    padded, lengths = batch(speech)
    padded[torch.arange(40)[None] >= lengths[:, None]] = 99.0
    stacked, counts = low_frame_rate(padded, lengths, m, n)
    for row, count, frames in zip(stacked, counts.tolist(), speech, strict=True):
        expected = by_hand(frames, m, n)
        assert count == len(expected)
        np.testing.assert_array_equal(row[:count], expected)


def test_cmvn_survives_its_file_and_is_shift_then_scale(tmp_path, write_mvn):
    cmvn = CMVN(torch.randn(560), torch.rand(560) + 0.1)
    write_mvn(tmp_path / "am.mvn", cmvn)
    again = read_cmvn(tmp_path / "am.mvn")
    assert torch.equal(again.shift, cmvn.shift) and torch.equal(again.scale, cmvn.scale)
    features = torch.randn(2, 3, 560)
    torch.testing.assert_close(again(features), (features + cmvn.shift) * cmvn.scale)
    with pytest.raises(UserError, match="560 values, these have 80"):
        again(torch.zeros(1, 80))


def test_kaldis_line_breaks_and_brackets_are_understood(tmp_path):
    """As FunASR ships it: blanks and line breaks where Kaldi's writer puts them."""
    path = tmp_path / "am.mvn"
    path.write_text(
        "<Nnet> \n<Splice> 3 3 \n[ 0 ]\n<AddShift> 3 3 \n<LearnRateCoef> 0 [ -8.3 -8.6 -9.1 ]\n"
        "<Rescale> 3 3 \n<LearnRateCoef> 0 [ 0.15 0.14 1e-01 ]\n</Nnet> \n"
    )
    cmvn = read_cmvn(path)
    torch.testing.assert_close(cmvn.shift, torch.tensor([-8.3, -8.6, -9.1]))
    torch.testing.assert_close(cmvn.scale, torch.tensor([0.15, 0.14, 0.1]))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("<Nnet>", "no <AddShift>"),
        ("<AddShift> 2 2 <LearnRateCoef> 0 [ 1 2 ]", "no <Rescale>"),
        (
            "<AddShift> 3 3 <LearnRateCoef> 0 [ 1 2 ] <Rescale> 3 3 <LearnRateCoef> 0 [ 1 2 3 ]",
            "says 3 values and has 2",
        ),
        ("<AddShift> 2 2 <LearnRateCoef> 0 [ 1 x ] <Rescale> 2 2 <LearnRateCoef> 0 [ 1 2 ]", "AddShift"),
    ],
)
def test_a_broken_file_is_a_user_error_that_names_the_block(tmp_path, text, word):
    path = tmp_path / "am.mvn"
    path.write_text(text)
    with pytest.raises(UserError, match=word):
        read_cmvn(path)
    with pytest.raises(UserError, match="cannot read the CMVN file"):
        read_cmvn(tmp_path / "nowhere")
