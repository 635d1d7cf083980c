"""Recorded features, laid out as `scripts/replay_golden.py` takes them, and their vocabulary."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
COLLECTIONS = ("recorded", "own")


def read(name: str) -> dict[str, dict]:
    return json.loads(gzip.decompress((FIXTURES / f"{name}.json.gz").read_bytes()))


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``COLLECTION/superglue/NAME.json`` and ``COLLECTION/superglue_raw/TASK/SPLIT.jsonl``."""
    root = tmp_path_factory.mktemp("superglue")
    for collection in COLLECTIONS:
        found = read(collection)
        for name, rows in found["rows"].items():
            file = root / collection / "superglue_raw" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(rows, encoding="utf-8")
        (root / collection / "superglue").mkdir()
        for name, record in found["features"].items():
            (root / collection / "superglue" / f"{name}.json").write_text(json.dumps(record))
    return root


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert-base-uncased with fillers for the tokens that the fixtures do without."""
    found = json.loads((FIXTURES / "tokens.json").read_text(encoding="utf-8"))
    tokens = [f"[unused-{i}]" for i in range(found["vocab_size"])]
    for token, token_id in found["tokens"].items():
        tokens[token_id] = token
    file = tmp_path_factory.mktemp("bert") / "vocab.txt"
    file.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def bert(vocabulary: Path) -> GLMTokenizer:
    return build_tokenizer({"type": "bert", "path": str(vocabulary)})
