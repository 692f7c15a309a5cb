"""tools/mooer_release.py: the released layout is written and read strictly, and what was read runs and trains on."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.paraformer import ParaformerEncoder
from mooer_tk.features.cmvn import CMVN
from mooer_tk.llm.causal_lm import lora_weights
from mooer_tk.llm.checkpoint import Parts, build_from, load_model, read_parts
from mooer_tk.llm.speech_llm import Batch
from tools.mooer_release import main


@pytest.fixture
def exported(make_model, export, tmp_path):
    """A trained model with the paper's hand-over, its directory, and its speech embeddings of some states."""
    model = make_model("raw").eval()
    model.adapter.set_statistics(torch.linspace(-1, 1, 8), torch.linspace(0.5, 2, 8))
    for name, parameter in lora_weights(model.llm).items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    export(model, tmp_path / "model")
    return model, tmp_path / "model"


def convert(*words):
    """The exit status of `tools/mooer_release.py WORDS`."""
    return main([str(word) for word in words])


@pytest.fixture
def release(exported, tmp_path):
    assert convert("write", exported[1], tmp_path / "asr") == 0
    return tmp_path / "asr"


def same_answers(one, other):
    generator = torch.Generator().manual_seed(0)
    states, lengths = torch.randn(2, 9, 8, generator=generator), torch.tensor([9, 5])
    (a, sizes), (b, same) = one.speech(states, lengths), other.speech(states, lengths)
    assert sizes.tolist() == same.tolist()
    for row, again, size in zip(a, b, sizes.tolist(), strict=True):
        torch.testing.assert_close(row[:size], again[:size], atol=1e-5, rtol=1e-4)
    ids = torch.tensor([[5, 9, 300]])
    torch.testing.assert_close(one.llm(ids).logits, other.llm(ids).logits, atol=1e-4, rtol=1e-3)


def test_the_files_have_the_released_names_and_keys(release, exported):
    adapter = torch.load(release / "adapter_project.pt", weights_only=True)
    keys = [f"encoder_projector.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]
    assert list(adapter) == keys
    lora = load_file(release / "lora_weights" / "adapter_model.safetensors")
    facts = json.loads((release / "lora_weights" / "adapter_config.json").read_text())
    assert (facts["r"], facts["lora_alpha"], facts["peft_type"], facts["task_type"]) == (4, 8, "LORA", "CAUSAL_LM")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in lora


def test_peft_itself_reads_the_lora(release, exported, tiny_llm):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_llm)
    theirs = PeftModel.from_pretrained(base, str(release / "lora_weights")).merge_and_unload()
    ids = torch.tensor([[5, 9, 300]])
    torch.testing.assert_close(theirs(ids).logits, exported[0].llm(ids).logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_a_release_comes_back_as_the_model_that_it_was(release, exported, tmp_path, file):
    if file == "bin":
        path = release / "lora_weights" / "adapter_model.safetensors"
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    assert convert("read", release, tmp_path / "back", "--config", exported[1] / "config.yaml") == 0
    same_answers(load_model(tmp_path / "back")[0], exported[0])


def test_what_we_write_tells_its_config_and_mooers_own_release_is_asked_for_one(release, exported, tmp_path, capsys):
    assert convert("read", release, tmp_path / "back") == 0
    same_answers(load_model(tmp_path / "back")[0], exported[0])
    (release / "config.yaml").unlink()
    assert_refused(release, tmp_path, capsys, "has no config of its own: name it, --config conf/mooer_7b.yaml")


def assert_refused(release, tmp_path, capsys, told):
    assert convert("read", release, tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert "mooer_release.py: error: " in printed and told in printed
    assert not (tmp_path / "out").exists()


def test_rank_and_targets_are_what_the_release_says(release, exported, tmp_path):
    path = exported[1] / "config.yaml"
    path.write_text(path.read_text().replace("rank: 4", "rank: 64").replace("- q_proj", "- o_proj"))
    assert convert("read", release, tmp_path / "back", "--config", path) == 0
    same_answers(load_model(tmp_path / "back")[0], exported[0])


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda w: w.pop("encoder_projector.linear1.bias"), "missing adapter.linear1.bias"),
        (lambda w: w.update({"encoder_projector.linear3.bias": torch.ones(1)}), "unused adapter.linear3.bias"),
        (lambda w: w.update({"llm.norm": torch.ones(1)}), "no adapter's: llm.norm"),
        (lambda w: w.update({"encoder_projector.linear2.bias": torch.ones(3)}), "linear2.bias is (3,), expected"),
    ],
)
def test_adapter_keys_that_do_not_fit_are_named(release, tmp_path, capsys, spoil, word):
    weights = torch.load(release / "adapter_project.pt", weights_only=True)
    spoil(weights)
    torch.save(weights, release / "adapter_project.pt")
    assert_refused(release, tmp_path, capsys, word)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda w, key: w.pop(key), "missing {}"),
        (lambda w, key: w.update({key + "s": torch.ones(1)}), "unused {}s"),
        (lambda w, key: w.update({key: torch.ones(3)}), "{} is (3,), expected"),
    ],
)
def test_lora_keys_that_do_not_fit_are_named(release, tmp_path, capsys, spoil, word):
    path = release / "lora_weights" / "adapter_model.safetensors"
    weights = load_file(path)
    key = sorted(weights)[0]
    spoil(weights, key)
    torch.save(weights, path.with_suffix(".bin"))
    path.unlink()
    assert_refused(release, tmp_path, capsys, word.format(key))


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("adapter_project.pt", "cannot read the weights"),
        ("lora_weights/adapter_config.json", "cannot read"),
        ("lora_weights/adapter_model.safetensors", "holds no adapter_model.safetensors or adapter_model.bin"),
    ],
)
def test_a_file_that_is_missing_is_named(release, tmp_path, capsys, file, told):
    (release / file).unlink()
    assert_refused(release, tmp_path, capsys, told)


