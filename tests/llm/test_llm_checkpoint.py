"""Exported models: what comes back says the same, and weights that do not fit are refused with their names."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mooer_tk.decode.directory import make_batch
from mooer_tk.decode.generate import generate
from mooer_tk.errors import UserError
from mooer_tk.llm.checkpoint import load_adapter, load_model, load_strictly, tokens_in_use
from mooer_tk.llm.prompt import Prompt


@pytest.fixture
def exported(make_model, export, tmp_path):
    """A model whose every trained part matters, and its directory."""
    model = make_model("posterior")
    model.adapter.set_statistics(torch.full((8,), 0.5), torch.full((8,), 2.0))
    model.prompt = Prompt(instructions={"asr": "Write it down. ", "ast": "Say it in English. "})
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.1)
        elif parameter.requires_grad and name.startswith("head."):
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.head.blank_bias.data.fill_(0.0)
    export(model, tmp_path / "exp" / "model", git="abc")
    return model.eval(), tmp_path / "exp" / "model"


def answers(model, beam=2):
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(frames, 8, generator=generator).numpy() * 3 for frames in (20, 5, 33)]
    config = type(model.config.decode)(beam=beam, max_new_tokens=6)
    found = generate(model, make_batch(["a", "b", "c"], states, "asr"), config, seconds=[1.0, 1.0, 1.0])
    return [(best.text, round(best.score, 3)) for (best,) in found]


def test_an_exported_model_says_what_the_trained_one_says(exported):
    model, folder = exported
    said = answers(model)
    assert all(text for text, _ in said) and len(set(said)) == 3
    for place in (folder, folder.parent):
        again, config = load_model(place)
        again.config = config
        assert answers(again) == said
    assert again.prompt == model.prompt
    assert not any(module.training for module in again.modules())
    # Each part is needed for it: without LoRA, or with another adapter, the answers differ.
    with model.llm.disable_adapter():
        assert answers(model) != said


def change(path, edit):
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


ADAPTER = "adapter.linear1.weight"
FAULTS = {
    "missing": (lambda w: w.pop(ADAPTER), "missing adapter.linear1.weight"),
    "unused": (lambda w: w.update(extra=torch.ones(2)), "unused extra"),
    "misshaped": (lambda w: w.update({ADAPTER: torch.ones(3, 2)}), r"adapter.linear1.weight is \(3, 2\), expected"),
    "no head": (lambda w: [w.pop(k) for k in list(w) if k.startswith("head.")], "stage 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_adapter_weights_that_do_not_fit_are_named(exported, fault):
    edit, message = FAULTS[fault]
    change(exported[1] / "adapter.safetensors", edit)
    with pytest.raises(UserError, match=message):
        load_model(exported[1])


LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
OTHER = LORA.replace("q_proj", "w_proj")
LORA_FAULTS = {
    "missing": (lambda w: w.pop(LORA), f"missing {LORA}"),
    "unused": (lambda w: w.update({OTHER: torch.ones(2)}), f"unused {OTHER}"),
    "misshaped": (lambda w: w.update({LORA: torch.ones(3, 2)}), rf"{LORA} is \(3, 2\), expected \(4, 64\)"),
}


@pytest.mark.parametrize("fault", LORA_FAULTS)
def test_lora_weights_that_do_not_fit_are_named(exported, fault):
    edit, message = LORA_FAULTS[fault]
    change(exported[1] / "lora" / "adapter_model.safetensors", edit)
    with pytest.raises(UserError, match=message):
        load_model(exported[1])


@pytest.mark.parametrize(
    "name", ["info.json", "config.yaml", "prompt.json", "adapter.safetensors", "lora/adapter_model.safetensors"]
)
def test_every_file_of_a_model_is_needed(exported, name):
    (exported[1] / name).unlink()
    with pytest.raises(UserError):
        load_model(exported[1])


@pytest.mark.parametrize("name", ["adapter.safetensors", "lora/adapter_model.safetensors"])
def test_truncated_weights_are_user_errors(exported, name):
    path = exported[1] / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f"cannot read the .*{path.parent}"):
        load_model(exported[1])


def test_a_model_of_another_adapter_does_not_fit_the_config(exported):
    path = exported[1] / "config.yaml"
    path.write_text(path.read_text().replace("stack: 2", "stack: 3"))
    with pytest.raises(UserError, match="linear1"):
        load_model(exported[1])


def test_a_path_that_is_no_model_is_a_user_error_not_a_default(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        load_adapter(tmp_path / "nowhere.safetensors")


def test_all_faults_of_weights_are_listed_at_once():
    module = torch.nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"missing bias; unused more; weight is \(2, 2\), expected \(3, 2\)"):
        load_strictly(module, {"weight": torch.ones(2, 2), "more": torch.ones(1)}, "x")


def test_adapter_and_head_travel_in_one_file(make_model, export, tmp_path):
    model = make_model("posterior")
    export(model, tmp_path / "x")
    weights = load_adapter(tmp_path / "x" / "adapter.safetensors")
    assert weights["head.tokens"].tolist() == list(range(300, 340))
    torch.testing.assert_close(weights["adapter.linear1.weight"], model.adapter.linear1.weight, rtol=0, atol=0)


def test_the_exported_directory_says_where_the_model_comes_from(exported):
    info = json.loads((exported[1] / "info.json").read_text())
    assert (info["dim"], info["git"]) == (8, "abc") and "mooer_tk" in info
    # LoRA only: the LLM's own weights are not copied into every experiment.
    assert all(".lora_" in key for key in load_file(exported[1] / "lora" / "adapter_model.safetensors"))


def test_tokens_in_use_are_each_once_and_sorted():
    assert tokens_in_use([[5, 3, 3], [], [9, 5]]).tolist() == [3, 5, 9]
