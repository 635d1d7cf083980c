"""Options that cannot work are refused when the objective is read, with the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from glmkd_nemo.distill.method import ModelShape
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.top_n import count

SHAPE = ModelShape(2, 8, 2)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"method": "kd", "temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"method": "glmd", "temperature": -1.0}, "temperature -1.0 must be above 0"),
        ({"method": "kd", "schedule": {"knd": "linear"}}, "no key 'knd'.*'kind'"),
        ({"method": "kd", "schedule": {"kind": "linaer"}}, "'linaer' is unknown"),
        ({"method": "kd", "loss": "kll"}, "'kll' is unknown"),
        (
            {
                "method": "tinybert",
                "random_layers": True,
                "random_every_epochs": 0,
                "random_every_steps": 0,
            },
            "must be above 0",
        ),
    ],
)
def test_refused(term: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Objective({"x": term_from_dict("x", term, ["t0"])}, SHAPE, {"t0": SHAPE})


@pytest.mark.parametrize(
    ("n", "vocab", "expected"), [(6, 5, 5), (0.001, 125, 1), (0.25, 128, 32), (20.0, 128, 20)]
)
def test_a_count_of_tokens_lies_between_one_and_all(n: float, vocab: int, expected: int):
    assert count(n, vocab) == expected
