"""The prompt: nothing that a transcript says can move the answer's borders, and both tasks come apart again."""

import pytest
from transformers import AutoTokenizer

from mooer_tk.errors import UserError
from mooer_tk.llm.prompt import PROMPTS, Prompt, named_prompt

# Words of the template, of the tokeniser, and of other templates.
HOSTILE = [
    "the assistant said <|im_end|> and went on",
    "<|im_start|>assistant",
    "assistant\n",
    "<speech>",
    "<|endoftext|><|im_end|>",
    "{instruction}",
    "ünïcødé 音声 шум",
]


@pytest.fixture(scope="module")
def tokenizer(smollm):
    return AutoTokenizer.from_pretrained(smollm)


@pytest.mark.parametrize("text", HOSTILE)
def test_an_answer_holds_eos_once_at_its_end_and_no_other_special_token(tokenizer, text):
    ids = Prompt().answer([text], tokenizer)
    assert ids[-1] == tokenizer.eos_token_id
    assert not set(ids[:-1]) & set(tokenizer.all_special_ids)
    # And nothing is lost by it.
    assert tokenizer.decode(ids[:-1]) == text


def test_a_long_answer_is_never_cut(tokenizer):
    text = " ".join(f"word{i}" for i in range(3000))
    ids = Prompt().answer([text], tokenizer)
    assert tokenizer.decode(ids[:-1]) == text and ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("task", ["asr", "ast", "asr_ast"])
def test_what_stands_before_the_answer_is_the_template_with_the_tasks_instruction(tokenizer, task):
    prompt = Prompt()
    before, after = prompt.around(task, tokenizer)
    assert before == []
    expected = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": prompt.instructions[task]},
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert tokenizer.decode(after) == expected
    assert after.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


def test_speech_may_stand_inside_the_template(tokenizer):
    prompt = Prompt(template="<|im_start|>user\n{instruction}<speech><|im_end|>\n", instructions={"asr": "Write: "})
    before, after = prompt.around("asr", tokenizer)
    assert tokenizer.decode(before) == "<|im_start|>user\nWrite: "
    assert tokenizer.decode(after) == "<|im_end|>\n"


def test_both_tasks_are_joined_by_a_newline_and_come_apart_again(tokenizer):
    prompt = Prompt()
    ids = prompt.answer(["hola a todos", "hello, all: of you"], tokenizer)
    # The published joiner was eos itself, so that decoding stopped after the transcript.
    assert ids.count(tokenizer.eos_token_id) == 1
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "hola a todos\nhello, all: of you"
    assert prompt.parts(text, "asr_ast") == {"asr": "hola a todos", "ast": "hello, all: of you"}


def test_a_leading_blank_gives_the_first_word_the_tokens_it_has_elsewhere(tokenizer):
    """The CTC head knows words with a blank before them; joint search needs the same tokens from the LLM."""
    prompt = named_prompt("chatml_lead")
    ids = prompt.answer(["wonderful extensions", "x"], tokenizer)
    later = tokenizer.encode("a wonderful extensions", add_special_tokens=False)[1:]
    assert ids[: len(later)] == later
    assert prompt.parts(tokenizer.decode(ids[:-1]), "asr_ast") == {"asr": "wonderful extensions", "ast": "x"}


@pytest.mark.parametrize(
    ("text", "task", "parts"),
    [
        (" hello \n", "asr", {"asr": "hello"}),
        (" hello \n", "ast", {"ast": "hello"}),
        ("only a transcript", "asr_ast", {"asr": "only a transcript", "ast": ""}),
        ("", "asr_ast", {"asr": "", "ast": ""}),
        ("one\ntwo\nthree", "asr_ast", {"asr": "one", "ast": "two\nthree"}),
    ],
)
def test_answers_that_are_not_as_they_should_be_still_come_apart(text, task, parts):
    assert Prompt().parts(text, task) == parts


def test_a_saved_prompt_is_the_same_prompt(tmp_path):
    prompt = Prompt(template="a<speech>{instruction}ü", instructions={"asr": "Schreib! "}, joiner=" | ")
    prompt.save(tmp_path / "prompt.json")
    assert Prompt.load(tmp_path / "prompt.json") == prompt


def test_missing_broken_and_foreign_prompt_files_are_user_errors(tmp_path):
    path = tmp_path / "prompt.json"
    with pytest.raises(UserError, match="stage 6"):
        Prompt.load(path)
    for text in ('{"template": ', '{"templat": "<speech>{instruction}"}', "[1]", "3"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"prompt\.json"):
            Prompt.load(path)


@pytest.mark.parametrize("template", ["{instruction}", "<speech>", "<speech>{instruction}<speech>", ""])
def test_a_template_without_exactly_one_slot_each_is_refused(template):
    with pytest.raises(UserError, match="needs one <speech>"):
        Prompt(template=template)


def test_unknown_tasks_and_prompts_are_user_errors_that_name_the_nearest(tokenizer):
    with pytest.raises(UserError, match=r"'asr_as'.*'asr_ast'"):
        Prompt().around("asr_as", tokenizer)
    with pytest.raises(UserError, match=r"'chatlm'.*'chatml'"):
        named_prompt("chatlm")
    assert named_prompt("chatml") is PROMPTS["chatml"]
