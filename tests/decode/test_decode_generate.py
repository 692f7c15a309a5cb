"""Generation: an answer does not depend on the company it is decoded in, and it always ends."""

import math

import pytest
import torch

from mooer_tk.config import DecodeConfig
from mooer_tk.decode import ctc_prefix
from mooer_tk.decode.directory import make_batch
from mooer_tk.decode.generate import LengthCap, caps, generate

FRAMES = {"a": 5, "b": 60, "c": 33, "d": 18, "e": 47, "f": 2}
# A random model ends by chance: enough of a bias that some answers end by themselves and some by the cap.
SETTINGS = {"max_new_tokens": 16, "tokens_per_second": 5.0, "eos_bias": 9.0}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("raw").eval()


@pytest.fixture(scope="module")
def states():
    generator = torch.Generator().manual_seed(7)
    return {utt: 3 * torch.randn(n, 8, generator=generator).numpy() for utt, n in FRAMES.items()}


def decode(model, states, utts, config, task="asr", nbest=1):
    batch = make_batch(list(utts), [states[utt] for utt in utts], task)
    seconds = [0.02 * FRAMES[utt] for utt in utts]
    return dict(zip(utts, generate(model, batch, config, seconds=seconds, nbest=nbest), strict=True))


@pytest.mark.parametrize(("beam", "bias"), [(1, 9.5), (4, 9.0)])
def test_answers_and_scores_do_not_depend_on_the_company(model, states, beam, bias):
    config = DecodeConfig(beam=beam, **{**SETTINGS, "eos_bias": bias})
    together = decode(model, states, "abcdef", config, nbest=beam)
    apart = {}
    for utts in ("a", "fb", "d", "ec"):
        apart |= decode(model, states, utts, config, nbest=beam)
    for utt in FRAMES:
        assert [one.text for one in together[utt]] == [one.text for one in apart[utt]], utt
        assert [one.capped for one in together[utt]] == [one.capped for one in apart[utt]], utt
        assert [one.score for one in together[utt]] == pytest.approx([one.score for one in apart[utt]], abs=1e-3)
    # It is only a proof if the answers differ, and if they end in both ways.
    assert len({together[utt][0].text for utt in FRAMES}) >= 4
    assert {together[utt][0].capped for utt in FRAMES} == {True, False}


def test_greedy_answers_are_the_likeliest_tokens_one_after_the_other(model, states):
    config = DecodeConfig(beam=1, max_new_tokens=6, tokens_per_second=1.0, eos_bias=0.0)
    found = decode(model, states, "bc", config)
    for utt in "bc":
        inputs, _ = model.prefix(make_batch([utt], [states[utt]], "asr"))
        tokens, score = [], 0.0
        for _ in range(6):
            known = model.llm.get_input_embeddings()(torch.tensor([tokens], dtype=torch.long))
            with torch.no_grad():
                log_probs = model.llm(inputs_embeds=torch.cat([inputs, known], 1)).logits[0, -1].log_softmax(-1)
            tokens.append(int(log_probs.argmax()))
            score += log_probs.max().item()
        assert model.tokenizer.eos_token_id not in tokens
        assert found[utt][0].text == model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        # The seventh token is the forced eos, which costs nothing.
        assert found[utt][0].score == pytest.approx(score / 7, abs=1e-3)


def test_the_n_best_are_different_sorted_and_as_many_as_asked_for(model, states):
    config = DecodeConfig(beam=4, **SETTINGS)
    found = decode(model, states, "abcdef", config, nbest=3)
    for hypotheses in found.values():
        scores = [one.score for one in hypotheses]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert all(math.isfinite(score) and score > -1e3 for score in scores)
    assert sum(len({one.text for one in hypotheses}) == 3 for hypotheses in found.values()) >= 4
    one_best = decode(model, states, "abcdef", config)
    assert {utt: one[0].text for utt, one in one_best.items()} == {utt: one[0].text for utt, one in found.items()}
    # More than the beam cannot be had.
    assert len(decode(model, states, "a", config, nbest=9)["a"]) == 4


