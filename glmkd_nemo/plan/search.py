"""The plan of a run at one layout, and the fastest layouts that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from glmkd_nemo.engine.precision import precision_name
from glmkd_nemo.plan.build import BuiltRank, Request, build_rank
from glmkd_nemo.plan.hardware import GIB
from glmkd_nemo.plan.layout import Layout, candidates
from glmkd_nemo.plan.memory import RankMemory, memory_of
from glmkd_nemo.plan.settings import PlanSettings
from glmkd_nemo.plan.speed import Speed, machine_of, precision_of, speed_of

Progress = Callable[[Iterable[tuple[int, int]]], Iterable[tuple[int, int]]]


@dataclass(frozen=True)
class Plan:
    """What a run needs at a layout.

    Attributes:
        layout: processes and batch.
        ranks, memory: of one rank of each pipeline stage, in order.
        speed: of a step.
        capacity: bytes of a device.
    """

    layout: Layout
    ranks: list[BuiltRank]
    memory: list[RankMemory]
    speed: Speed
    capacity: int

    @property
    def peak(self) -> int:
        """Bytes of the rank that needs most."""
        return max(memory.peak for memory in self.memory)

    @property
    def fits(self) -> bool:
        """Whether every rank fits its device."""
        return self.peak <= self.capacity


def plan_at(
    request: Request, layout: Layout, settings: PlanSettings, ranks: list[BuiltRank] | None = None
) -> Plan:
    """Plans one layout.

    Args:
        request: the models.
        layout: processes and batch.
        settings: device and assumptions.
        ranks: those of each stage, where they have been built already.

    Raises:
        ValueError: what cannot be had, with the remedy.
    """
    model = request.at(layout)
    of_run = partial(machine_of, settings.device, assumed=settings.assumed)
    machine = of_run(precision=precision_name(model.get("precision", 32)))
    if ranks is None:
        ranks = [build_rank(request, layout, stage) for stage in range(layout.pp)]
    memory = [memory_of(rank, model, layout, settings.assumed, settings.on_cpu) for rank in ranks]
    of_teachers = {
        name: of_run(precision=precision_of(config))
        for name, config in ranks[0].teacher_configs.items()
    }
    speed = speed_of(ranks, model, layout, machine, settings.assumed, of_teachers)
    return Plan(layout, ranks, memory, speed, int(settings.device.memory_gib * GIB))


def search(
    request: Request,
    cluster: tuple[int, int],
    settings: PlanSettings,
    progress: Progress = lambda work: work,
) -> list[Plan]:
    """Plans of all layouts of the cluster: those that fit, the fastest first, then the others.

    A layout's modules are built once for all micro-batch sizes.

    Args:
        request: the models.
        cluster: nodes, and devices of each.
        settings: device and assumptions.
        progress: wraps the list of (TP, PP) that are gone through.

    Raises:
        ValueError: no layout is possible at all.
    """
    layouts: dict[tuple[int, int], list[Layout]] = {}
    for layout in candidates(request.model, *cluster, settings.max_pipeline):
        layouts.setdefault((layout.tp, layout.pp), []).append(layout)
    refused: list[ValueError] = []
    plans = list(_plans(request, settings, layouts, progress, refused))
    if not plans:
        world = cluster[0] * cluster[1]
        reason = f"\n{refused[0]}" if refused else ""
        raise ValueError(
            f"no layout of {world} devices can run this: global_batch_size="
            f"{request.model['global_batch_size']} must be a multiple of the data-parallel size, "
            f"heads and widths of tensor_model_parallel_size.{reason}"
        )
    return sorted(plans, key=_order)


def _order(plan: Plan) -> tuple[bool, float, int]:
    """What fits by time, the rest by memory."""
    return not plan.fits, plan.speed.step if plan.fits else 0.0, plan.peak


def _plans(
    request: Request,
    settings: PlanSettings,
    layouts: dict[tuple[int, int], list[Layout]],
    progress: Progress,
    refused: list[ValueError],
) -> Iterator[Plan]:
    for sizes in progress(list(layouts)):
        first = layouts[sizes][0]
        try:
            ranks = [build_rank(request, first, stage) for stage in range(first.pp)]
        except ValueError as error:  # a teacher or term that this layout does not suit
            refused.append(error)
            continue
        for layout in layouts[sizes]:
            yield plan_at(request, layout, settings, ranks)


def remedies(plan: Plan) -> str:
    """What takes most of a plan that does not fit, and what would help."""
    worst = max(plan.memory, key=lambda memory: memory.peak)
    config = plan.ranks[0].config
    largest = worst.largest
    ideas = {
        "optimizer": "more data-parallel ranks, over which distributed_optimizer=true shards it",
        "activations": "micro_batch_size=1, recompute=full or sequence_parallel=true with TP",
        "logits": "a smaller micro_batch_size or a larger tensor_model_parallel_size",
        "teachers": "a larger tensor_ or pipeline_model_parallel_size, or the teachers' precision "
        "or offload",
        "overhead": "a device with more memory",
    }
    general = "a larger tensor_ or pipeline_model_parallel_size, more devices, or a smaller model"
    idea = ideas.get(largest, general)
    if largest == "activations" and config.recompute == "full":
        idea = "a smaller micro_batch_size, or sequence_parallel=true with TP"
    return f"the largest part is {largest} ({getattr(worst, largest) / GIB:.1f} GiB): try {idea}"
