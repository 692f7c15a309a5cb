#!/usr/bin/env python3
"""Write the scores of an experiment as rows of RESULTS.md, and print them (stage 9).

  utils/update_results.py exp/mooer --results RESULTS.md --command "./run.sh --tag mooer"

Tables stand between markers of a Markdown file; all other text stays as it was.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mooer_tk.config import git_hash
from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError, exit_status
from mooer_tk.score.tables import cell_text, columns_of, print_table

SYSTEMS = {
    "model": "LLM",
    "llm": "LLM, without CTC in the search",
    "ctc": "warm start alone (CTC-greedy)",
    "teacher": "teacher",
}
_TABLE_ID = re.compile(r"[A-Za-z0-9_.-]+")
_UNESCAPED_BAR = re.compile(r"(?<!\\)(?:\\\\)*\|")
_RULE = re.compile(r":?-+:?")
_ESCAPED = re.compile(r"\\([\\|])")


def update_table(path: Path | str, table_id: str, row: dict[str, Any], key: Sequence[str]) -> None:
    """Append a row to a Markdown table, or replace the row with the same key; all other text stays as it was.

    The table stands between `<!-- table:ID -->` and `<!-- end:ID -->`; file and table are made when missing,
    the table at the end. Columns are those already there, then the new ones of `row`. Values are written by
    `str` (None as an empty cell): round numbers before.

    Args:
        key: columns of `row` that say which run it is; a replaced row keeps its place.

    Raises:
        UserError: a key column that `row` lacks, a marker without its partner, a table that cannot be read.
    """
    path = Path(path)
    missing = [column for column in key if column not in row]
    if missing or not key:
        raise UserError(
            f"the row for table '{table_id}' needs its key columns {list(key)}; it lacks {missing}. "
            "Add them to the row."
        )
    if not _TABLE_ID.fullmatch(table_id):
        raise UserError(f"'{table_id}' cannot name a table: use letters, digits, '_', '-' and '.'.")
    text = _read(path)
    before, body, after = _split_at_markers(path, text, table_id)
    new = {str(column): cell_text(value) for column, value in row.items()}
    rows, replaced = [], False
    for old in _parse_table(path, table_id, body):
        if all(old.get(column, "") == new[column] for column in key):
            if not replaced:
                # Old columns first, so that replacing the only row does not reorder the table.
                rows.append({**dict.fromkeys(old, ""), **new})
            replaced = True
        else:
            rows.append(old)
    if not replaced:
        rows.append(new)
    write_text(path, f"{before}<!-- table:{table_id} -->\n{render_table(rows)}\n<!-- end:{table_id} -->{after}")


def replace_table(path: Path | str, table_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a whole table between its markers; all other text stays as it was, errors as of `update_table`."""
    path = Path(path)
    before, _, after = _split_at_markers(path, _read(path), table_id)
    write_text(path, f"{before}<!-- table:{table_id} -->\n{render_table(rows)}\n<!-- end:{table_id} -->{after}")


def _read(path: Path) -> str:
    try:
        # Bytes, for `read_text` would turn the line ends of the rest of the file into its own.
        return path.read_bytes().decode("utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}). Convert it, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def _split_at_markers(path: Path, text: str, table_id: str) -> tuple[str, str, str]:
    start, end = f"<!-- table:{table_id} -->", f"<!-- end:{table_id} -->"
    if start not in text and end not in text:
        separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return text + separator, "", "\n"
    before, _, rest = text.partition(start)
    body, found, after = rest.partition(end)
    if not found or start in rest or end in before or end in after:
        raise UserError(
            f"{path}: table '{table_id}' must have one '{start}' with one '{end}' after it. Mend the markers by hand."
        )
    return before, body, after


def _parse_table(path: Path, table_id: str, body: str) -> list[dict[str, str]]:
    lines = [_parse_line(line) for line in body.splitlines() if line.strip()]
    if not lines:
        return []
    columns, *cells = lines
    if not cells or not all(_RULE.fullmatch(cell) for cell in cells[0]):
        raise UserError(
            f"{path}: the second line of table '{table_id}' is not a rule such as '| --- | --- |'. "
            "Put it back below the line of column names."
        )
    del cells[0]
    for number, line in enumerate(cells, 1):
        if len(line) != len(columns):
            raise UserError(
                f"{path}: row {number} of table '{table_id}' has {len(line)} cells, but the head has "
                f"{len(columns)}. Mend the row by hand; write '\\|' for a bar inside a cell."
            )
    return [dict(zip(columns, line, strict=True)) for line in cells]


def _parse_line(line: str) -> list[str]:
    cells, start = [], 0
    line = line.strip().removeprefix("|")
    for bar in _UNESCAPED_BAR.finditer(line):
        cells.append(line[start : bar.end() - 1])
        start = bar.end()
    if line[start:].strip():
        cells.append(line[start:])
    return [_ESCAPED.sub(r"\1", cell.strip()).replace("<br>", "\n") for cell in cells]


def render_table(rows: Iterable[dict[str, Any]]) -> str:
    """Render rows as a GitHub-flavoured Markdown table; a column that a row lacks is an empty cell."""
    rows = list(rows)
    columns = columns_of(rows)
    body = [[_escape(cell_text(row.get(column))) for column in columns] for row in rows]
    lines = [[_escape(column) for column in columns], ["---"] * len(columns), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")


def write_rows(args: argparse.Namespace) -> int:
    """Collect every score.json below the experiment into the table; returns 0."""
    files = sorted((args.experiment / "score").glob("*/score.json"))
    if not files:
        raise UserError(f"{args.experiment}/score holds no scores: run stage 8 first.")
    info = args.experiment / "model" / "info.json"
    # A model that came from MooER's release does not tell a version of ours.
    trained = json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {}
    rows = [row for file in files for row in _rows(file)]
    print_table([{k: v for k, v in row.items() if k != "normaliser"} for row in rows], title=str(args.experiment))
    for row in rows:
        own = row["system"] != SYSTEMS["teacher"]
        extra = {
            "trained on": f"{args.labels} labels" if own else "",
            "git": trained.get("git", "") if own else git_hash(),
        }
        full = {
            "experiment": str(args.experiment).rpartition("exp/")[2],
            **row,
            **extra,
            "command": f"`{args.command}`",
        }
        update_table(args.results, "results", full, key=["experiment", "test set", "system", "metric"])
    return 0


def _rows(file: Path) -> list[dict[str, Any]]:
    """One row a score: `asr_en.model` -> test set `asr en`, system `LLM`."""
    test_set, _, system = file.parent.name.partition(".")
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for name, score in found["scores"].items():
        metric = {"wer": "WER %", "cer": "CER %", "bleu": "BLEU", "chrf": "chrF"}[name.removesuffix("_subset")]
        if name.endswith("_subset"):
            metric += f", {score['min_words']}+ words"
        rows.append(
            {
                "test set": test_set.replace("_", " "),
                "system": SYSTEMS.get(system, system),
                "metric": metric,
                "value": f"{score['value']:.2f}",
                "95 %": f"{score['low']:.2f} - {score['high']:.2f}",
                "utterances": score["utterances"],
                "normaliser": found["normaliser"],
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Read the command line, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="exp/NAME with its score/ directory (stage 8)")
    parser.add_argument("--results", type=Path, default=Path("RESULTS.md"), help="file with the table")
    parser.add_argument("--labels", default="pseudo", help="what the model was trained on, for the table")
    parser.add_argument("--command", default="", help="the command that made the experiment, for the table")
    return exit_status(Path(__file__).name, lambda: write_rows(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
