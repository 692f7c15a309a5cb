"""Results that come one by one and must survive a kill: a jsonl file whose first line names the run."""

import contextlib
import json
from pathlib import Path
from typing import Any

from mooer_tk.data.atomic import write_text


class ResultLog:
    """Append-only results of one run, keyed by utterance.

    Opening it reads what an earlier run of the same fingerprint left (a line torn by a kill is dropped; another
    fingerprint starts anew).

    Attributes:
        results: utt -> result, each a dictionary with "utt".
    """

    def __init__(self, path: Path, mark: str) -> None:
        self.path = path
        head, *results = read_jsonl(path) or [None]
        self.results = {result["utt"]: result for result in results} if head == {"run": mark} else {}
        lines = [{"run": mark}, *self.results.values()]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def add(self, results: list[dict[str, Any]]) -> None:
        """Append results and hand them to the operating system at once."""
        with self.path.open("a", encoding="utf-8") as file:
            for result in results:
                self.results[result["utt"]] = result
                file.write(json.dumps(result, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[Any]:
    """The lines of a jsonl file, without those that a kill tore; none where there is no file."""
    lines = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines
