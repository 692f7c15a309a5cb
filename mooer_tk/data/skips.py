"""Nothing is lost silently: utterances that a stage leaves out are counted, named and explained."""

from collections import Counter
from pathlib import Path

from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError


def report_skips(
    what: str, reasons: dict[str, str], total: int, path: Path | str | None, *, max_share: float = 0.05
) -> str:
    """Write `utt <tab> reason` lines, sorted (unless there is no path for them), and return a one-line summary.

    Args:
        what: name shown to the user, such as "features of data/en/train".
        reasons: utterances that were left out, and why; the summary counts them by the part before a colon.
        total: number of utterances, those included.
        max_share: largest share of skipped utterances (0..1) that the stage tolerates.

    Raises:
        UserError: more than `max_share` of `total` utterances were skipped.
    """
    reasons = {utt: " ".join(reason.split()) for utt, reason in reasons.items()}
    if path:
        write_text(path, "".join(f"{utt}\t{reason}\n" for utt, reason in sorted(reasons.items())))
    summary = f"{what}: {total - len(reasons)} of {total} utterances kept"
    if not reasons:
        return summary
    kinds = Counter(reason.split(":")[0] for reason in reasons.values())
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    summary += f", {len(reasons)} skipped ({shown})" + (f"; named in {path}" if path else "")
    if len(reasons) > max_share * total:
        raise UserError(
            f"{summary}. That is more than the {100 * max_share:g} % this stage tolerates: "
            "mend the inputs named there, or raise --max-skip if you accept the loss."
        )
    return summary
