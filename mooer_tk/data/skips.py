"""Nothing is lost silently: utterances that a stage leaves out are counted, named and explained."""

from collections import Counter
from pathlib import Path

from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError


class SkipReport:
    """Collects skipped utterances and stops the stage when they are too many.

    Args:
        stage: name shown to the user, such as "features of data/en/train".
        max_share: largest share of skipped utterances (0..1) that the stage tolerates.
    """

    def __init__(self, stage: str, max_share: float = 0.05) -> None:
        self.stage = stage
        self.max_share = max_share
        self.reasons: dict[str, str] = {}

    def add(self, utt: str, reason: str) -> None:
        """Note that `utt` is left out and why."""
        self.reasons[utt] = " ".join(reason.split())

    def check(self, total: int, path: Path | str | None) -> str:
        """Write `utt <tab> reason` lines, sorted (unless there is no path for them), and return a one-line summary.

        Raises:
            UserError: more than `max_share` of `total` utterances were skipped.
        """
        if path:
            write_text(path, "".join(f"{utt}\t{reason}\n" for utt, reason in sorted(self.reasons.items())))
        kinds = Counter(reason.split(":")[0] for reason in self.reasons.values())
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        summary = f"{self.stage}: {total - len(self.reasons)} of {total} utterances kept"
        if not self.reasons:
            return summary
        summary += f", {len(self.reasons)} skipped ({shown})" + (f"; named in {path}" if path else "")
        if len(self.reasons) > self.max_share * total:
            raise UserError(
                f"{summary}. That is more than the {100 * self.max_share:g} % this stage tolerates: "
                "mend the inputs named there, or raise --max-skip if you accept the loss."
            )
        return summary
