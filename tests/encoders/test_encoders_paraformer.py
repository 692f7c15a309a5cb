"""Paraformer's encoder: the released key names, the formulas, padding, positions, bfloat16."""

import numpy as np
import pytest
import torch

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.paraformer import ParaformerEncoder, read_weights, sinusoids
from mooer_tk.encoders.table import build_encoder
from mooer_tk.errors import UserError
from mooer_tk.features.cmvn import CMVN

SMALL = {"size": 32, "inner": 48, "layers": 4, "kernel": 5}


@pytest.fixture
def cmvn():
    generator = torch.Generator().manual_seed(0)
    return CMVN(-10 + torch.randn(560, generator=generator), 0.1 + torch.rand(560, generator=generator) / 10)


def make(cmvn, seed=0, **shape):
    torch.manual_seed(seed)
    return ParaformerEncoder(cmvn, **(shape or SMALL)).freeze()


def by_formula(encoder, features, heads=4):
    """The encoder written again from its formulas, one utterance, float64, plain loops over heads and time."""
    w = {name: value.double().numpy() for name, value in encoder.state_dict().items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = features.double().numpy() * np.sqrt(encoder.dim)
    frames, width = x.shape
    for t in range(frames):
        for i in range(width // 2):
            angle = (t + 1) / 10_000 ** (i / (width / 2 - 1))
            x[t, i] += np.sin(angle)
            x[t, width // 2 + i] += np.cos(angle)
    for name in ["encoders0.0", *(f"encoders.{i}" for i in range(len(encoder.encoders)))]:
        q, k, v = np.split(linear(norm(x, f"{name}.norm1"), f"{name}.self_attn.linear_q_k_v"), 3, -1)
        attended = []
        for one_q, one_k, one_v in zip(*(np.split(part, heads, -1) for part in (q, k, v)), strict=True):
            scores = np.exp(one_q @ one_k.T / np.sqrt(one_q.shape[-1]))
            attended.append(scores / scores.sum(-1, keepdims=True) @ one_v)
        taps = w[f"{name}.self_attn.fsmn_block.weight"][:, 0]
        reach = taps.shape[-1] // 2
        memory = v.copy()
        for t in range(frames):
            for offset in range(-reach, reach + 1):
                if 0 <= t + offset < frames:
                    memory[t] += taps[:, offset + reach] * v[t + offset]
        out = linear(np.concatenate(attended, -1), f"{name}.self_attn.linear_out") + memory
        h = out if x.shape[-1] != out.shape[-1] else x + out
        inner = np.maximum(linear(norm(h, f"{name}.norm2"), f"{name}.feed_forward.w_1"), 0)
        x = h + linear(inner, f"{name}.feed_forward.w_2")
        yield name, x
    yield "after_norm", norm(x, "after_norm")


def test_every_layer_is_what_the_formulas_say(cmvn):
    encoder = make(cmvn)
    features = torch.randn(17, 560, generator=torch.Generator().manual_seed(1))
    seen = {}
    for name, module in encoder.named_modules():
        if name in ("encoders0.0", "after_norm") or (name.startswith("encoders.") and name.count(".") == 1):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out[0]}))
    encoder(features[None], torch.tensor([17]))
    expected = dict(by_formula(encoder, features))
    assert list(seen) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name].numpy(), value, atol=1e-4 * np.abs(value).max(), err_msg=name)


def test_padding_never_changes_a_real_frame(cmvn, waves):
    encoder = make(cmvn)
    speech = list(waves.values())
    features = [encoder.features(samples) for samples in speech]
    lengths = torch.tensor([len(one) for one in features])
    assert len(set(lengths.tolist())) > 3
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    padded[torch.arange(padded.shape[1])[None] >= lengths[:, None]] = 7.0
    states, sizes = encoder(padded, lengths)
    assert sizes.tolist() == lengths.tolist()
    for row, one in zip(states, features, strict=True):
        alone, _ = encoder(one[None], torch.tensor([len(one)]))
        torch.testing.assert_close(row[: len(one)], alone[0], atol=1e-4, rtol=0)


