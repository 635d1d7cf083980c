"""A world of one rank, for tests that build models."""

from tests.models.conftest import alone

__all__ = ["alone"]
