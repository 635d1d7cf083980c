"""A world of one rank, for tests that build models."""

from collections.abc import Iterator

import pytest

import glmkd_nemo  # noqa: F401  (patches for machines without CUDA, before Megatron-Core)
from tests.distill.single import one_rank


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Process groups of size 1 for the tests of a module."""
    with one_rank():
        yield
