"""Examples and batches: nothing is lost silently, every pass sees what it should, and padding is small."""

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mooer_tk.config import DataConfig
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.errors import UserError
from mooer_tk.llm.prompt import Prompt
from mooer_tk.train.batches import Reader, plan_epoch
from mooer_tk.train.examples import Example, Source, load_examples, state_statistics


@pytest.fixture(scope="module")
def tokenizer(smollm):
    return AutoTokenizer.from_pretrained(smollm)


@pytest.fixture
def corpus(tmp_path, write_states):
    rng = np.random.default_rng(0)
    # 20 ms a state: "short" lasts 0.1 s, "long" 24 s.
    lengths = {"a": 50, "b": 100, "c": 75, "short": 5, "long": 1200}
    write_states(tmp_path / "states", {utt: rng.standard_normal((n, 4)) for utt, n in lengths.items()})
    words = {"a": "Hola, a [ruido] TODOS.", "b": "Adiós", "short": "sí", "long": "muy largo", "unspoken": "x"}
    write_table(tmp_path / "text", words)
    write_table(tmp_path / "text.en", {"a": "Hello, all!", "c": "Thanks.", "short": "Yes", "long": "Very long"})
    return tmp_path


def load(corpus, tokenizer, *lines, **more):
    sources = [Source.parse(line.replace("DIR", str(corpus))) for line in lines]
    return load_examples(sources, DataConfig(), Prompt(), tokenizer, corpus / "report.tsv", **more)


def report(corpus):
    return dict(line.split("\t") for line in (corpus / "report.tsv").read_text().splitlines())


def test_transcripts_are_normalised_translations_keep_their_form(corpus, tokenizer):
    (a, b), (x, y) = (
        load(corpus, tokenizer, "asr:DIR/states:DIR/text", max_skip=1),
        load(corpus, tokenizer, "ast:DIR/states:DIR/text.en", max_skip=1),
    )
    assert [tokenizer.decode(one.answer[:-1]) for one in (a, b)] == ["hola a todos", "adiós"]
    assert [tokenizer.decode(one.answer[:-1]) for one in (x, y)] == ["Hello, all!", "Thanks."]
    assert tokenizer.decode(a.transcript) == " hola a todos"
    assert x.transcript == []
    assert all(one.answer[-1] == tokenizer.eos_token_id for one in (a, b, x, y))


def test_utterances_without_a_translation_are_counted_in_the_report(corpus, tokenizer, capsys):
    examples = load(corpus, tokenizer, "ast:DIR/states:DIR/text+DIR/text.en", max_skip=1)
    assert [one.utt for one in examples] == ["a"]
    found = report(corpus)
    assert found["ast:b"] == "no translation" and found["ast:c"] == "no transcript"
    assert found["ast:short"].startswith("duration: 0.10 s") and found["ast:long"].startswith("duration: 24.00 s")
    assert len(found) == 4
    assert "1 of 5 utterances kept, 4 skipped" in capsys.readouterr().err
    (example,) = examples
    assert tokenizer.decode(example.answer[:-1]) == "Hello, all!"
    assert tokenizer.decode(example.transcript) == " hola a todos"


def test_both_tasks_in_one_answer_stand_on_two_lines(corpus, tokenizer):
    (example,) = load(corpus, tokenizer, "asr_ast:DIR/states:DIR/text+DIR/text.en", max_skip=1)
    assert tokenizer.decode(example.answer[:-1]) == "hola a todos\nHello, all!"
    assert example.answer.count(tokenizer.eos_token_id) == 1


def test_an_instruction_source_draws_one_task_for_each_utterance_of_a_pass(corpus, tokenizer):
    """The original's third draw, asr_ast, had no prompt and failed."""
    write_table(corpus / "text", {"a": "hola", "b": "adios", "c": "gracias"})
    write_table(corpus / "text.en", {"a": "hello", "b": "bye", "c": "thanks"})
    examples = load(corpus, tokenizer, "instruction:DIR/states:DIR/text+DIR/text.en", max_skip=1)
    seen = Counter()
    for epoch in range(300):
        plan = plan_epoch(examples, DataConfig(), stack=2, prompt=5, seed=1, epoch=epoch)
        drawn = [examples[index] for batch in plan for index in batch]
        assert sorted(one.utt for one in drawn) == ["a", "b", "c"]
        seen.update((one.utt, one.task) for one in drawn)
    assert len(seen) == 9
    assert all(70 < times < 130 for times in seen.values())
    texts = {(one.utt, one.task): tokenizer.decode(one.answer[:-1]) for one in examples}
    assert texts["a", "asr_ast"] == "hola\nhello" and texts["a", "ast"] == "hello" and texts["a", "asr"] == "hola"


def test_too_many_skips_stop_the_stage_and_name_the_report(corpus, tokenizer):
    with pytest.raises(UserError, match=r"report\.tsv"):
        load(corpus, tokenizer, "asr:DIR/states:DIR/text", max_skip=0.5)
    assert len(report(corpus)) == 3


def test_nothing_left_and_missing_tables_are_user_errors(corpus, tokenizer):
    write_table(corpus / "empty", {})
    with pytest.raises(UserError, match="nothing to train on"):
        load(corpus, tokenizer, "asr:DIR/states:DIR/empty", max_skip=1)
    with pytest.raises(UserError, match="nowhere"):
        load(corpus, tokenizer, "asr:DIR/states:DIR/nowhere")
    with pytest.raises(UserError, match="stage 3"):
        load(corpus, tokenizer, "asr:DIR/nowhere:DIR/text")


