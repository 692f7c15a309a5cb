"""The one exception that is meant to be read by the person at the terminal, and how programs end with it."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can mend: the message says what, where and how.

    `mooer` and the scripts print it without a traceback and exit with status 2, see `exit_status`.
    """


def exit_status(program: str, work: Callable[[], int]) -> int:
    """Do a program's work and return its exit status: that of `work`, 2 after a UserError, 130 after Ctrl-C.

    Args:
        program: what the user called, such as "mooer train", for the message on stderr.
    """
    try:
        return work()
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError as error:
        print(f"{program}: nobody reads what it writes any more, as behind `| head` ({error})", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail at the exit
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest known word, or the list of all when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
