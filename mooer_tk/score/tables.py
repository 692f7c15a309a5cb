"""Rows as a table on a terminal."""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(rows: Iterable[dict[str, Any]], *, title: str | None = None, console: Console | None = None) -> None:
    """Print rows on a terminal; columns whose cells are all numbers stand flush right."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns_of(rows):
        numeric = all(_is_number(cell_text(row.get(column))) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # As Text: rich would take "[tone]" in a plain string for one of its style tags.
        table.add_row(*(Text(cell_text(row.get(column))) for column in columns_of(rows)))
    (console or Console()).print(table)


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """Every column that some row has, in the order of their first appearance."""
    return list(dict.fromkeys(str(column) for row in rows for column in row))


def cell_text(value: Any) -> str:
    """A value as one cell: nothing for None, no blanks around lines."""
    return "" if value is None else "\n".join(str(value).strip().splitlines())


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return cell == ""
    return True
