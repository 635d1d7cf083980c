"""The teachers of each task: ``--task_t_load`` of auto_tune.py as options of finetune.py."""

from __future__ import annotations

import json
from pathlib import Path

from glmkd_nemo.translate.auto_tune_facts import DATA, TASKS, TEACHERS


def teacher_words(path: Path, key: str, task: str) -> tuple[list[str], str | None]:
    """Options that name the teachers of a task, and a note where the folders are not known.

    Args:
        path: the original's ``task_t_load.json``, read where it is.
        key: an entry of it.
        task: as auto_tune.py calls it.

    Raises:
        ValueError: the file lacks it, or is not here and the teacher is none of the usual ones.
    """
    if path.is_file():
        return _of_file(path, key, task), None
    if key not in TEACHERS:
        raise ValueError(
            f"--task_t_load={key}: {path} is not here, which says where that teacher is "
            f"(known without it: {', '.join(TEACHERS)})"
        )
    note = (
        f"{path} is not here: say where the teachers fine-tuned on each task are, in place of "
        "checkpoints/pretrain/.../finetune/..."
    )
    return _of_facts(key, task), note


def _of_facts(key: str, task: str) -> list[str]:
    found, name = TEACHERS[key], TASKS[task][1]
    folders = [f"{DATA}/checkpoints/pretrain/{row[0]}/finetune/{name}" for row in found]
    prefix = "--mt_" if len(found) > 1 else "--teacher_"
    sizes = ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
    columns = {s: ":".join(str(row[i]) for row in found) for i, s in enumerate(sizes, 1)}
    paths = f"{prefix}load_pretrained={':'.join(folders)}"
    return [paths, *(f"{prefix}{name}={value}" for name, value in columns.items())]


def _of_file(path: Path, key: str, task: str) -> list[str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        words = []
        for name, value in table[key]["args"]:
            if isinstance(value, list):
                places = [table[v]["tasks"][task] if v in table else v for v in value]
                value = ":".join(DATA + place for place in places)
            words.append(name if value is None else f"{name}={value}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no teacher {key!r} for {task}: {error!r}") from error
    return words
