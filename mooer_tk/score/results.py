"""Tables of results: rows kept between markers of a Markdown file, and the same rows on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mooer_tk.data.atomic import write_text
from mooer_tk.errors import UserError

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
    new = {str(column): _cell(value) for column, value in row.items()}
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


def render_table(rows: Iterable[dict[str, Any]]) -> str:
    """Render rows as a GitHub-flavoured Markdown table; a column that a row lacks is an empty cell."""
    rows = list(rows)
    columns = _columns(rows)
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(c)) for c in columns] for row in rows)]
    head, rule, *body = lines
    rendered = [[_escape(cell) for cell in head], rule, *([_escape(cell) for cell in line] for line in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in rendered)


def print_table(rows: Iterable[dict[str, Any]], *, title: str | None = None, console: Console | None = None) -> None:
    """Print rows on a terminal; columns whose cells are all numbers stand flush right."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in _columns(rows):
        numeric = all(_is_number(_cell(row.get(column))) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # As Text: rich would take "[tone]" in a plain string for one of its style tags.
        table.add_row(*(Text(_cell(row.get(column))) for column in _columns(rows)))
    (console or Console()).print(table)


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


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(column) for row in rows for column in row))


def _cell(value: Any) -> str:
    return "" if value is None else "\n".join(str(value).strip().splitlines())


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return cell == ""
    return True
