"""Triton kernels of ``fused_triton.py``, which alone imports this file: it needs Triton.

Logits are ``[c, V']`` of any float type, columns next to each other, rows ``stride`` elements apart
(offsets are 64 bits wide); all arithmetic is fp32. ``scale`` is 1 / temperature. A program of a
statistics kernel has one part of one row, one of a gradient kernel one block of one row, so that
short chunks fill a GPU as well.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _excess_near_0(x: tl.tensor) -> tl.tensor:
    """``e^x - 1 - x`` for ``|x| < 0.5``, from its series (the difference would lose digits)."""
    y = 1.0 / 40320.0 + x * (1.0 / 362880.0)
    y = 1.0 / 720.0 + x * (1.0 / 5040.0 + x * y)
    y = 1.0 / 24.0 + x * (1.0 / 120.0 + x * y)
    return x * x * (0.5 + x * (1.0 / 6.0 + x * y))


@triton.jit
def _excess(a: tl.tensor, exp_a: tl.tensor, x: tl.tensor) -> tl.tensor:
    """``e^a (e^x - 1 - x)``, where ``e^x`` alone may be too large."""
    far = tl.exp(a + x) - exp_a * (1.0 + x)
    return tl.where(tl.abs(x) < 0.5, exp_a * _excess_near_0(x), far)


@triton.jit
def _moved(
    a: tl.tensor,
    exp_a: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    rest: tl.tensor,
    excess: tl.tensor,
) -> tl.tensor:
    """``excess`` (see below) of leads ``x`` larger, all weights multiplied by ``e^a``."""
    growth = tl.where(tl.abs(x) < 0.5, exp_a * (x + _excess_near_0(x)), tl.exp(a + x) - exp_a)
    return tl.exp(a + x) * excess + growth * rest + weight * _excess(a, exp_a, x)


@triton.jit
def _load(pointer: tl.tensor, columns: tl.tensor, n_columns: tl.tensor) -> tl.tensor:
    """A block of logits, ``-inf`` beyond the last column."""
    x = tl.load(pointer + columns, mask=columns < n_columns, other=float("-inf"))
    return x.to(tl.float32)


@triton.jit
def _write(
    pointer: tl.tensor,
    columns: tl.tensor,
    n_columns: tl.tensor,
    gradient: tl.tensor,
    ADD: tl.constexpr,
) -> None:
    """Stores a block of gradients, or adds it to what is there."""
    inside = columns < n_columns
    if ADD:
        gradient += tl.load(pointer + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(pointer + columns, gradient.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _block(lead: tl.tensor, t: tl.tensor) -> tl.tensor:
    """Statistics of one block: see :func:`kl_statistics`."""
    top = tl.max(t, 0)
    a = t - top
    p = tl.exp(a)
    weight = tl.sum(p, 0)
    entropy = tl.sum(p * tl.maximum(a, -1e30), 0)  # 0 beyond the last column, where a is -inf
    center = tl.sum(p * lead, 0) / weight
    u = lead - center
    return top, weight, center, tl.sum(p * u, 0), tl.sum(_excess(a, p, u), 0), entropy


@triton.jit
def kl_statistics(
    s_pointer: tl.tensor,
    t_pointer: tl.tensor,
    out_pointer: tl.tensor,
    s_stride: tl.tensor,
    t_stride: tl.tensor,
    n_columns: tl.tensor,
    part_columns: tl.tensor,
    n_parts: tl.tensor,
    n_values: tl.tensor,
    scale: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One read of student and teacher: ``fused_triton.STATISTICS`` of a part of a row.

    With ``p = e^(t - top)`` and ``lead = s - t``: a ``center`` near the mean of the lead under p,
    and sums of ``p``, ``p u``, ``p (e^u - 1 - u)``, where ``u = lead - center``. The last one's
    terms have one sign, and are small as long as the center is at the mean: it moves with it.
    """
    program = tl.program_id(0)
    row, first = (program // n_parts).to(tl.int64), (program % n_parts) * part_columns
    top = tl.full((), float("-inf"), tl.float32)
    s_top = tl.full((), float("-inf"), tl.float32)
    weight = tl.full((), 0.0, tl.float32)
    center, rest, excess, entropy, s_weight = weight, weight, weight, weight, weight
    for start in range(first, tl.minimum(first + part_columns, n_columns), BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s = _load(s_pointer + row * s_stride, columns, n_columns)
        t = _load(t_pointer + row * t_stride, columns, n_columns)
        lead = tl.where(columns < n_columns, (s - t) * scale, 0.0)
        s, t = s * scale, t * scale
        top_1, weight_1, center_1, rest_1, excess_1, entropy_1 = _block(lead, t)

        new = tl.maximum(top, top_1)
        a, a_1 = top - new, top_1 - new
        e, e_1 = tl.exp(a), tl.exp(a_1)
        moved = rest * e + (weight_1 * (center_1 - center) + rest_1) * e_1
        new_center = center + moved / (weight * e + weight_1 * e_1)
        x, x_1 = center - new_center, center_1 - new_center
        excess = _moved(a, e, x, weight, rest, excess)
        excess += _moved(a_1, e_1, x_1, weight_1, rest_1, excess_1)
        rest = (rest + weight * x) * e + (rest_1 + weight_1 * x_1) * e_1
        entropy = (entropy + tl.where(weight > 0, a, 0.0) * weight) * e
        entropy += (entropy_1 + a_1 * weight_1) * e_1
        weight = weight * e + weight_1 * e_1
        top, center = new, new_center

        new = tl.maximum(s_top, tl.max(s, 0))
        s_weight = s_weight * tl.exp(s_top - new) + tl.sum(tl.exp(s - new), 0)
        s_top = new
    out_pointer += program
    tl.store(out_pointer, top)
    tl.store(out_pointer + n_values, weight)
    tl.store(out_pointer + 2 * n_values, center)
    tl.store(out_pointer + 3 * n_values, rest)
    tl.store(out_pointer + 4 * n_values, excess)
    tl.store(out_pointer + 5 * n_values, entropy)
    tl.store(out_pointer + 6 * n_values, s_top)
    tl.store(out_pointer + 7 * n_values, s_weight)


@triton.jit
def kl_gradient(
    s_pointer: tl.tensor,
    t_pointer: tl.tensor,
    out_pointer: tl.tensor,
    rows_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    s_stride: tl.tensor,
    t_stride: tl.tensor,
    out_stride: tl.tensor,
    n_rows: tl.tensor,
    n_columns: tl.tensor,
    n_blocks: tl.tensor,
    scale: tl.tensor,
    ADD: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``q - p``, or for the reverse ``q (lead - its mean)``, times the row's weight."""
    program = tl.program_id(0)
    row = (program // n_blocks).to(tl.int64)
    columns = (program % n_blocks) * BLOCK + tl.arange(0, BLOCK)
    s = _load(s_pointer + row * s_stride, columns, n_columns)
    t = _load(t_pointer + row * t_stride, columns, n_columns)
    rows_pointer += row
    p_top, p_factor = tl.load(rows_pointer), tl.load(rows_pointer + n_rows)
    q_top, q_factor = tl.load(rows_pointer + 2 * n_rows), tl.load(rows_pointer + 3 * n_rows)
    shift, more = tl.load(rows_pointer + 4 * n_rows), tl.load(rows_pointer + 5 * n_rows)
    lead = (s - t) * scale - shift - more
    if REVERSE:
        gradient = tl.exp(s * scale - q_top) * q_factor * lead
    else:
        # lead = log q - log p, and q - p = max(p, q) (1 - e^-|lead|), with the sign of the lead
        size = tl.abs(lead)
        near = size - _excess_near_0(-size)
        share = tl.where(size < 0.5, near, 1.0 - tl.exp(-size))
        q_larger = lead > 0
        exponent = tl.where(q_larger, s * scale - q_top, t * scale - p_top)
        larger = tl.exp(exponent) * tl.where(q_larger, q_factor, p_factor)
        gradient = larger * tl.where(q_larger, share, -share)
    gradient *= tl.load(weight_pointer + row)
    _write(out_pointer + row * out_stride, columns, n_columns, gradient, ADD)


@triton.jit
def label_statistics(
    s_pointer: tl.tensor,
    labels_pointer: tl.tensor,
    out_pointer: tl.tensor,
    s_stride: tl.tensor,
    n_columns: tl.tensor,
    part_columns: tl.tensor,
    n_parts: tl.tensor,
    n_values: tl.tensor,
    scale: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Maximum, sum of exponentials and the label's logit (0 if elsewhere) of a part of a row."""
    program = tl.program_id(0)
    row, part = (program // n_parts).to(tl.int64), program % n_parts
    s_pointer += row * s_stride
    top = tl.full((), float("-inf"), tl.float32)
    weight = tl.full((), 0.0, tl.float32)
    first = part * part_columns
    for start in range(first, tl.minimum(first + part_columns, n_columns), BLOCK):
        s = _load(s_pointer, start + tl.arange(0, BLOCK), n_columns) * scale
        new = tl.maximum(top, tl.max(s, 0))
        weight = weight * tl.exp(top - new) + tl.sum(tl.exp(s - new), 0)
        top = new
    label = tl.load(labels_pointer + row)
    mine = (label >= 0) & (label < n_columns) & (part == 0)
    picked = tl.load(s_pointer + label, mask=mine, other=0.0).to(tl.float32) * scale
    out_pointer += program
    tl.store(out_pointer, top)
    tl.store(out_pointer + n_values, weight)
    tl.store(out_pointer + 2 * n_values, picked)


@triton.jit
def label_gradient(
    s_pointer: tl.tensor,
    labels_pointer: tl.tensor,
    out_pointer: tl.tensor,
    rows_pointer: tl.tensor,
    weight_pointer: tl.tensor,
    s_stride: tl.tensor,
    out_stride: tl.tensor,
    n_rows: tl.tensor,
    n_columns: tl.tensor,
    n_blocks: tl.tensor,
    scale: tl.tensor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Softmax minus one-hot, times the row's weight."""
    program = tl.program_id(0)
    row = (program // n_blocks).to(tl.int64)
    columns = (program % n_blocks) * BLOCK + tl.arange(0, BLOCK)
    s = _load(s_pointer + row * s_stride, columns, n_columns)
    top, factor = tl.load(rows_pointer + row), tl.load(rows_pointer + n_rows + row)
    gradient = tl.exp(s * scale - top) * factor
    gradient -= (columns == tl.load(labels_pointer + row)).to(tl.float32)
    gradient *= tl.load(weight_pointer + row)
    _write(out_pointer + row * out_stride, columns, n_columns, gradient, ADD)
