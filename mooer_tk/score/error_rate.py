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


class _Counted:
    """Alignment counts: hits, substitutions, deletions, insertions, ref_length, and what follows from them."""

    counts: dict[str, int]

    @property
    def errors(self) -> int:
        """Substitutions + deletions + insertions."""
        return sum(self.counts[kind] for kind in ("substitutions", "deletions", "insertions"))

    @property
    def rate(self) -> float:
        """Errors in percent of the reference units; above 100 when insertions abound."""
        return 100.0 * self.errors / self.counts["ref_length"]


@dataclass(frozen=True)
class AlignedUtt(_Counted):
    """One utterance, aligned in the unit of the metric (words, or characters without blanks).

    Attributes:
        ref, hyp: the normalised texts.
        counts: of this utterance; its ref_length is at least 1.
        alignment: jiwer's.
    """

    utt: str
    ref: str
    hyp: str
    counts: dict[str, int]
    alignment: jiwer.WordOutput | jiwer.CharacterOutput

    @property
    def ref_words(self) -> int:
        """Blank-separated words of the reference, whatever the unit."""
        return len(self.ref.split())


@dataclass(frozen=True)
class ErrorRate(_Counted):
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
    utts: tuple[AlignedUtt, ...]
    skipped: tuple[str, ...] = ()
    words_on_empty: int = 0

    @cached_property
    def counts(self) -> dict[str, int]:
        """Totals over all utterances."""
        return {name: sum(utt.counts[name] for utt in self.utts) for name in self.utts[0].counts}

    @property
    def signature(self) -> str:
        """What must be equal for two rates to be comparable, in the manner of sacrebleu."""
        return f"unit:{self.unit}|norm:{self.normaliser}|jiwer:{version('jiwer')}"

    def subset(self, min_words: int) -> Self | None:
        """The part whose normalised reference has at least `min_words` words; None where none is that long."""
        kept = tuple(utt for utt in self.utts if utt.ref_words >= min_words)
        return replace(self, utts=kept, skipped=(), words_on_empty=0) if kept else None

    def statistics(self) -> SufficientStatistics:
        """Counts of shape (N, 2): errors and reference length of each utterance."""
        counts = np.array([(utt.errors, utt.counts["ref_length"]) for utt in self.utts], dtype=np.int64)
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
        raise UserError(f"all {len(refs)} references are empty after {normaliser.id}: is it for another language?")
    return ErrorRate(unit, normaliser.id, tuple(utts), tuple(skipped), words_on_empty)


def check_same_ids(refs: Iterable[str], hyps: Iterable[str]) -> None:
    """Raise a UserError that lists the ids which only the references or only the hypotheses hold."""
    refs, hyps = set(refs), set(hyps)
    sides = ((refs - hyps, "references", "hypotheses"), (hyps - refs, "hypotheses", "references"))
    faults = [
        f"{len(ids)} ids of the {here} are not in the {there}: {', '.join(sorted(ids)[:5])}{', ...' * (len(ids) > 5)}"
        for ids, here, there in sides
        if ids
    ]
    if faults:
        raise UserError(
            f"{'; '.join(faults)}. Decode the missing utterances, count them as empty (--tolerate-missing), or score "
            "against the text of the same set."
        )


def write_alignments(path: Path | str, result: ErrorRate) -> None:
    """Write one block an utterance: id with counts, then reference over hypothesis, marked S, D and I."""
    head = "{}  hits {hits}  sub {substitutions}  del {deletions}  ins {insertions}  of {ref_length}"
    blocks = []
    for utt in result.utts:
        picture = jiwer.visualize_alignment(utt.alignment, show_measures=False, skip_correct=False)
        lines = [line.rstrip() for line in picture.splitlines() if line.strip() and not line.startswith("=== ")]
        blocks.append("\n".join([head.format(utt.utt, **utt.counts), *lines]) + "\n")
    write_text(path, "\n".join(blocks))


def _align(utt: str, ref: str, hyp: str, unit: Unit) -> AlignedUtt:
    if unit == "word":
        alignment = jiwer.process_words(ref, hyp)
    else:
        alignment = jiwer.process_characters(_joined(ref), _joined(hyp))
    counts = {name: getattr(alignment, name) for name in ("hits", "substitutions", "deletions", "insertions")}
    return AlignedUtt(utt, ref, hyp, {**counts, "ref_length": len(alignment.references[0])}, alignment)


def _joined(text: str) -> str:
    return "".join(text.split())


def _ratio(sums: np.ndarray) -> np.ndarray:
    return 100.0 * sums[:, 0] / sums[:, 1]
