"""All that recipes at scale tiny are trained on, made here: text, vocabulary, rows of tasks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from glmkd_nemo.recipe.tiny_rows import write_tasks

VOCABULARY, PIECES = 1024, 160
_REPEATED = 20  # sentences of the tasks in the text: their words are whole words of the vocabulary


def make_tiny_data(folder: str | Path) -> Path:
    """Writes ``train.{bin,idx}``, ``tokenizer`` and ``tasks`` into a folder, whole or not at all.

    The text is the language reference that comes with Python.

    Returns:
        ``done.json`` in the folder.

    Raises:
        ValueError: the folder holds something else.
    """
    target = Path(folder)
    done = target / "done.json"
    if done.is_file():
        return done
    if target.exists():
        raise ValueError(f"{target} is there, without done.json: remove it, or choose another")
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    try:
        facts = _write(part)
        (part / done.name).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        part.rename(target)
    except OSError:
        if not done.is_file():  # made by another process meanwhile
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def _write(folder: Path) -> dict[str, int]:
    from glmkd_nemo.data.preprocess import preprocess
    from glmkd_nemo.data.python_docs import topic_documents
    from glmkd_nemo.data.tokenizer import build_tokenizer, train_wordpiece
    from glmkd_nemo.demo.text import pieces_of, write_jsonl

    sentences = write_tasks(folder / "tasks")
    texts = [*pieces_of(topic_documents())[:PIECES], *sentences * _REPEATED]
    train_wordpiece(texts, VOCABULARY, folder / "tokenizer")
    tokenizer = build_tokenizer({"type": "bert", "path": str(folder / "tokenizer")})
    write_jsonl(texts, folder / "train.jsonl")
    made = preprocess([folder / "train.jsonl"], folder / "train", tokenizer, progress=False)
    return {"documents": len(texts), "tokens": int(made.tokens)}
