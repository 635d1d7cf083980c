"""A world of one rank, for tests that build models."""

from collections.abc import Iterator

import pytest

import glmkd_nemo  # noqa: F401  (patches for machines without CUDA, before Megatron-Core)
from tests.checkpoint.originals import WORDS
from tests.data.words import tokenizer
from tests.distill.single import one_rank


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Process groups of size 1 for the tests of a module."""
    with one_rank():
        yield


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a tokenizer with as many tokens as the recorded models have."""
    folder = tmp_path_factory.mktemp("vocabulary")
    have = tokenizer(folder).vocab_size
    assert tokenizer(folder, [f"w{i}" for i in range(WORDS - have)]).vocab_size == WORDS
    return ["model.tokenizer.type=bert", f"model.tokenizer.path={folder / 'vocab.txt'}"]
