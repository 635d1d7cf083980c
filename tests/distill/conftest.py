"""Every test here may build models and compute losses: one rank is set up for all of them."""

from collections.abc import Iterator

import pytest

import glmkd_nemo  # noqa: F401  (patches for machines without CUDA, before Megatron-Core)
from tests.distill.single import one_rank


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A world of one rank for the tests of a module."""
    with one_rank():
        yield
