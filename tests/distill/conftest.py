"""Every test here may build models and compute losses: one rank is set up for all of them."""

from collections.abc import Iterator

import pytest

import glmkd_nemo  # noqa: F401  (patches for machines without CUDA, before Megatron-Core)
from tests.distill.single import one_rank
from tests.launch import run_ranks


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A world of one rank for the tests of a module."""
    with one_rank():
        yield


@pytest.fixture(scope="session")
def on_two_ranks() -> dict[str, list[str]]:
    """What is wrong by check, of all checks that need two ranks."""
    return run_ranks("tests.distill.ranks:everything", 2, timeout=400)
