"""Configs: what is mistyped is refused with a hint, what is written is what is read."""

import pytest

from mooer_tk.bin.main import main
from mooer_tk.config import Config, dump, load_config
from mooer_tk.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("trian: {steps: 3}", "'trian'", "'train'"),
        ("train: {optim: {learning: 1}}", "'train.optim.learning'", "known:.*lr"),
        ("llm: {lora: {rnak: 4}}", "'llm.lora.rnak'", "'rank'"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_one(write, text, wrong, right):
    with pytest.raises(UserError, match=f"{wrong}.*{right}"):
        load_config(write(text))


def test_the_learning_rate_may_be_written_as_people_write_it(write):
    # YAML 1.1 reads 1e-4 as text; 1.0e-4 and 1 are other spellings of a number.
    assert load_config(write("train: {optim: {lr: 1e-4}}")).train.optim.lr == 1e-4
    assert load_config(write("train: {optim: {lr: 1}}")).train.optim.lr == 1.0
    assert load_config(None, ["train.optim.lr=3e-5"]).train.optim.lr == 3e-5
    assert load_config(None, ["train.optim.betas=[0.9, 95e-2]"]).train.optim.betas == [0.9, 0.95]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=many", "'train.steps' must be of type int, found 'many'"),
        ("train.steps=1.5", "'train.steps' must be of type int"),
        ("train.steps=true", "'train.steps' must be of type int"),
        ("train.optim.lr=fast", "'train.optim.lr' must be of type float"),
        ("train.optim.lr=true", "'train.optim.lr' must be of type float"),
        ("llm.lora.targets=q_proj", "'llm.lora.targets' must be of type list"),
        ("llm.lora.targets=[q_proj, 3]", "'llm.lora.targets' must be of type str, found 3"),
        ("encoder.model=123", "'encoder.model' must be of type str"),
        ("train=5", "'train' must be a section"),
        ("train.steps.more=5", "unknown key|must be of type|a value, not a section"),
        ("train.steps", "not of the form"),
        ("train.steps=[1", "train.steps=\\[1"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_place(override, message):
    with pytest.raises(UserError, match=message):
        load_config(None, [override])


def test_an_override_wins_over_the_file_and_leaves_the_rest(write):
    path = write("train: {steps: 7, seed: 1}\nllm: {lora: {rank: 4}}\n")
    config = load_config(path, ["train.steps=9", "llm.lora.dropout=0.2", "adapter.handover=raw"])
    assert (config.train.steps, config.train.seed) == (9, 1)
    assert (config.llm.lora.rank, config.llm.lora.dropout) == (4, 0.2)
    assert config.adapter.handover == "raw"
    assert config.warm_start.steps == Config().warm_start.steps


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "train: [1, 2]"])
def test_a_file_that_is_no_mapping_is_a_user_error_with_and_without_overrides(write, text):
    for overrides in ([], ["train.steps=3"]):
        with pytest.raises(UserError):
            load_config(write(text), overrides)


def test_what_is_dumped_loads_as_the_same_config(write):
    config = load_config(None, ["train.optim.lr=1e-7", "llm.lora.targets=[q_proj]", "decode.eos_bias=-0.5"])
    again = load_config(write(dump(config)))
    assert again == config
    assert again.train.optim.lr == 1e-7


def test_missing_and_broken_files_are_user_errors(write, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="no valid YAML"):
        load_config(write("train: {steps: 3"))


def test_the_command_shows_values_and_refuses_unknown_keys(write, capsys):
    path = write("train: {steps: 7}")
    assert main(["config", str(path), "--set", "llm.lora.rank=5", "--get", "train.steps", "llm.lora.rank"]) == 0
    assert capsys.readouterr().out == "7 5\n"
    assert main(["config", str(path), "--get", "train.step"]) == 2
    assert main(["config", str(path), "--set", "train.stesp=5"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err
