"""Gradients of large weights, added to where the optimizer reads them."""

from __future__ import annotations

from megatron.core import parallel_state
from torch import Tensor


def main_grad(weight: Tensor) -> Tensor | None:
    """Megatron-Core's sum of a weight's gradients, to which a backward may add its share itself.

    Autograd would have it as a tensor of its own, fresh in every step: of a word embedding that is
    mostly zeros, and a CPU takes a page fault for each 4 KB of it. Megatron-Core's linear layers do
    the same on a GPU (``gradient_accumulation_fusion``).

    Args:
        weight: a parameter.

    Returns:
        Its ``main_grad``; ``None`` outside Megatron-Core's DDP, on a GPU, and with other
        data-parallel ranks, where the reduction may wait for autograd's word.
    """
    if not weight.is_cpu or not hasattr(weight, "main_grad"):
        return None
    if parallel_state.get_data_parallel_world_size(with_context_parallel=True) > 1:
        return None
    total: Tensor = weight.main_grad
    return total