@pytest.mark.parametrize(
    "line", ["asr:x", "asl:x:y", "asr:x:y+z", "asr_ast:x:y", "asr:x:y:often", "asr:x:y:1:2", "", "ast:x:y+z+w"]
)
def test_a_source_of_the_wrong_form_is_a_user_error(line):
    with pytest.raises(UserError):
        Source.parse(line)


def test_a_source_line_is_read_as_it_is_meant():
    source = Source.parse("asr_ast:dump/es:data/text+data/text.en:0.5")
    assert (source.task, str(source.states), source.weight) == ("asr_ast", "dump/es", 0.5)
    assert [str(path) for path in source.tables] == ["data/text", "data/text.en"]
    assert Source.parse("asr:a:b").weight == 1.0


@pytest.fixture
def many():
    """2,000 utterances whose lengths are spread as speech is."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(5.0, 0.7, 2000), 20, 1000).astype(int)
    weights = [1.0, 2.0, 0.0]
    return [Example(str(i), "asr", None, [0] * (n // 30), [], int(n), weights[i % 3]) for i, n in enumerate(lengths)]


PLAN = {"stack": 5, "prompt": 30, "seed": 7}


def test_a_pass_holds_every_utterance_exactly_as_often_as_its_weight_says(many):
    for epoch in range(3):
        plan = plan_epoch(many, DataConfig(), **PLAN, epoch=epoch)
        counts = Counter(index for batch in plan for index in batch)
        assert all(counts[index] == example.weight for index, example in enumerate(many))


def test_a_fraction_is_its_share_of_the_passes(many):
    for example in many:
        example.weight = 0.25
    passes = [plan_epoch(many, DataConfig(), **PLAN, epoch=epoch) for epoch in range(20)]
    counts = Counter(index for plan in passes for batch in plan for index in batch)
    assert sum(counts.values()) == pytest.approx(0.25 * 20 * len(many), rel=0.03)
    assert all(max(Counter(i for batch in plan for i in batch).values()) == 1 for plan in passes)


def test_a_plan_is_a_function_of_seed_and_epoch_alone(many):
    plan = plan_epoch(many, DataConfig(), **PLAN, epoch=3)
    torch.manual_seed(99)
    np.random.seed(99)
    assert plan_epoch(many, DataConfig(), **PLAN, epoch=3) == plan
    assert plan_epoch(many, DataConfig(), **PLAN, epoch=4) != plan
    assert plan_epoch(many, DataConfig(), **{**PLAN, "seed": 8}, epoch=3) != plan


def test_batches_keep_the_budget_of_padded_positions_and_waste_little_of_it(many):
    config = DataConfig(batch_positions=1500, batch_utts=16)
    padded = useful = 0
    for batch in plan_epoch(many, config, **PLAN, epoch=0):
        sizes = [many[i].positions(5, 30) for i in batch]
        assert len(batch) <= 16
        assert max(sizes) * len(batch) <= 1500 or len(batch) == 1
        padded, useful = padded + max(sizes) * len(sizes), useful + sum(sizes)
    assert (padded - useful) / padded < 0.05


def test_short_and_long_batches_are_mixed_and_companies_change(many):
    first, second = (plan_epoch(many, DataConfig(), **PLAN, epoch=epoch) for epoch in (0, 1))
    longest = [max(many[i].frames for i in batch) for batch in first]
    halves = np.mean(longest[: len(longest) // 2]), np.mean(longest[len(longest) // 2 :])
    assert halves[0] == pytest.approx(halves[1], rel=0.3)
    assert not {frozenset(b) for b in first if len(b) > 2} & {frozenset(b) for b in second if len(b) > 2}


def test_an_utterance_longer_than_the_budget_is_a_batch_of_its_own(many):
    many[0].frames = 50_000
    plan = plan_epoch(many, DataConfig(batch_positions=1000), **PLAN, epoch=0)
    assert [0] in plan


def test_a_batch_holds_the_states_that_were_cached(corpus, tokenizer):
    examples = load(corpus, tokenizer, "asr:DIR/states:DIR/text", max_skip=1)
    for example in examples:
        example.classes = [len(example.transcript)]
    batch = Reader(examples).read(examples[:2], 0)
    assert batch.utts == ["a", "b"] and batch.lengths.tolist() == [50, 100] and batch.tasks == ["asr", "asr"]
    for row, length, example in zip(batch.states, batch.lengths.tolist(), examples, strict=True):
        np.testing.assert_array_equal(row[:length].numpy(), example.shards[example.utt].astype(np.float32))
        assert (row[length:] == 0).all()
    assert batch.targets == [[len(example.transcript)] for example in examples]
    examples = load(corpus, tokenizer, "asr:DIR/states:DIR/text", max_skip=1)
    assert Reader(examples).read(examples[1:2], 0).targets == [[]]


def test_statistics_are_those_of_all_states(corpus, tokenizer):
    examples = load(corpus, tokenizer, "asr:DIR/states:DIR/text", max_skip=1)
    states = np.concatenate([one.shards[one.utt] for one in examples]).astype(np.float64)
    mean, std = state_statistics(examples, lambda example: torch.from_numpy(example.shards[example.utt].copy()))
    np.testing.assert_allclose(mean, states.mean(0), atol=1e-5)
    np.testing.assert_allclose(std, states.std(0), atol=1e-5)
