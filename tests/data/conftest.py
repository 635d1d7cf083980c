"""Small tokenizers and corpora for the data tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.preprocess import preprocess
from glmkd_nemo.data.python_docs import topic_documents
from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer, train_wordpiece

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real English documents."""
    return topic_documents()[:60]


@pytest.fixture(scope="session")
def vocab_dir(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    return train_wordpiece(texts, 800, tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="session")
def tokenizer(vocab_dir: Path) -> GLMTokenizer:
    """WordPiece with all of GLM's command tokens."""
    return build_tokenizer(
        {
            "type": "bert",
            "path": str(vocab_dir),
            "task_mask": True,
            "block_mask": True,
            "sentinels": 64,
        }
    )


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """Block masking as recorded from the reference (see fixtures/README.md)."""
    return json.loads((FIXTURES / "blocks.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def bert_vocab(tmp_path_factory: pytest.TempPathFactory, recorded: dict[str, Any]) -> Path:
    """bert-base-uncased with only the tokens that the fixtures use; the rest are fillers."""
    tokens = [f"[unused-{i}]" for i in range(recorded["vocab_size"])]
    for token, token_id in recorded["tokens"].items():
        tokens[token_id] = token
    file = tmp_path_factory.mktemp("bert") / "vocab.txt"
    file.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return file


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prefix(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tokenizer: GLMTokenizer
) -> Path:
    """An indexed corpus of `texts`."""
    folder = tmp_path_factory.mktemp("corpus")
    source = write_jsonl(folder / "texts.jsonl", texts)
    preprocess([source], folder / "texts", tokenizer, progress=False)
    return folder / "texts"
