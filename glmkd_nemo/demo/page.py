"""Pieces of a self-contained HTML page: lists, tables, pictures."""

from __future__ import annotations

import base64
from html import escape


def items(lines: list[str]) -> str:
    """List items, escaped."""
    return "\n".join(f"<li>{escape(line)}</li>" for line in lines)


def table(head: list[str], body: list[list[str]], numeric_from: int) -> str:
    """A table, escaped; columns from number `numeric_from` on are aligned to the right."""

    def cells(values: list[str], tag: str) -> str:
        kinds = ["" if i < numeric_from else ' class="n"' for i in range(len(values))]
        return "".join(
            f"<{tag}{kind}>{escape(value)}</{tag}>"
            for kind, value in zip(kinds, values, strict=True)
        )

    rows = "\n".join(f"<tr>{cells(values, 'td')}</tr>" for values in body)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def picture(png: bytes, alternative: str) -> str:
    """An image inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{data}">'