def test_what_mooers_code_cannot_run_is_not_written(make_model, export, tmp_path, capsys):
    model = make_model("posterior")
    export(model, tmp_path / "model")
    assert convert("write", tmp_path / "model", tmp_path / "out") == 2
    assert "adapter.handover=posterior" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_going_on_from_a_release_trains_its_lora(release, tmp_path):
    """The original merged the released LoRA into the frozen LLM, so that nothing but the adapter was trained."""
    assert convert("read", release, tmp_path / "back") == 0
    parts: Parts = read_parts(tmp_path / "back")
    model = build_from(parts, "release")
    for name, value in lora_weights(model.llm).items():
        assert torch.equal(value, parts.lora[name])
    base = {n: p.detach().clone() for n, p in model.llm.named_parameters() if ".lora_" not in n}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    batch = Batch(["a"], torch.randn(1, 9, 8), torch.tensor([9]), ["asr"], [[5, 9, 2]], [[]])
    total, _ = model.train()(batch)["ce"]
    total.backward()
    optimizer.step()
    changed = [n for n, p in lora_weights(model.llm).items() if not torch.equal(p, parts.lora[n])]
    assert len(changed) == len(parts.lora)
    assert all(torch.equal(p, base[n]) for n, p in model.llm.named_parameters() if n in base)


def test_a_frozen_llm_is_exported_without_lora(make_model, export, tmp_path):
    model = make_model("raw", rank=0)
    assert not any(p.requires_grad for p in model.llm.parameters())
    export(model, tmp_path / "model")
    assert not (tmp_path / "model" / "lora").exists()
    same_answers(load_model(tmp_path / "model")[0], model.eval())
    assert convert("write", tmp_path / "model", tmp_path / "out") == 0
    assert not (tmp_path / "out" / "lora_weights").exists()
    assert convert("read", tmp_path / "out", tmp_path / "back") == 0
    same_answers(load_model(tmp_path / "back")[0], model)


def test_a_paraformer_is_released_with_its_cmvn(make_model, export, tmp_path, write_paraformer):
    torch.manual_seed(0)
    cmvn = CMVN(torch.randn(560), torch.rand(560))
    encoder = ParaformerEncoder(cmvn, size=8, inner=16, layers=2, kernel=3).freeze()
    write_paraformer(tmp_path / "encoder", encoder)
    model = make_model("raw")
    model.config.encoder = EncoderConfig("paraformer", str(tmp_path / "encoder"))
    export(model, tmp_path / "model")
    assert convert("write", tmp_path / "model", tmp_path / "out") == 0
    again = ParaformerEncoder.load(tmp_path / "out" / "paraformer_encoder")
    speech = torch.randn(16_000).numpy() * 0.1
    for one, other in zip(encoder.encode([speech]), again.encode([speech]), strict=True):
        assert (one == other).all()
