"""BLEU and chrF are sacrebleu's own."""

import pytest
import sacrebleu

from mooer_tk.errors import UserError
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.score.translation import translation

NONE = get_normaliser("none")
REFS = {
    "s1": "The cat is sitting on the old mat.",
    "s2": "We shall meet again tomorrow, at noon, by the river.",
    "s3": "Nobody knows.",
}
HYPS = {
    "s3": "No one knows it.",
    "s1": "The cat is sitting on a mat.",
    "s2": "We will meet again tomorrow at noon by the river.",
}
ZH_REFS = {"a": "今天天气很好，我们去公园散步。", "b": "他昨天买了三本书。"}
ZH_HYPS = {"a": "今天天气好，我们去公园走走。", "b": "他昨天买了三本新书。"}


@pytest.mark.parametrize(
    ("refs", "hyps", "tokeniser"),
    [(REFS, HYPS, "13a"), (ZH_REFS, ZH_HYPS, "zh"), (ZH_REFS, ZH_HYPS, "char")],
)
def test_scores_and_signature_equal_sacrebleu(refs, hyps, tokeniser):
    result = translation(refs, hyps, normaliser=NONE, tokeniser=tokeniser)
    hypotheses, references = [hyps[utt] for utt in refs], [list(refs.values())]
    bleu = sacrebleu.BLEU(tokenize=tokeniser)
    chrf = sacrebleu.CHRF()
    assert result.bleu.score == pytest.approx(bleu.corpus_score(hypotheses, references).score)
    assert result.chrf.score == pytest.approx(chrf.corpus_score(hypotheses, references).score)
    assert 0 < result.bleu.score < 100
    assert result.bleu.signature == str(bleu.get_signature())
    assert f"tok:{tokeniser}" in result.bleu.signature


def test_sentence_scores_equal_sacrebleu_with_effective_order():
    result = translation(REFS, HYPS, normaliser=NONE)
    expected = [sacrebleu.sentence_bleu(HYPS[utt], [REFS[utt]]).score for utt in REFS]
    assert result.bleu.sentences == pytest.approx(expected)


def test_summed_sentence_statistics_give_the_score_of_a_repeated_sentence():
    statistics = translation(REFS, HYPS, normaliser=NONE).bleu.statistics
    drawn = [0, 0, 1]
    resampled = statistics.score(statistics.counts[drawn].sum(axis=0, keepdims=True))[0]
    ids = [statistics.ids[i] for i in drawn]
    expected = sacrebleu.corpus_bleu([HYPS[utt] for utt in ids], [[REFS[utt] for utt in ids]]).score
    assert resampled == pytest.approx(expected)


def test_case_counts_unless_the_normaliser_removes_it():
    refs = {"a": "the quick brown fox jumps"}
    hyps = {"a": "The Quick Brown Fox Jumps"}
    assert translation(refs, hyps, normaliser=NONE).bleu.score < 5
    assert translation(refs, hyps, normaliser=get_normaliser("target-en")).bleu.score == pytest.approx(100)


def test_missing_translation_is_named():
    with pytest.raises(UserError, match="s2"):
        translation(REFS, {"s1": "a", "s3": "b"}, normaliser=NONE)
