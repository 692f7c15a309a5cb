"""Word and character error rate over utterance tables, with per-utterance counts and alignments."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import jiwer
import numpy as np

from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError
from mooer_tk.score.bootstrap import SufficientStatistics
from mooer_tk.score.normalise import Normaliser

Unit = Literal["word", "character"]


@dataclass(frozen=True)
class UttCounts:
    """Alignment counts of one utterance in the unit of the metric (words, or characters without blanks).

    Attributes:
        ref, hyp: the normalised texts.
        ref_length: units of the reference, at least 1.
        ref_words: blank-separated words of the reference, whatever the unit.
        alignment: reference over hypothesis, marked S, D and I.
    """

    utt: str
    ref: str
    hyp: str
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    ref_length: int
    ref_words: int
    alignment: str

    @property
    def errors(self) -> int:
        """Substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors in percent of the reference length."""
        return 100.0 * self.errors / self.ref_length


@dataclass(frozen=True)
class ErrorRate:
    """Error rate of a set of utterances.

    Attributes:
        unit: what is counted.
        normaliser: id of the normaliser of both sides.
        utts: one entry for each utterance whose normalised reference is not empty, in reference order.
        skipped: ids whose normalised reference is empty; they take no part in the rate.
        words_on_empty: hypothesis units on skipped utterances: insertions that the rate does not hold.
    """

    unit: Unit
    normaliser: str
    utts: tuple[UttCounts, ...]
    skipped: tuple[str, ...] = ()
    words_on_empty: int = 0

    @cached_property
    def counts(self) -> dict[str, int]:
        """Totals: hits, substitutions, deletions, insertions, ref_length."""
        names = ("hits", "substitutions", "deletions", "insertions", "ref_length")
        return {name: sum(getattr(utt, name) for utt in self.utts) for name in names}

    @property
    def errors(self) -> int:
        """Substitutions + deletions + insertions over all utterances."""
        return sum(utt.errors for utt in self.utts)

    @property
    def rate(self) -> float:
        """Errors in percent of all reference units; above 100 when insertions abound."""
        return 100.0 * self.errors / self.counts["ref_length"]

    @property
    def signature(self) -> str:
        """What must be equal for two rates to be comparable, in the manner of sacrebleu."""
        return f"unit:{self.unit}|norm:{self.normaliser}|jiwer:{version('jiwer')}"

    def subset(self, min_words: int) -> Self:
        """The part whose normalised reference has at least `min_words` words; aligned utterances are reused.

        Raises:
            UserError: no reference is that long.
        """
        kept = tuple(utt for utt in self.utts if utt.ref_words >= min_words)
        if not kept:
            raise UserError(f"no reference has {min_words} words or more. Lower --subset-min-words, or give 0.")
        return replace(self, utts=kept, skipped=(), words_on_empty=0)

    def statistics(self) -> SufficientStatistics:
        """Counts of shape (N, 2): errors and reference length of each utterance."""
        counts = np.array([(utt.errors, utt.ref_length) for utt in self.utts], dtype=np.int64)
        return SufficientStatistics(tuple(utt.utt for utt in self.utts), counts, _ratio)


def error_rate(refs: dict[str, str], hyps: dict[str, str], *, unit: Unit, normaliser: Normaliser) -> ErrorRate:
    """Normalise, align and count.

    Args:
        refs, hyps: utterance id -> text; a hypothesis may be empty.
        unit: "word" for WER, "character" for CER (blanks are not counted).

    Raises:
        UserError: ids that only one side has; no reference left after normalisation.
    """
    check_same_ids(refs, hyps)
    utts, skipped, words_on_empty = [], [], 0
    for utt, raw in refs.items():
        ref, hyp = normaliser(raw), normaliser(hyps[utt])
        if ref:
            utts.append(_align(utt, ref, hyp, unit))
        else:
            skipped.append(utt)
            words_on_empty += len(hyp.split() if unit == "word" else _joined(hyp))
    if not utts:
        raise UserError(
            f"all {len(refs)} references are empty after the normaliser {normaliser.id}. "
            "Check the reference file, or choose a normaliser for its language."
        )
    return ErrorRate(unit, normaliser.id, tuple(utts), tuple(skipped), words_on_empty)


def check_same_ids(refs: Iterable[str], hyps: Iterable[str]) -> None:
    """Raise a UserError that lists the ids which only the references or only the hypotheses hold."""
    refs, hyps = set(refs), set(hyps)
    faults = [
        f"{len(ids)} ids of the {here} are not in the {there}: {', '.join(sorted(ids)[:5])}"
        + (", ..." if len(ids) > 5 else "")
        for ids, here, there in (
            (refs - hyps, "references", "hypotheses"),
            (hyps - refs, "hypotheses", "references"),
        )
        if ids
    ]
    if faults:
        raise UserError(
            f"{'; '.join(faults)}. Decode the missing utterances, or score against the text of the same set; "
            "an utterance without output still needs a line with its id alone."
        )


def write_alignments(path: Path | str, result: ErrorRate) -> None:
    """Write one block an utterance: id with counts, then reference over hypothesis."""
    blocks = [
        f"{utt.utt}  hits {utt.hits}  sub {utt.substitutions}  del {utt.deletions}  ins {utt.insertions}"
        f"  of {utt.ref_length}\n{utt.alignment}\n"
        for utt in result.utts
    ]
    write_text(path, "\n".join(blocks))


def _align(utt: str, ref: str, hyp: str, unit: Unit) -> UttCounts:
    if unit == "word":
        output = jiwer.process_words(ref, hyp)
    else:
        output = jiwer.process_characters(_joined(ref), _joined(hyp))
    picture = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False)
    lines = [line.rstrip() for line in picture.splitlines() if not line.startswith("=== ")]
    return UttCounts(
        utt=utt,
        ref=ref,
        hyp=hyp,
        hits=output.hits,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        ref_length=len(output.references[0]),
        ref_words=len(ref.split()),
        alignment="\n".join(line for line in lines if line),
    )


def _joined(text: str) -> str:
    return "".join(text.split())


def _ratio(sums: np.ndarray) -> np.ndarray:
    return 100.0 * sums[:, 0] / sums[:, 1]
