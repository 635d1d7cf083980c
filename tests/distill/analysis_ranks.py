"""The analysis of layers on two tensor-parallel ranks."""

from __future__ import annotations

from glmkd_nemo.distill.method import batch_of
from glmkd_nemo.engine.analysis import measure
from tests.distill.kit import Bench, batch
from tests.distill.ranks import layout

TEMPERATURES = [1.0, 5.0]


def one(sp: bool = False) -> dict[str, float]:
    """Similarities of the kit's models in the layout that is set up."""
    bench = Bench("kd", sp=sp)
    micro = batch_of(batch([0, 1, 2]))
    return measure(bench.student, bench.teachers, micro, TEMPERATURES)["t0"]


def two() -> dict[str, dict[str, float]]:
    """The same with tensor parallelism, and with sequence parallelism too."""
    with layout(tp=2):
        return {"tp2": one(), "tp2_sp": one(sp=True)}
