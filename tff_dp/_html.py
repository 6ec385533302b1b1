"""HTML for notebooks, in which everything that is shown is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table.

    Args:
      header: The names of the columns.
      rows: The rows, each as long as the header.

    Returns:
      HTML.
    """
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def pairs(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Returns a table of names and values under a title.

    Args:
      title: The title.
      rows: Names with their values.

    Returns:
      HTML.
    """
    body = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{body}</tbody></table>"


def paragraphs(text: str) -> str:
    """Returns the lines of a text as paragraphs.

    Args:
      text: The text.

    Returns:
      HTML.
    """
    return "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines())
