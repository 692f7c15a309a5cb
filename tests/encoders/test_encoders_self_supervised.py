"""HuBERT, wav2vec 2.0, WavLM and W2v-BERT by their configs, random weights: shapes, lengths and padding."""

import numpy as np
import pytest
import torch

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.self_supervised import SelfSupervisedEncoder
from mooer_tk.encoders.table import build_encoder
from mooer_tk.errors import UserError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CONV = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


def write(folder, kind, norm):
    from transformers import AutoConfig, AutoModel, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    if kind == "wav2vec2-bert":
        config = AutoConfig.for_model(kind, **SMALL)
        SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2).save_pretrained(folder)
    else:
        stable = norm == "layer"
        config = AutoConfig.for_model(
            kind, **SMALL, **CONV, feat_extract_norm=norm, do_stable_layer_norm=stable, conv_bias=stable
        )
        Wav2Vec2FeatureExtractor(return_attention_mask=stable).save_pretrained(folder)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "kind", "norm"),
    [
        ("hubert", "hubert", "group"),
        ("hubert", "hubert", "layer"),
        ("wav2vec2", "wav2vec2", "group"),
        ("wav2vec2", "wav2vec2", "layer"),
        ("hubert", "wavlm", "layer"),
        ("w2v-bert", "wav2vec2-bert", ""),
    ],
)
def test_company_changes_nothing_and_the_rate_is_20_ms(tmp_path, waves, name, kind, norm):
    encoder = build_encoder(EncoderConfig(name, write(tmp_path, kind, norm), precision="float32"))
    assert (encoder.dim, encoder.frame_ms) == (32, 20.0)
    speech = list(waves.values())[:4]
    together = encoder.encode(speech)
    for states, samples in zip(together, speech, strict=True):
        (alone,) = encoder.encode([samples])
        assert len(states) == len(alone) == pytest.approx(len(samples) / 320, abs=2)
        np.testing.assert_allclose(states, alone, atol=1e-4)
    assert not encoder.train().training


def test_another_kind_of_model_is_a_user_error(tiny_whisper):
    with pytest.raises(UserError, match="is a whisper, not"):
        SelfSupervisedEncoder(tiny_whisper)
