"""The commands of the original's README, its prefixes and placeholders filled in."""

from __future__ import annotations

import re
from pathlib import Path

FILE = Path(__file__).with_name("seed_commands.txt")
_PRETRAINED = "../GLM/data/checkpoints/pretrain"
# README leaves these open
PLACEHOLDERS = {
    "a1:a2": "12:16",
    "h1:h2": "768:1024",
    "l1:l2": "12:24",
    "m1:m2": "512:512",
    "p1:p2": f"{_PRETRAINED}/blocklm-base-blank:{_PRETRAINED}/blocklm-large-blank",
    "1/teacher_num": "0.5",
}
ONE_MORE = {
    "12:16": "12:12:16",
    "768:1024": "768:768:1024",
    "12:24": "12:12:24",
    "512:512": "512:512:512",
    "load_pretrained=../": f"load_pretrained={_PRETRAINED}/base-mlm:../",
}


def commands() -> list[tuple[str, str]]:
    """Title and text of each: ``KD 1`` is the first one below ``KD``."""
    prefixes: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    title, count, lines = "", 0, []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title, count = line.removeprefix("## "), 0
        elif match := re.match(r"(Prefix-[\w-]+) = (.*)", line):
            prefixes[match[1]] = match[2]
        elif line and not line.startswith("#"):
            lines.append(line)
            if not line.endswith("\\"):
                count += 1
                found.append((f"{title} {count}", _filled("\n".join(lines), prefixes)))
                lines = []
    return found


def _filled(text: str, prefixes: dict[str, str]) -> str:
    without = re.search(r"\(w/o (\S+)\)", text)
    one_more = "(One more base teacher)" in text
    text = re.sub(r"\((w/o \S+|One more base teacher)\)", "", text)
    for name, prefix in prefixes.items():
        text = text.replace(f"[{name}]", prefix)
    for mark, value in PLACEHOLDERS.items():
        text = text.replace(mark, value)
    if one_more:
        for mark, value in ONE_MORE.items():
            text = text.replace(mark, value)
    return text.replace(without[1], "") if without else text
