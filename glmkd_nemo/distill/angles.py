"""Angles at vectors between the directions to others, compared between two models.

The directions, many times as large as the vectors, are made in pieces, used up and dropped. Pure
functions, in the precision of their inputs (fp32 or better), equal on all tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.chunks import Buffers, Gradients, blocks, elements, pieces, with_gradient

Where = tuple[slice, slice]


class Error(Protocol):
    """Compares cosines ``[m, r, k, k]`` of student and teacher at centres ``[m, r]`` of samples.

    Returns a sum and a count for each of the ``m`` samples; the count has no gradient.
    """

    def __call__(self, student: Tensor, teacher: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        """At ``where``: which samples, which centres."""


class Stars(Protocol):
    """Which directions of vectors ``[n, l, d]`` are taken: ``k`` at each of several centres."""

    def pieces(self, x: Tensor) -> Iterator[Where]:
        """Samples and centres, piece by piece."""

    def directions(self, x: Tensor, where: Where, buffers: Buffers, which: int) -> Tensor:
        """``[m, r, k, d]``, in a buffer."""

    def add_gradient(self, gradient: Tensor, of_directions: Tensor, where: Where) -> None:
        """Adds to ``gradient [n, l, d]`` what one on the directions of a piece means for it."""


def angle_error(
    student: Tensor, teacher: Tensor, stars: Stars, error: Error
) -> tuple[Tensor, Tensor]:
    """Errors of the cosines of angles between directions.

    Args:
        student: ``[n, l, d]``.
        teacher: ``[n, l, d']``.
        stars: the directions; one of length 0 has cosine 0 with all, and no gradient.
        error: compares the cosines of a piece.

    Returns:
        Sum and count ``[n]`` of what ``error`` finds for each sample.
    """
    value, count = with_gradient(partial(_angle_error, stars, error), student, teacher)
    assert count is not None
    return value, count


def _angle_error(
    stars: Stars, error: Error, s: Tensor, t: Tensor, gradients: Gradients
) -> tuple[Tensor, Tensor]:
    value, count, buffers = s.new_zeros(len(s)), s.new_zeros(len(s)), Buffers(s)
    for where in stars.pieces(s if s.shape[-1] > t.shape[-1] else t):
        d = [stars.directions(x, where, buffers, i) for i, x in enumerate((s, t))]
        products = [
            (x @ x.mT).requires_grad_(g is not None) for x, g in zip(d, gradients, strict=True)
        ]
        with torch.enable_grad():
            found, counted = error(_cosines(products[0]), _cosines(products[1]), where)
            total = found.sum()
        value[where[0]] += found.detach()
        count[where[0]] += counted
        wanted = [x for x in products if x.requires_grad]
        found_gradients = iter(torch.autograd.grad(total, wanted) if wanted else ())
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                of_products = next(found_gradients)
                out = buffers.get(2, *d[i].shape)
                torch.matmul(of_products + of_products.mT, d[i], out=out)
                stars.add_gradient(gradient, out, where)
    return value, count


def _cosines(products: Tensor) -> Tensor:
    """``[..., k, k]`` of inner products of ``k`` vectors."""
    squares = products.diagonal(dim1=-2, dim2=-1)
    scales = squares.clamp_min(1e-24).rsqrt() * (squares > 1e-24)
    return products * scales.unsqueeze(-1) * scales.unsqueeze(-2)


class Windows(NamedTuple):
    """From each inner position to those at most ``reach`` away, itself too.

    The vectors have ``reach`` more at either end, which are no centres.
    """

    reach: int

    def pieces(self, x: Tensor) -> Iterator[Where]:
        """Several samples, or some centres of one."""
        n, length, d = x.shape
        width = 2 * self.reach + 1
        yield from blocks(n, length - 2 * self.reach, width * d, elements(x))

    def directions(self, x: Tensor, where: Where, buffers: Buffers, which: int) -> Tensor:
        """``[m, r, k, d]``."""
        windows = x[where[0]].unfold(1, 2 * self.reach + 1, 1)[:, where[1]].mT
        centre = windows[:, :, self.reach : self.reach + 1]
        return torch.sub(windows, centre, out=buffers.get(which, *windows.shape))

    def add_gradient(self, gradient: Tensor, of_directions: Tensor, where: Where) -> None:
        """A vector is the end of directions in several windows, and the start of one's own."""
        sample, centres = gradient[where[0]], where[1]
        for offset in range(2 * self.reach + 1):
            near = sample[:, centres.start + offset : centres.stop + offset]
            near += of_directions[:, :, offset]
        sample[:, centres.start + self.reach : centres.stop + self.reach] -= of_directions.sum(2)


class AllPairs:
    """From each vector to all vectors of its sample."""

    def pieces(self, x: Tensor) -> Iterator[Where]:
        """Several samples, all their centres."""
        for several in pieces(len(x), elements(x) // (x.shape[1] ** 2 * x.shape[2])):
            yield several, slice(None)

    def directions(self, x: Tensor, where: Where, buffers: Buffers, which: int) -> Tensor:
        """``[m, l, l, d]``."""
        x = x[where[0]]
        out = buffers.get(which, *x.shape[:2], *x.shape[1:])
        return torch.sub(x.unsqueeze(1), x.unsqueeze(2), out=out)

    def add_gradient(self, gradient: Tensor, of_directions: Tensor, where: Where) -> None:
        """Ends less starts."""
        gradient[where[0]] += of_directions.sum(1) - of_directions.sum(2)


class Chosen(NamedTuple):
    """From vectors chosen as centres to vectors chosen for each.

    Attributes:
        centre: ``[n, a]`` indices of vectors.
        near: ``[n, a, k]``.
    """

    centre: Tensor
    near: Tensor

    def pieces(self, x: Tensor) -> Iterator[Where]:
        """Some centres of one sample."""
        _, anchors, neighbours = self.near.shape
        for i in range(len(x)):
            for centres in pieces(anchors, elements(x) // (neighbours * x.shape[2])):
                yield slice(i, i + 1), centres

    def directions(self, x: Tensor, where: Where, buffers: Buffers, which: int) -> Tensor:
        """``[1, r, k, d]``."""
        x, near = x[where[0].start], self.near[where]
        out = buffers.get(which, near.numel(), x.shape[1])
        torch.index_select(x, 0, near.flatten(), out=out)
        return out.view(*near.shape, -1).sub_(x[self.centre[where]].unsqueeze(2))

    def add_gradient(self, gradient: Tensor, of_directions: Tensor, where: Where) -> None:
        """A vector may be the end, and the start, of any number of directions."""
        sample = gradient[where[0].start]
        for x, index in (
            (of_directions, self.near[where]),
            (-of_directions.sum(2), self.centre[where]),
        ):
            # the gradient of a look-up in a table: adds rows in a fixed order on any device
            sample += torch.ops.aten.embedding_dense_backward(
                x.flatten(0, -2), index.flatten(), len(sample), -1, False
            )


class SquaredError(NamedTuple):
    """Squared error of the cosines, times a weight ``[n, r]`` of each centre; counts nothing."""

    weight: Tensor

    def __call__(self, student: Tensor, teacher: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        """``[m]``, and zeros."""
        by_centre = (student - teacher).square().sum((2, 3))
        total = (by_centre * self.weight[where]).sum(1)
        return total, torch.zeros_like(total)


class SmoothL1(NamedTuple):
    """Smooth L1 of the cosines that count, those that are 0 at the student left out.

    Attributes:
        counted: ``[n, r, k]`` booleans, of centre and neighbour together; one neighbour and
            itself give nothing.
    """

    counted: Tensor

    def __call__(self, student: Tensor, teacher: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        """``[m]`` each."""
        ends = self.counted[where]
        itself = torch.eye(ends.shape[-1], dtype=torch.bool, device=ends.device)
        counted = ends.unsqueeze(-1) & ends.unsqueeze(-2) & ~itself & (student != 0)
        errors = torch.where(counted, F.smooth_l1_loss(student, teacher, reduction="none"), 0.0)
        return errors.sum((1, 2, 3)), counted.sum((1, 2, 3)).to(student.dtype)
