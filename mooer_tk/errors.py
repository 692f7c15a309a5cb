"""The one exception that is meant to be read by the person at the terminal."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can mend: the message says what, where and how.

    `mooer` prints it without a traceback and exits with status 2.
    """


def exit_status(program: str, work: Callable[[], int]) -> int:
    """What `work` returns; a UserError is printed without a traceback and gives 2, an interrupt 130."""
    try:
        return work()
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest known word, or the list of all when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
