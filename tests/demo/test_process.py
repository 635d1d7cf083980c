"""A stage's process: its answer, its errors for the user, its death."""

import os

import pytest

from glmkd_nemo.demo.process import StageFailedError, run_apart


def test_the_answer_comes_back_from_another_process() -> None:
    assert run_apart("operator.add", 2, 3) == 5
    assert run_apart("os.getpid") != os.getpid()


def test_a_message_for_the_user_arrives_as_it_was() -> None:
    with pytest.raises(ValueError, match="gives 1 pieces"):
        run_apart("glmkd_nemo.demo.text.deal_out", ["only one"])


def test_a_stage_that_dies_is_an_error_not_a_hang() -> None:
    with pytest.raises(StageFailedError, match=r"os\._exit ended with code 7"):
        run_apart("os._exit", 7)
