"""CTranslate2's Whisper as a transformers folder: the states are the same, and a damaged file is told."""

import numpy as np
import pytest
import torch

from hub.ct2_whisper import convert, read_ct2
from mooer_tk.encoders.whisper import WhisperEncoder
from mooer_tk.errors import UserError


def test_converted_weights_give_the_states_of_ctranslate2_itself(tiny_teacher, waves, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    convert(tiny_teacher, tmp_path / "converted")
    encoder = WhisperEncoder(tmp_path / "converted", window_s=30).freeze()
    samples = np.concatenate([waves["ss-noservice"], waves["agent-incorrect"]])
    features = encoder.features(samples)
    assert features.shape == (3000, 80)
    theirs = ctranslate2.models.Whisper(str(tiny_teacher), device="cpu", compute_type="float32", intra_threads=1)
    view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features.T[None].numpy()))
    expected = np.array(theirs.encode(view, to_cpu=True))[0]
    with torch.inference_mode():
        states, lengths = encoder(features[None], torch.tensor([3000]))
    assert states.shape == (1, 1500, 384) and lengths.tolist() == [1500]
    assert np.abs(states[0].numpy() - expected).max() < 1e-3 * np.abs(expected).max()
    # The front end too: encode() from samples must give those states, cut to the speech.
    (cut,) = encoder.encode([samples])
    np.testing.assert_allclose(cut, expected[: len(cut)], atol=1e-3 * np.abs(expected).max())


def test_a_truncated_ctranslate2_model_is_a_user_error(tiny_teacher, tmp_path):
    whole = (tiny_teacher / "model.bin").read_bytes()
    path = tmp_path / "model.bin"
    for size in (0, 3, 20, 1000, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"model\.bin is no whole CTranslate2 model"):
            read_ct2(path)
    path.write_bytes(b"\x05" + whole[1:1000])
    with pytest.raises(UserError, match="format 6"):
        read_ct2(path)
