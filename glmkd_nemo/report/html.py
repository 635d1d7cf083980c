"""Pieces of a self-contained HTML page: lists, tables, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: Path, title: str, intro: str, body: Iterable[str]) -> None:
    """Writes a whole page (UTF-8, without outside references).

    Args:
        path: the file.
        title: plain text.
        intro: plain text below it.
        body: pieces of HTML, as the functions here make them.
    """
    text = _TEMPLATE.read_text(encoding="utf-8")
    page = Template(text).substitute(title=escape(title), intro=escape(intro), body="\n".join(body))
    path.write_text(page, encoding="utf-8")


def heading(text: str) -> str:
    """A heading inside the page."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph, escaped."""
    return f"<p>{escape(text)}</p>"


def listed(lines: list[str]) -> str:
    """A list, escaped."""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>\n{items}\n</ul>"


def side_by_side(pieces: list[str]) -> str:
    """Pieces of HTML beside each other, as far as they fit."""
    return f'<div class="side">{"".join(f"<div>{piece}</div>" for piece in pieces)}</div>'


def facts(values: dict[str, Any]) -> str:
    """A table of names and values."""
    return table(["", ""], [[name, str(value)] for name, value in values.items()], 9)


def drawing(figure: Figure, alternative: str) -> str:
    """A matplotlib figure inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return picture(buffer.getvalue(), alternative)


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
