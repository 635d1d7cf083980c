"""The few tensor-parallel helpers that losses need. Nothing above ``losses.py`` imports them."""

from __future__ import annotations

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor


def tp_size() -> int:
    """Number of tensor-parallel ranks."""
    return int(parallel_state.get_tensor_model_parallel_world_size())


def tp_rank() -> int:
    """This rank's place among the tensor-parallel ranks."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def all_sum(x: Tensor) -> Tensor:
    """Sum over tensor-parallel ranks; in the backward each rank gets the gradient as it is.

    Right wherever what follows is computed by all ranks alike.
    """
    if tp_size() == 1:
        return x
    summed: Tensor = tensor_parallel.reduce_from_tensor_model_parallel_region(x.contiguous())
    return summed


def shared(x: Tensor) -> Tensor:
    """The identity; in the backward the gradient is summed over the ranks.

    For a replicated tensor that each rank uses on its own shard only.
    """
    x = tensor_parallel.copy_to_tensor_model_parallel_region(x)
    if x.requires_grad:
        # Megatron-Core reduces a copy of a gradient that is not contiguous, returns the original
        x.register_hook(torch.Tensor.contiguous)
    return x


def whole_rows(x: Tensor) -> Tensor:
    """Concatenation over tensor-parallel ranks along the first axis; in the backward each rank
    gets the sum of all ranks' gradients of its own rows."""
    if tp_size() == 1:
        return x
    # the exchange of sequence parallelism: gather the first axis, reduce-scatter its gradient
    whole: Tensor = tensor_parallel.gather_from_sequence_parallel_region(
        x, tensor_parallel_output_grad=True
    )
    return whole


def all_max(x: Tensor) -> Tensor:
    """Maximum over tensor-parallel ranks, without gradient; may share memory with ``x``."""
    x = x.detach()
    if tp_size() == 1:
        return x
    x = x.clone()
    torch.distributed.all_reduce(
        x,
        op=torch.distributed.ReduceOp.MAX,
        group=parallel_state.get_tensor_model_parallel_group(),
    )
    return x


@torch.no_grad()
def all_gather_last(x: Tensor) -> Tensor:
    """Concatenation over tensor-parallel ranks along the last axis, without gradient."""
    return tensor_parallel.gather_from_tensor_model_parallel_region(x.detach().contiguous())


def dp_rank() -> int:
    """This rank's place among the data-parallel ranks."""
    return int(parallel_state.get_data_parallel_rank())


def gather_samples(x: Tensor) -> Tensor:
    """Concatenation over data-parallel ranks along the first axis, in the order of the ranks.

    In the backward each rank gets the *sum* of all ranks' gradients of its own samples. Where each
    rank's loss is the mean over its own samples, and gradients of parameters are averaged over
    ranks afterwards, this gives the gradient of the mean over all samples.

    Raises:
        ValueError: the ranks' tensors differ in shape, so that a gather would hang.
    """
    if parallel_state.get_data_parallel_world_size() == 1:
        return x
    group = parallel_state.get_data_parallel_group()
    shape = torch.tensor([*x.shape, *(-n for n in x.shape)], device=x.device)
    torch.distributed.all_reduce(shape, op=torch.distributed.ReduceOp.MAX, group=group)
    largest, smallest = shape.tolist()[: x.dim()], [-n for n in shape.tolist()[x.dim() :]]
    if largest != smallest:
        raise ValueError(
            f"samples of all data-parallel ranks are compared, but their shapes differ (from "
            f"{smallest} to {largest}): give all ranks as many samples of one length, or set "
            "gather_dp=false."
        )
    # the exchange of sequence parallelism: gather the first axis, reduce-scatter its gradient
    whole: Tensor = tensor_parallel.gather_from_sequence_parallel_region(
        x, tensor_parallel_output_grad=True, group=group
    )
    return whole
