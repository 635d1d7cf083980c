"""Original options on hard labels, as the options of our term."""

from __future__ import annotations

import pytest

from glmkd_nemo.replay.flags import Setting, parse
from glmkd_nemo.replay.flags.predictions import prediction_terms


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ([], "cross_entropy"),
        (["--loss-func=hinge"], "hinge"),
        (["--loss-func=generative"], "generative"),
        (["--loss-func=mix"], "mix"),
        (["--adapet", "--loss-func=hinge"], "adapet"),
    ],
)
def test_loss_of_a_task(options: list[str], loss: str):
    flags = parse(["--distill_ft_hard", *options])
    hard = prediction_terms(flags, Setting("ft_multi", 2, (4,), 3))["hard"]
    assert (hard["of"], hard["loss"]) == ("classes", loss)
    assert "loss" not in prediction_terms(flags, Setting("ft_lm", 2, (4,)))["hard"]


def test_names_as_a_case_records_them():
    flags = {"distill_ft_hard": True, "loss_func": "mix"}
    assert prediction_terms(flags, Setting("ft_single", 2, (4,), 2))["hard"]["loss"] == "mix"
