"""A parallel layout: how many processes, and how they share the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.engine.layout import check_layout

_NAMES = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "micro_batch_size")


@dataclass(frozen=True)
class Layout:
    """Processes and batch of a run.

    Attributes:
        world: processes in total.
        per_node: processes of a node.
        tp, pp: tensor- and pipeline-parallel size.
        micro, total: micro- and global batch size, in samples.
        sequence_parallel: whether activations between tensor-parallel regions are sharded too.
    """

    world: int
    per_node: int
    tp: int
    pp: int
    micro: int
    total: int
    sequence_parallel: bool = False

    @property
    def dp(self) -> int:
        """Data-parallel size."""
        return self.world // (self.tp * self.pp)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step, on each data-parallel rank."""
        return self.total // (self.micro * self.dp)

    def overrides(self) -> dict[str, Any]:
        """Entries of the section ``model`` that say so."""
        sizes = dict(zip(_NAMES, (self.tp, self.pp, self.micro), strict=True))
        return {
            **sizes,
            "global_batch_size": self.total,
            "sequence_parallel": self.sequence_parallel,
        }

    def in_flight(self, stage: int) -> int:
        """Micro-batches whose activations a stage keeps at a time (the 1F1B schedule)."""
        return min(self.micro_batches, self.pp - stage)


def layout_of(model: Mapping[str, Any], nodes: int, per_node: int) -> Layout:
    """The layout that a configuration asks for.

    Args:
        model: the section ``model``.
        nodes, per_node: nodes, and devices of each.

    Raises:
        ValueError: what does not fit, with the remedy.
    """
    check_layout(model, nodes * per_node)
    tp, pp, micro = (int(model.get(name) or 1) for name in _NAMES)
    total, flat = int(model["global_batch_size"]), bool(model.get("sequence_parallel"))
    layout = Layout(nodes * per_node, per_node, tp, pp, micro, total, flat)
    if layout.tp > per_node:
        raise ValueError(
            f"tensor_model_parallel_size={layout.tp} spans nodes of {per_node} devices, the links "
            f"between which are too slow: lower it to a divisor of {per_node}, and raise "
            "pipeline_model_parallel_size."
        )
    return layout


def candidates(
    model: Mapping[str, Any], nodes: int, per_node: int, max_pipeline: int
) -> Iterator[Layout]:
    """All layouts of a cluster that a model can be run at; tensor parallelism within a node.

    Args:
        model, nodes, per_node: as in :func:`layout_of`; batch and sequence parallelism (where TP
            is above 1) are kept.
        max_pipeline: the most pipeline stages.
    """
    world, total = nodes * per_node, int(model["global_batch_size"])
    for tp in _divisors(per_node):
        for pp in (n for n in _divisors(world // tp) if n <= max_pipeline):
            dp = world // (tp * pp)
            for micro in _divisors(total // dp) if total % dp == 0 else ():
                flat = tp > 1 and bool(model.get("sequence_parallel"))
                layout = Layout(world, per_node, tp, pp, micro, total, flat)
                if _possible(model, layout):
                    yield layout


def _possible(model: Mapping[str, Any], layout: Layout) -> bool:
    try:
        check_layout({**model, **layout.overrides()}, layout.world)
    except ValueError:
        return False
    return True


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
