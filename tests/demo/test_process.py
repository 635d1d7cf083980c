"""A stage's process: its answer, its errors for the user, its death."""

import os
import signal

import pytest

from glmkd_nemo.demo.process import StageFailedError, run_apart


def add(left: int, right: int) -> tuple[int, int]:
    return left + right, os.getpid()


def refuse(text: str) -> None:
    raise ValueError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_answer_comes_back_from_another_process() -> None:
    total, pid = run_apart(add, 2, 3)
    assert total == 5
    assert pid != os.getpid()


def test_a_message_for_the_user_arrives_as_it_was() -> None:
    with pytest.raises(ValueError, match="the corpus is empty"):
        run_apart(refuse, "the corpus is empty")


def test_a_killed_stage_is_an_error_not_a_hang() -> None:
    with pytest.raises(StageFailedError, match="die ended with code -9"):
        run_apart(die)