def test_the_full_shape_is_the_papers_and_survives_its_released_file(cmvn, tmp_path, waves, write_paraformer):
    torch.manual_seed(0)
    encoder = ParaformerEncoder(cmvn).freeze()
    assert sum(p.numel() for p in encoder.parameters()) == 157_975_648
    folder = write_paraformer(tmp_path / "p", encoder)
    again = build_encoder(EncoderConfig("paraformer", str(folder), precision="float32"))
    samples = next(iter(waves.values()))
    (before,), (after,) = encoder.encode([samples]), again.encode([samples])
    assert before.shape == (-(-((len(samples) - 400) // 160 + 1) // 6), 512)
    np.testing.assert_array_equal(before, after)


def test_funasrs_whole_recogniser_loads_too(cmvn, tmp_path, write_mvn):
    encoder = make(cmvn)
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    extra = {"decoder.embed.0.weight": torch.zeros(3), "predictor.cif_output.bias": torch.zeros(1)}
    torch.save({**weights, **extra}, tmp_path / "model.pt")
    write_mvn(tmp_path / "am.mvn", cmvn)
    again = ParaformerEncoder.load(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda w: w.pop("encoders.1.norm2.bias"), "missing encoders.1.norm2.bias"),
        (lambda w: w.update({"encoders.1.norm3.bias": torch.zeros(2)}), "unused encoders.1.norm3.bias"),
        (
            lambda w: w.update({"encoders.0.norm1.bias": torch.zeros(2)}),
            r"encoders.0.norm1.bias is \(2,\), expected \(32,\)",
        ),
        (lambda w: w.pop("after_norm.weight"), "no key 'after_norm.weight'"),
    ],
)
def test_keys_that_do_not_fit_are_named(cmvn, tmp_path, write_paraformer, spoil, word):
    folder = write_paraformer(tmp_path / "p", make(cmvn))
    weights = read_weights(folder / "paraformer-encoder.pth")
    spoil(weights)
    torch.save(weights, folder / "paraformer-encoder.pth")
    with pytest.raises(UserError, match=word):
        ParaformerEncoder.load(folder)


class Evil:
    def __reduce__(self):
        return (print, ("code from a file ran",))


def test_a_file_that_would_run_code_is_refused(cmvn, tmp_path, write_paraformer, capsys):
    folder = write_paraformer(tmp_path / "p", make(cmvn))
    torch.save({"a": Evil()}, folder / "paraformer-encoder.pth")
    with pytest.raises(UserError, match=r"(?s)cannot read .*Bring the file again"):
        ParaformerEncoder.load(folder)
    assert "ran" not in capsys.readouterr().out
    with pytest.raises(UserError, match="holds no Paraformer"):
        ParaformerEncoder.load(tmp_path)


@pytest.mark.parametrize("way", ["products", "weights"])
def test_bfloat16_is_near_float32_on_20_seconds_and_no_two_positions_are_equal(cmvn, waves, way):
    """The original computed positions in the input's type: in bfloat16 frames 256 and 257 were at the same place."""
    speech = np.concatenate(list(waves.values()))
    speech = np.tile(speech, -(-20 * 16_000 // len(speech)))[: 20 * 16_000]
    exact = make(cmvn, layers=6, size=128, inner=256, kernel=11)
    (states,) = exact.encode([speech])
    assert len(states) > 330
    rough = make(
        cmvn, layers=6, size=128, inner=256, kernel=11, precision="bfloat16" if way == "products" else "float32"
    )
    if way == "weights":
        rough = rough.bfloat16()
    (close,) = rough.encode([speech])
    assert 0 < np.linalg.norm(states - close) < 0.02 * np.linalg.norm(states)
    places = sinusoids(340, 560, torch.device("cpu"))
    assert places.dtype == torch.float32
    assert torch.unique(places, dim=0).shape[0] == 340


def test_frozen_stays_in_eval_mode_inside_train(cmvn):
    encoder = make(cmvn).train()
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
