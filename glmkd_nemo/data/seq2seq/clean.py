"""Text of published sets as one would write it, and as command tokens."""

from __future__ import annotations

from collections.abc import Mapping

# Typographic marks as keyboards have them: vocabularies of English often lack them.
_PLAIN = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-"})
_BRACKETS = {"(": "lrb", ")": "rrb", "[": "lsb", "]": "rsb", "{": "lcb", "}": "rcb"}
# Replaced in this order: a mark may be made of two others.
_GIGAWORD = {
    "UNK": "[UNK]",
    "<unk>": "[UNK]",
    **{f"-{name}-": bracket for bracket, name in _BRACKETS.items()},
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
}
_CNN_DM = {
    **{f"-{name.upper()}-": bracket for bracket, name in _BRACKETS.items()},
    "''": '"',
    "``": '"',
    "`": "'",
    **{f" {end}": end for end in ("n't", "'s", "'d", "'ll")},
}
_BLANKS = {"_UNK": "[UNK]", "<blank>": "[MASK]"}


def plain_marks(text: str) -> str:
    """Straight quotes and hyphens for typographic ones."""
    return text.translate(_PLAIN)


def gigaword(text: str, is_target: bool = False) -> str:
    """Gigaword: escaped brackets and signs; its UNK becomes the command token."""
    return _replace(text, _GIGAWORD)


def cnn_dm(text: str, is_target: bool = False) -> str:
    """CNN/DailyMail, split into words: sentences of targets are separated by [SEP]."""
    return _replace(text.replace("<S_SEP>", "[SEP]" if is_target else ""), _CNN_DM)


def blanks(text: str) -> str:
    """Sentences for blank filling: their unknown words and blanks as command tokens."""
    return _replace(text, _BLANKS)


def _replace(text: str, pairs: Mapping[str, str]) -> str:
    for old, new in pairs.items():
        text = text.replace(old, new)
    return text
