"""The planner needs a process without process groups, and other tests leave some behind."""

from typing import Any

import pytest

from glmkd_nemo.demo.process import run_apart


@pytest.fixture(scope="session")
def found() -> dict[str, Any]:
    """What tests/plan/cases.py collects: one start of a process for all tests."""
    result: dict[str, Any] = run_apart("tests.plan.cases.collect")
    return result
