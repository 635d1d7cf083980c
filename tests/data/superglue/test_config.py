"""Options that a SuperGLUE task takes, and what it says to those that it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.superglue import (
    SuperGLUEConfig,
    file_of,
    form_of,
    head_kind,
    num_classes,
    task_name,
)


def test_files_have_their_official_names():
    assert file_of("data", "train") == Path("data/train.jsonl")
    assert file_of("data", "valid") == file_of("data", "dev") == Path("data/val.jsonl")
    assert file_of("data", "dev32") == Path("data/dev32.jsonl")


@pytest.mark.parametrize(
    ("options", "form", "kind", "classes"),
    [
        ({"task": "RTE"}, "single_token", "single_token", 1),
        ({"task": "rte", "multi_token": True}, "multi_token", "multi_token", 1),
        ({"task": "rte", "cloze": False}, "pooled", "pooled", 2),
        ({"task": "cb", "cloze": False}, "pooled", "pooled", 3),
        ({"task": "COPA"}, "multi_token", "multi_token", 1),
        ({"task": "copa", "cloze": False}, "pooled", "pooled", 1),
        ({"task": "record", "cloze": False}, "pooled", "pooled", 1),
        ({"task": "wsc", "cloze": False}, "pooled", "pooled", 2),
        ({"task": "wsc", "fast_decode": True}, "multi_token", "multi_token", 1),
        ({"task": "wsc_generative"}, "generative", None, 1),
    ],
)
def test_forms(options: dict[str, Any], form: str, kind: str | None, classes: int):
    cfg = SuperGLUEConfig(**options)
    assert (form_of(cfg), head_kind(cfg), num_classes(cfg)) == (form, kind, classes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "multirck"}, "did you mean multirc"),
        ({"pattern_id": 5}, "rte has patterns 0 to 4"),
        ({"pattern_id": -1}, "rte has patterns 0 to 4"),
        ({"seq_length": 4}, "seq_length=4 is too short"),
        ({"few_shot": 0}, "few_shot=0: 1 row or more"),
        ({"max_choices": 1}, "max_choices=1: 2 or more"),
        ({"fast_decode": True}, "set task.multi_token=true"),
        ({"task": "copa", "multi_token": False}, "answers of copa have several tokens"),
        ({"task": "copa", "pattern_id": 2, "fast_decode": True}, "use pattern 0 or 1"),
        ({"task": "wsc_generative", "cloze": False}, "use task=wsc"),
    ],
)
def test_refusals(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        SuperGLUEConfig(**options)


def test_task_names_in_any_case():
    assert task_name("ReCoRD") == "record"
