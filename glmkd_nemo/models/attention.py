"""Prefix-LM attention: the first ``sep`` positions are seen by all, the rest causally."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from glmkd_nemo.distill.taps import recomputed, tap, wanted
from glmkd_nemo.models import flex
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.mask import AttentionMask

MASKED_SCORE = -65504.0  # GLM's constant: the lowest fp16 number, exp() of it is 0


class PrefixAttention(MegatronModule):
    """Core attention of a GLM layer, in the place of Megatron-Core's ``DotProductAttention``.

    A fused kernel runs unless this layer's scores or probabilities are tapped: FlexAttention where
    it fits (:func:`~glmkd_nemo.models.flex.fits`), else PyTorch's SDPA. Tensors tapped here are of
    this rank's heads: ``query``, ``key``, ``value`` ``[b, n, s, d]``, ``scores``
    (masked entries -65504) and ``probs`` ``[b, n, s, s]``.
    """

    def __init__(
        self,
        config: GLMConfig,
        layer_number: int,
        attn_mask_type: Any = None,
        attention_type: str = "self",
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config=config)
        self.layer = layer_number - 1

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: AttentionMask,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attends.

        Args:
            query, key, value: ``[s, b, n, d]``, ``n`` heads of this rank.
            attention_mask: of the forward pass.

        Returns:
            ``[s, b, n * d]``.
        """
        assert attention_bias is None
        assert packed_seq_params is None
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if self.config.recompute == "selective" and self.training and torch.is_grad_enabled():
            context = recomputed(self._attend, q, k, v, attention_mask)
        else:
            context = self._attend(q, k, v, attention_mask)
        return context.permute(2, 0, 1, 3).flatten(2).contiguous()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        q = tap(q, "query", self.layer)
        k = tap(k, "key", self.layer)
        v = tap(v, "value", self.layer)
        dropout = self.config.attention_dropout if self.training else 0.0
        explicit = wanted("scores", self.layer) or wanted("probs", self.layer)
        attend = self._explicit if explicit else _fused
        if dropout == 0.0 or self.config.sequence_parallel:
            return attend(q, k, v, mask, dropout)  # under SP the whole block runs in the fork
        with tensor_parallel.get_cuda_rng_tracker().fork():
            # heads are sharded over ranks: their dropout draws must differ
            return attend(q, k, v, mask, dropout)

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, dropout: float
    ) -> Tensor:
        scale, hidden = self.config.attention_scale, mask.hidden()
        if scale != 1.0:
            q = q / scale
        # changed in place where autograd keeps nothing of it: these are the largest tensors
        scores = q @ (k / math.sqrt(k.shape[-1])).transpose(-1, -2)
        if scale > 1.0:
            largest = scores.masked_fill_(hidden, 0.0).amax(-1, keepdim=True)
            scores = (scores - largest).mul_(scale)
        scores = tap(scores.masked_fill_(hidden, MASKED_SCORE), "scores", self.layer)
        probs = tap(scores.softmax(-1, dtype=_softmax_dtype(scores)), "probs", self.layer)
        return F.dropout(probs, dropout).to(v.dtype) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, dropout: float) -> Tensor:
    if mask.sep is not None and flex.fits(q, k, dropout):
        return flex.compiled()(q, k, v, block_mask=mask.tiles())
    blocks = mask.blocks(q.dtype, at_once=dropout > 0.0)
    if len(blocks) == 1:
        bias = blocks[0].bias
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    done = [
        F.scaled_dot_product_attention(
            q[:, :, block.start : block.end],
            k[:, :, : block.keys],
            v[:, :, : block.keys],
            attn_mask=block.bias,
        )
        for block in blocks
    ]
    return torch.cat(done, 2)


def _softmax_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
