"""What the planner prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from glmkd_nemo.plan.hardware import GIB
from glmkd_nemo.plan.memory import RankMemory
from glmkd_nemo.plan.search import Plan, remedies
from glmkd_nemo.plan.settings import PlanSettings

WIDTH = 118  # of a table that is piped into a file
_PARTS = {
    "weights": "weights",
    "gradients": "gradients fp32",
    "optimizer": "optimizer",
    "teachers": "teacher weights",
    "activations": "activations",
    "logits": "logits and losses",
    "teacher_activations": "teacher activations",
    "carried": "between stages",
    "overhead": "overhead",
    "peak": "peak",
}


def console() -> Console:
    """A console that is wide enough for the tables, also where there is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def show_plan(plan: Plan, title: str, settings: PlanSettings) -> None:
    """Memory by part, a column per pipeline stage, then the time of a step."""
    out = console()
    layout = plan.layout
    cluster = f"{layout.world // layout.per_node} x {layout.per_node} {settings.gpu}"
    out.print(f"{title}: {cluster}; {layout_words(plan)}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("GiB of a rank")
    for rank in plan.ranks:
        table.add_column("every rank" if len(plan.ranks) == 1 else f"stage {rank.stage}", "right")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("parameters", *(_count(rank.parameters) for rank in plan.ranks))
    if plan.ranks[0].teacher_parameters:
        sums = (sum(rank.teacher_parameters.values()) for rank in plan.ranks)
        table.add_row("parameters of teachers", *(_count(number) for number in sums))
    table.add_row("layers", *(_layers(plan, rank.stage) for rank in plan.ranks))
    for name, label in _PARTS.items():
        if name == "peak" or any(getattr(memory, name) for memory in plan.memory):
            cells = [f"{getattr(memory, name) / GIB:.2f}" for memory in plan.memory]
            table.add_row(label, *cells, style="bold" if name == "peak" else "")
    table.add_row("left over", *(_left(plan, memory) for memory in plan.memory))
    out.print(table)
    out.print(fit_words(plan, settings), markup=False, soft_wrap=True)
    for line in speed_words(plan, settings):
        out.print(line, markup=False, soft_wrap=True)


def show_search(plans: Sequence[Plan], settings: PlanSettings) -> None:
    """The fastest layouts that fit."""
    out = console()
    fitting = [plan for plan in plans if plan.fits]
    best: dict[tuple[int, int], Plan] = {}  # the best micro-batch of each
    for plan in fitting:
        best.setdefault((plan.layout.tp, plan.layout.pp), plan)
    out.print(f"\n{len(plans)} layouts, {len(fitting)} fit; the fastest:", markup=False)
    table = Table(box=None, pad_edge=False)
    for head in (
        "TP",
        "PP",
        "DP",
        "micro",
        "in a step",
        "peak GiB",
        "step s",
        "tokens/s",
        "bubble",
    ):
        table.add_column(head, justify="right")
    for plan in list(best.values())[: settings.top]:
        layout, speed = plan.layout, plan.speed
        sizes = (layout.tp, layout.pp, layout.dp, layout.micro, layout.micro_batches)
        table.add_row(
            *map(str, sizes),
            f"{plan.peak / GIB:.1f}",
            f"{speed.step:.3g}",
            f"{speed.tokens / speed.step:,.0f}",
            f"{speed.bubble:.0%}",
        )
    out.print(table)


def paste_words(plan: Plan) -> str:
    """Overrides of a layout, to be pasted behind the command of the run."""
    values = plan.layout.overrides()
    return " ".join(f"model.{key}={str(value).lower()}" for key, value in values.items())


def layout_words(plan: Plan) -> str:
    """The layout in a line."""
    layout = plan.layout
    return (
        f"TP {layout.tp} x PP {layout.pp} x DP {layout.dp}"
        f"{' with sequence parallelism' if layout.sequence_parallel else ''}, global batch "
        f"{layout.total} = {layout.dp} x {layout.micro_batches} micro-batches of {layout.micro}"
    )


def fit_words(plan: Plan, settings: PlanSettings) -> str:
    """Whether it fits, and by how much; what would help if not."""
    left = (plan.capacity - plan.peak) / GIB
    has = f"{plan.capacity / GIB:.1f} GiB of {settings.gpu}"
    if plan.fits:
        return f"fits: the peak is {plan.peak / GIB:.1f} of {has}, {left:.1f} GiB are left"
    return (
        f"does NOT fit: the peak is {plan.peak / GIB:.1f} of {has}, {-left:.1f} GiB too much; "
        f"{remedies(plan)}"
    )


def speed_words(plan: Plan, settings: PlanSettings) -> list[str]:
    """The time of a step, and what it is made of."""
    speed, assumed = plan.speed, settings.assumed
    micro = (speed.student_forward, speed.teacher_forward, speed.student_backward)
    forward, teacher, backward = (f"{1000 * seconds:.1f}" for seconds in micro)
    devices = plan.layout.world
    return [
        f"step: about {speed.step:.3g} s, {speed.samples / speed.step:,.1f} samples/s, "
        f"{speed.tokens / speed.step:,.0f} tokens/s, "
        f"{speed.flops / speed.step / devices / 1e12:.3g} TFLOP/s per device",
        f"  a micro-batch on the slowest stage: student forward {forward} ms, teacher forward "
        f"{teacher} ms, student backward {backward} ms",
        f"  pipeline {speed.pipeline:.3g} s (bubble {speed.bubble:.0%}), data-parallel reduction "
        f"{speed.reduction:.2g} s, optimizer {speed.optimizer:.2g} s",
        f"  assumed: products at {assumed.mfu:.0%} of the peak and less, memory and links at "
        f"{assumed.bandwidth:.0%}, nothing overlapped",
    ]


def _layers(plan: Plan, stage: int) -> str:
    rank = plan.ranks[stage]
    configs = [rank.config, *rank.teacher_configs.values()]
    return " + ".join(str(config.split[stage]) for config in configs)


def _left(plan: Plan, memory: RankMemory) -> str:
    return f"{(plan.capacity - memory.peak) / GIB:.2f}"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