def test_a_wider_beam_finds_no_worse_answer(model, states):
    narrow, wide = (
        decode(model, states, "abcde", DecodeConfig(beam=beam, length_penalty=0.0, **SETTINGS)) for beam in (2, 6)
    )
    assert sum(wide[u][0].score for u in "abcde") >= sum(narrow[u][0].score for u in "abcde") - 1e-4


@pytest.mark.parametrize("beam", [1, 4])
def test_the_cap_ends_a_runaway_answer_by_its_own_length(model, states, beam):
    # Without a bias the random model never ends by itself.
    config = DecodeConfig(beam=beam, max_new_tokens=15, tokens_per_second=2.0, eos_bias=-50.0)
    found = decode(model, states, "abf", config)
    assert all(one[0].capped for one in found.values())
    for utt, (best,) in found.items():
        assert len(model.tokenizer(best.text).input_ids) <= round(10 + 2.0 * 0.02 * FRAMES[utt]) + 1


def test_an_answer_of_nothing_is_empty_text(model, states):
    found = decode(model, states, "ab", DecodeConfig(beam=1, eos_bias=1e4))
    assert [(best.text, best.capped) for (best,) in found.values()] == [("", False)] * 2


def test_the_task_reaches_the_model(model, states):
    config = DecodeConfig(beam=1, **SETTINGS)
    answers = [decode(model, states, "abcde", config, task=task) for task in ("asr", "ast", "asr_ast")]
    assert len({tuple(one[0].text for one in found.values()) for found in answers}) == 3


def test_caps_grow_with_the_speech_up_to_the_most():
    assert caps([0.0, 1.0, 2.5, 100.0], 12.0, 200) == [5, 17, 35, 200]


def test_the_cap_forces_eos_for_the_rows_whose_time_is_over_and_no_others():
    guard = LengthCap([2, 3], beam=2, eos=1)
    scores = torch.randn(4, 5)
    before = scores.clone()
    torch.testing.assert_close(guard(torch.zeros(4, 1), scores), before)
    after = guard(torch.zeros(4, 2), scores)
    assert after[:2].argmax(-1).tolist() == [1, 1] and torch.isinf(after[:2]).sum() == 8
    torch.testing.assert_close(after[2:], before[2:])
    assert guard(torch.zeros(4, 3), scores).argmax(-1).tolist() == [1] * 4


@pytest.mark.parametrize("beam", [1, 4])
def test_a_strong_ctc_head_decides_what_is_transcribed_and_nothing_else(make_model, states, beam, monkeypatch):
    """A random LLM talks nonsense: with CTC beside it a transcript is what the head heard, a translation is not."""
    model = make_model("raw", head=True).eval()
    # A random LLM's favourites are no help.
    monkeypatch.setattr(ctc_prefix, "CANDIDATES", 100)
    # A head that is sure of itself: its best prefix is its best path.
    model.head.log_scale.data.fill_(6.0)
    model.head.blank_bias.data.zero_()
    config = DecodeConfig(beam=beam, ctc_weight=1000.0, eos_bias=0.0, length_penalty=1.0, tokens_per_second=100.0)
    without = DecodeConfig(**{**vars(config), "ctc_weight": 0.0})
    found, alone = decode(model, states, "acd", config), decode(model, states, "acd", without)
    batch = make_batch(list("acd"), [states[utt] for utt in "acd"], "asr")
    heard = model.head.greedy(*model.adapter(batch.states, batch.lengths))
    for utt, ids in zip("acd", heard, strict=True):
        assert ids
        assert found[utt][0].text == model.tokenizer.decode(ids).strip() != alone[utt][0].text
    translated = decode(model, states, "acd", config, task="ast")
    assert translated == decode(model, states, "acd", without, task="ast")


def test_ctc_is_not_computed_for_translations(make_model, states, monkeypatch):
    """Prefix scores over all tokens and frames cost more than a step of the LLM, and a translation uses none."""
    model = make_model("posterior").eval()
    asked = []
    plain = model.ctc
    monkeypatch.setattr(model, "ctc", lambda batch: asked.append(batch.tasks) or plain(batch))
    config = DecodeConfig(beam=2, **{**SETTINGS, "ctc_weight": 0.3})
    for task in ("ast", "asr"):
        decode(model, states, "bc", config, task=task)
    assert asked == [["asr", "asr"]]
