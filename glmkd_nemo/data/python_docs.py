"""Real English text that every Python brings along: its language reference and its docstrings.

About 340,000 words, for demonstrations and tests. Sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

# Generated and third-party folders, and tests: not every installation has them.
_SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages"}
_SKIPPED_FOLDERS |= {"__pycache__", "lib-dynload", "pydoc_data"}
_LEAST_WORDS = 4


def topic_documents() -> list[str]:
    """The language reference that `help()` shows, one document a topic, sorted by name."""
    from pydoc_data.topics import topics

    return [text.strip() for _, text in sorted(topics.items()) if text.strip()]


def stdlib_files() -> list[Path]:
    """Python sources of the standard library, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        found += [Path(folder) / name for name in sorted(files) if name.endswith(".py")]
    return found


def docstrings(source: str) -> list[str]:
    """Docstrings of a module, its classes and functions, in order of the source.

    Raises:
        SyntaxError, ValueError: not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        (getattr(node, "lineno", 0), ast.get_docstring(node, clean=True))
        for node in ast.walk(tree)
        if isinstance(node, nodes)
    ]
    ordered = sorted((line, text) for line, text in found if text)
    return [inspect.cleandoc(text).strip() for _, text in ordered]


def module_documents() -> Iterator[str]:
    """One document per standard-library module: its docstrings, separated by blank lines.

    Sources that do not parse (templates, other encodings) are left out. A docstring that an
    earlier module had is left out too.
    """
    seen: set[str] = set()
    for file in stdlib_files():
        try:
            texts = docstrings(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            continue
        fresh = []
        for text in texts:
            if text not in seen and len(text.split()) >= _LEAST_WORDS:
                seen.add(text)
                fresh.append(text)
        if fresh:
            yield "\n\n".join(fresh)


def documents() -> list[str]:
    """All documents: the language reference, then the modules; equal on equal Python versions."""
    return list(dict.fromkeys([*topic_documents(), *module_documents()]))


def write_python_docs(path: str | Path) -> int:
    """Writes the documents as jsonl (key "text"), complete or not at all; returns their number."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    texts = documents()
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    part.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    os.replace(part, target)
    return len(texts)
