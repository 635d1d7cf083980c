"""Evaluation of a saved model: metrics and files, the same in every layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.words import tokenizer
from tests.engine.evaluate_runs import LAYOUTS
from tests.launch import run_ranks, run_script

TEXTS = ["the cat sat on the mat", "a b c d e f g", "who sat on the cat ?", "a cat , a mat", "b a"]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all tasks, and a vocabulary."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer(folder)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "lambada.jsonl").write_text(rows)
    (folder / "wiki.txt").write_text(" \n ".join(TEXTS))
    lines = "\n".join(TEXTS) + "\n"
    for name in ("test.source", "test.target", "test.txt"):
        (folder / name).write_text(lines)
    (folder / "blank").mkdir()
    blanked = [" ".join(["<blank>", *text.split()[1:-1], "<blank>"]) for text in TEXTS]
    (folder / "blank" / "test.maskratio0.4.blank").write_text("\n".join(blanked) + "\n")
    return folder


@pytest.fixture(scope="module")
def one(place: Path) -> dict[str, Any]:
    """Metrics by task, of one process."""
    return run_ranks("tests.engine.evaluate_runs:one_process", 1, {"root": str(place)}, 250)


def test_metrics_and_files(place: Path, one: dict[str, Any]) -> None:
    assert set(one["lambada"]) == {"accuracy", "ppl", "bits_per_token"}
    assert one["wikitext"]["word_ppl"] > 1
    assert {"ppl", "rouge1", "rouge2", "rougeL"} < set(one["gigaword"])
    assert {"ppl", "bleu", "exact"} < set(one["blank_filling"])
    folder = place / "one"
    words = (folder / "lambada" / "lambada-test.jsonl").read_text().splitlines()
    assert [json.loads(row)["word"] for row in words] == [text.split()[-1] for text in TEXTS]
    file = folder / "blank_filling" / "blank_filling-test.generated.jsonl"
    rows = [json.loads(row) for row in file.read_text().splitlines()]
    assert [row["reference"] for row in rows] == TEXTS
    for text, row in zip(TEXTS, rows, strict=True):
        assert " ".join(text.split()[1:-1]) in row["prediction"]  # what was not blanked


def test_layouts_agree(place: Path, one: dict[str, Any]) -> None:
    two = run_ranks("tests.engine.evaluate_runs:two_processes", 2, {"root": str(place)}, 250)
    for layout, (_, tasks) in LAYOUTS.items():
        for task in tasks:
            found = two[layout][task]
            same = {name: one[task][name] for name in found}
            assert found == pytest.approx(same, rel=1e-4), (layout, task)
            if layout != "pp2":  # there, nothing is generated
                assert set(found) == set(one[task])


def test_errors_are_one_message(place: Path, one: dict[str, Any]) -> None:
    (place / "bad.jsonl").write_text('{"text": "a b"}\n{"test": "a b"}\n')
    model = f"restore_from_path={place / 'tiny.nemo'}"
    cases = {
        "task.test_file=bad.jsonl": "bad.jsonl:2: no key 'text' (found ['test'])",
        "split=tset": "split=tset is not one of train, valid, test; did you mean test?",
        "task.strid=3": "unknown key task.strid",
    }
    common = [f"task.data_dir={place}", model, f"exp_manager.exp_dir={place / 'runs'}"]
    common.append("task.seq_length=32")
    for argument, words in cases.items():
        done = run_script("evaluate", "task=lambada", *common, argument)
        text = done.stderr
        assert done.returncode == 2, text
        assert words in text
        assert "Traceback" not in text
