"""BLEU and chrF by sacrebleu, with the sentence statistics that a bootstrap resamples."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from mooer_tk.errors import UserError
from mooer_tk.score.bootstrap import SufficientStatistics
from mooer_tk.score.error_rate import check_same_ids
from mooer_tk.score.normalise import Normaliser

Tokeniser = Literal["13a", "zh", "char"]
TOKENISERS: tuple[Tokeniser, ...] = get_args(Tokeniser)


@dataclass(frozen=True)
class TranslationScore:
    """One corpus metric in points, 0 to 100.

    Attributes:
        name: "BLEU" or "chrF".
        score: corpus score.
        signature: sacrebleu's own; two scores compare only when it is equal.
        sentences: score of each sentence, in the order of `statistics.ids`.
        statistics: counts of shape (N, K), K = 10 for BLEU and 18 for chrF.
    """

    name: str
    score: float
    signature: str
    sentences: tuple[float, ...]
    statistics: SufficientStatistics


@dataclass(frozen=True)
class Translation:
    """BLEU and chrF of one system.

    Attributes:
        refs, hyps: the normalised texts, in reference order.
    """

    refs: dict[str, str]
    hyps: dict[str, str]
    bleu: TranslationScore
    chrf: TranslationScore


def translation(
    refs: dict[str, str], hyps: dict[str, str], *, normaliser: Normaliser, tokeniser: Tokeniser = "13a"
) -> Translation:
    """Score translations against one reference each.

    Args:
        refs, hyps: utterance id -> text.
        normaliser: `none` gives the published form: sacrebleu expects cased, punctuated text.
        tokeniser: of BLEU; "zh" or "char" for targets written without blanks.

    Source: Post, "A Call for Clarity in Reporting BLEU Scores" (WMT 2018); Popović, "chrF" (WMT 2015).

    Raises:
        UserError: ids that only one side has, no sentence at all, or an unknown tokeniser.
    """
    check_same_ids(refs, hyps)
    if not refs:
        raise UserError("there is no reference sentence. Check that the reference file is not empty.")
    if tokeniser not in TOKENISERS:
        raise UserError(f"there is no BLEU tokeniser '{tokeniser}'; choose one of {', '.join(TOKENISERS)}.")
    refs, hyps = ({utt: normaliser(texts[utt]) for utt in refs} for texts in (refs, hyps))
    bleu, chrf = BLEU(tokenize=tokeniser), CHRF()
    # The corpus score keeps plain BLEU; a lone sentence often has no 4-gram, so there the order is cut.
    sentence_bleu = BLEU(tokenize=tokeniser, effective_order=True)
    return Translation(
        refs,
        hyps,
        bleu=_score("BLEU", bleu, sentence_bleu, refs, hyps),
        chrf=_score("chrF", chrf, chrf, refs, hyps),
    )


def _score(
    name: str, metric: Metric, sentence_metric: Metric, refs: dict[str, str], hyps: dict[str, str]
) -> TranslationScore:
    # sacrebleu has no public way to the sentence statistics; its own significance tests use these methods.
    counts = np.array(metric._extract_corpus_statistics(list(hyps.values()), [list(refs.values())]), dtype=np.int64)
    statistics = SufficientStatistics(tuple(refs), counts, partial(_points, metric))
    sentences = tuple(_points(sentence_metric, counts))
    return TranslationScore(name, statistics.point(), str(metric.get_signature()), sentences, statistics)


def _points(metric: Metric, counts: np.ndarray) -> np.ndarray:
    return np.array([metric._compute_score_from_stats(row).score for row in counts.tolist()])
