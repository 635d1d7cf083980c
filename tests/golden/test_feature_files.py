"""`scripts/replay_golden.py` on feature files: its lines and exit codes, alone and with cases."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from glmkd_nemo.replay import cli
from glmkd_nemo.replay.features import VOCABULARY
from tests.golden.test_cli import GOOD, replay

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "superglue" / "fixtures"
NAME = "cb_train_seq96_pat1"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Vocabulary, rows and features in the folders that the recorded numbers come in."""
    found = json.loads(gzip.decompress((FIXTURES / "recorded.json.gz").read_bytes()))
    files = {
        f"golden/data/superglue/{NAME}.json": json.dumps(found["features"][NAME]),
        "golden/data/superglue_raw/CB/train.jsonl": found["rows"]["CB/train.jsonl"],
    }
    vocabulary = json.loads((FIXTURES / "tokens.json").read_text(encoding="utf-8"))
    tokens = [f"[unused-{i}]" for i in range(vocabulary["vocab_size"])]
    for token, token_id in vocabulary["tokens"].items():
        tokens[token_id] = token
    files[f"data/{VOCABULARY}"] = "\n".join(tokens) + "\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run_files(*paths: object, vocab: str | None = None) -> int:
    return cli.replay([str(path) for path in paths], 1, 1, False, None, False, vocab)


def test_an_equal_file_with_the_vocabulary_beside(shared: Path, capsys: pytest.CaptureFixture[str]):
    assert run_files(shared / "golden" / "data" / "superglue" / f"{NAME}.json") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.split() == [f"{NAME}.json", "3", "examples", "equal"]
    assert last == "1 feature files equal, 0 not"


def test_faults_are_named_one_line_each(shared: Path, capsys: pytest.CaptureFixture[str]):
    folder = shared / "golden" / "data" / "superglue"
    record = json.loads((folder / f"{NAME}.json").read_text())
    record["features"][1]["text"][0] += 1
    (folder / "other.json").write_text(json.dumps(record))
    (folder / "lost.json").write_text(json.dumps(record | {"split": "test"}))
    (folder / "empty.json").write_text("{}")
    names = ["other", "lost", "empty", NAME]
    assert run_files(*(folder / f"{name}.json" for name in names)) == 1
    other, lost, empty, good, total = capsys.readouterr().out.splitlines()
    assert "FAILED train-1: text at [0] is 101, recorded 102" in other
    assert "FAILED FileNotFoundError" in lost
    assert "test.jsonl is missing" in lost
    assert "has no features" in empty
    assert good.endswith("equal")
    assert total == "1 feature files equal, 3 not"


def test_a_vocabulary_is_found_or_asked_for(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(shared)
    file = shared / "golden" / "data" / "superglue" / f"{NAME}.json"
    vocabulary = (shared / "data" / VOCABULARY).rename(shared / "words.txt")
    assert run_files(file) == 1
    assert f"no {VOCABULARY} near" in capsys.readouterr().out
    assert run_files(file, vocab=str(vocabulary)) == 0


@pytest.mark.timeout(300)
def test_files_and_cases_in_one_call(shared: Path):
    file = shared / "golden" / "data" / "superglue" / f"{NAME}.json"
    (shared / "golden" / "data" / "superglue_raw" / "CB" / "train.jsonl").write_text("{}\n")
    done = replay(file, GOOD)
    assert done.returncode == 1, done.stderr
    assert "train.jsonl:1: idx is missing" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 within 1e-5, 0 not, 0 not counted"
