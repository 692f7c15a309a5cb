"""The plain loop that the toolkit is measured against: the same loss in another way, and it learns."""

import numpy as np
import pytest
import torch

from benchmarks.plain_loop import Habits, PlainLoop
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.train.batches import Reader
from mooer_tk.train.examples import Example

TEXTS = {"a": "please hold while i try", "b": "yes", "c": "one two three"}
FRAMES = {"a": 31, "b": 4, "c": 17}


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def examples(tmp_path, write_states, model):
    rng = np.random.default_rng(0)
    write_states(tmp_path / "states", {utt: rng.standard_normal((n, 8)) for utt, n in FRAMES.items()})
    shards = ShardReader(tmp_path / "states")
    answers = {utt: model.prompt.answer([text], model.tokenizer) for utt, text in TEXTS.items()}
    return [Example(utt, "asr", shards, answers[utt], [], FRAMES[utt], 1.0) for utt in TEXTS]


def loop_over(model, examples, **habits):
    return PlainLoop(model, examples, {}, None, Habits(encodes=False, **habits), rate=1e-2)


def test_the_loss_over_all_logits_is_the_models_own(model, examples):
    model.eval()
    for some in (examples, examples[:1], examples[1:]):
        batch = Reader(examples).read(some)
        expected, tokens = model(batch)["ce"]
        loss, count = loop_over(model, examples)._all_logits(batch)
        assert count == tokens == sum(len(example.answer) for example in some)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("habits", [{}, {"all_logits": False}, {"all_logits": False, "pack": 100}])
def test_every_variant_learns_and_counts_what_it_sees(model, examples, habits):
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    steps = loop_over(model, examples, **habits).steps(seed=1)
    batch = Reader(examples).read(examples)
    with torch.no_grad():
        before = float(model(batch)["ce"][0])
    for _ in range(12):
        tokens, positions, padded = next(steps)
        assert tokens == sum(len(example.answer) for example in examples)
        assert sum(FRAMES.values()) // 2 < positions <= padded
    with torch.no_grad():
        assert float(model(batch)["ce"][0]) < 0.9 * before
    assert any(not torch.equal(p, trained[name]) for name, p in model.named_parameters() if name in trained)
