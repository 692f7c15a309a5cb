"""What a program says while it works: a bar with rate and time left on a terminal, a line now and then in a log."""

import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_EVERY_SECONDS = 20.0


def track(items: Iterable[T], what: str, total: int, *, done: int = 0, unit: str = "utt") -> Iterator[T]:
    """Yield `items` and show how far the work is.

    Args:
        what: what is being done, such as "encoding data/en/train".
        total: how many items there are in all.
        done: how many of them were finished by an earlier run.
        unit: what one item is called.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, what, total, initial=done, unit=unit)
    else:
        yield from _lines(items, what, total, done, unit)


def _lines(items: Iterable[T], what: str, total: int, done: int, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            rate = count / (now - start)
            left = (total - done - count) / rate
            log(f"{what}: {done + count}/{total} {unit}, {rate:.1f} {unit}/s, {clock(left)} left")
    seconds = time.monotonic() - start
    log(f"{what}: {done + count}/{total} {unit} in {clock(seconds)}")


def log(message: str) -> None:
    """Write one time-stamped line to stderr, above a bar if there is one."""
    tqdm.write(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr)


def quiet_libraries() -> None:
    """Notes of libraries to their developers, and bars that last a second, are not for our users."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, secs = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
