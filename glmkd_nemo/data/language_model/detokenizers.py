"""Text of published test sets as one would write it: undoes how they were split into words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

# What stands between white space and words in these sets; applied in this order.
_WIKITEXT: tuple[tuple[str, str], ...] = (
    (r"s '", "s'"),
    *((rf" @{re.escape(mark)}@ ", mark) for mark in "-,."),  # inside numbers and compounds
    *((rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),  # one by one: they may meet
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
    (r'"\s*([^"]*?)\s*"', r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),  # headings
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" \u00b0 ", "\u00b0"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)
_PTB: tuple[tuple[str, str], ...] = (
    (r" '", "'"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" n't", "n't"),
    (r" N ", "1 "),
    (r"\$ 1", "$1"),
    (r"# 1", "#1"),
)
_QUOTES: tuple[tuple[str, str], ...] = (
    (r"\u201c|\u201d|``|''", '"'),
    (r"\u2018|\u2019|`", "'"),
)


def _rules(rules: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def detokenize(text: str) -> str:
        for pattern, replacement in compiled:
            text = pattern.sub(replacement, text)
        return text

    return detokenize


# none: the text as it is, as the reference takes LAMBADA; quotes: straight ones for LAMBADA's
# `` '' and curly ones; wikitext and ptb: the rules that published perplexities rest on, odd as some
# are (they take apostrophes for quotation marks).
DETOKENIZERS: Mapping[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "wikitext": _rules(_WIKITEXT),
    "ptb": _rules(_PTB),
    "quotes": _rules(_QUOTES),
}
