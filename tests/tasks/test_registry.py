"""Tasks by name, their options checked."""

from __future__ import annotations

import pytest

from glmkd_nemo.tasks import registry


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_task_has_options_and_a_file(name: str) -> None:
    from glmkd_nemo.config.run import CONF

    assert "name" in registry.task_fields(name)
    assert (CONF / "task" / f"{name}.yaml").is_file()


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown task 'rtee'; did you mean rte"):
        registry.task_class("rtee")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="patern_id"):
        registry.build_task({"name": "rte", "patern_id": 1}, None)


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="write task=NAME"):
        registry.build_task({}, None)


def test_labels_are_tokens_or_answers() -> None:
    assert [registry.over_tokens({"name": n}) for n in ("rte", "wsc_generative", "lambada")] == [
        False,
        True,
        True,
    ]
