"""Made-up rows are read by the readers of the official files."""

from __future__ import annotations

from pathlib import Path

from glmkd_nemo.data.superglue import LABELS, read_examples
from glmkd_nemo.data.superglue.config import file_of
from glmkd_nemo.recipe.tiny_rows import write_tasks

FOLDERS = {
    **{"record": "ReCoRD", "copa": "COPA", "wsc": "WSC-negative", "wsc_generative": "WSC"},
    **{"rte": "RTE", "boolq": "BoolQ", "wic": "WiC", "cb": "CB", "multirc": "MultiRC"},
}


def test_all_tasks_read_them(tmp_path: Path) -> None:
    sentences = write_tasks(tmp_path)
    assert all("gave the" in sentence for sentence in sentences)
    for task, folder in FOLDERS.items():
        for split in ("train", "valid", "test"):
            examples = read_examples(task, file_of(tmp_path / folder, split), split)
            assert len(examples) >= 4, (task, split)
            if task not in ("record", "wsc", "wsc_generative"):
                assert {e.label for e in examples} == set(LABELS[task]), (task, split)
    (record, *_) = read_examples("record", tmp_path / "ReCoRD" / "val.jsonl", "valid")
    assert record.meta["answers"][0] in record.meta["candidates"]
    (wsc, *_) = read_examples("wsc", tmp_path / "WSC-negative" / "train.jsonl", "train")
    assert len(wsc.meta["candidates"]) == 2
