"""GLM's input embedding: word + position + block position.

Words may be embedded in fewer columns and projected (ALBERT, arXiv 1909.11942, section 3.1), and a
position may be given the words next to it as well (MobileBERT, arXiv 2004.02984, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from glmkd_nemo.distill.main_grad import main_grad
from glmkd_nemo.distill.parallel import tp_size
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.mask import AttentionMask
from glmkd_nemo.models.replicated import ReplicatedLinear


class GLMEmbedding(MegatronModule):
    """Sum of three learned tables, after dropout laid out for the transformer.

    Position ids have two rows (arXiv 2103.10360, section 2.1.1): the position in the text with its
    blanks, and the position inside a block (0 in the context).
    """

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config=config)
        self.word_embeddings = tensor_parallel.VocabParallelEmbedding(
            config.padded_vocab_size,
            config.word_embedding_size,
            init_method=config.init_method,
            config=config,
        )
        self.projection: ReplicatedLinear | None = None
        if config.embedding_size is not None:
            self.projection = ReplicatedLinear(
                config.embedding_size, config.hidden_size, config, on_slices=False
            )
        self.trigram: Trigram | None = None
        if config.bottleneck_word_embedding is not None:
            self.trigram = Trigram(config.bottleneck_word_embedding, config)
        rows = config.max_position_embeddings + 1
        self.position_embeddings = _table(rows, config)
        self.block_position_embeddings = _table(rows, config)

    def forward(self, input_ids: Tensor, position_ids: Tensor, mask: AttentionMask) -> Tensor:
        """Embeds a batch.

        Args:
            input_ids: ``[b, s]``.
            position_ids: ``[b, 2, s]``: positions and block positions.
            mask: who may attend to whom.

        Returns:
            ``[s, b, h]``, or this rank's slice of ``s`` under sequence parallelism.
        """
        h_bsh = self._words(input_ids)
        if self.projection is not None:
            h_bsh = self.projection(h_bsh)
        if self.trigram is not None:
            h_bsh = self.trigram(h_bsh, mask)
        h_bsh = h_bsh + self.position_embeddings(position_ids[:, 0])
        h_bsh = h_bsh + self.block_position_embeddings(position_ids[:, 1])
        h_sbh = h_bsh.transpose(0, 1).contiguous()
        if not self.config.sequence_parallel:
            return self._dropout(h_sbh)
        h_sbh = tensor_parallel.scatter_to_sequence_parallel_region(h_sbh)
        with tensor_parallel.get_cuda_rng_tracker().fork():
            # each rank drops elements of its own slice, so the draws must differ between ranks
            return self._dropout(h_sbh)

    def _words(self, input_ids: Tensor) -> Tensor:
        weight = self.word_embeddings.weight
        total = main_grad(weight) if tp_size() == 1 else None
        words: Tensor = (
            self.word_embeddings(input_ids)
            if total is None
            else _Rows.apply(input_ids, weight, total)
        )
        return words

    def _dropout(self, h: Tensor) -> Tensor:
        return nn.functional.dropout(h, self.config.embedding_dropout, self.training)


class _Rows(torch.autograd.Function):
    """Rows of a weight; their gradients are added to ``total``, that of the weight."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        ctx.ids, ctx.total = ids.flatten(), total
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        ctx.total.index_add_(0, ctx.ids, grad.flatten(0, -2).to(ctx.total.dtype))
        return None, None, None


class Trigram(nn.Module):
    """Words of three positions, projected to the hidden size.

    The three are a position, the one before it and the one after it; where it may not attend to
    the next position (the last of the context, and all of the blanks), the one two before it takes
    that place. (The paper, whose model sees both sides everywhere, always takes the next one.)

    Args:
        columns: leading ones of the word embedding that are read.
        config: of the model.
    """

    def __init__(self, columns: int, config: GLMConfig) -> None:
        super().__init__()
        self.columns = columns
        self.linear = ReplicatedLinear(3 * columns, config.hidden_size, config, on_slices=False)

    def forward(self, words: Tensor, mask: AttentionMask) -> Tensor:
        """Projects.

        Args:
            words: ``[b, s, h]``.
            mask: who may attend to whom.

        Returns:
            ``[b, s, h]``.
        """
        words = words[..., : self.columns]
        sees_next = mask.sees_next().unsqueeze(-1)
        beside = torch.where(sees_next, _shifted(words, -1), _shifted(words, 2))
        out: Tensor = self.linear(torch.cat([beside, words, _shifted(words, 1)], -1))
        return out


def _shifted(x: Tensor, steps: int) -> Tensor:
    """``[b, s, h]``: at each position what ``steps`` positions before it is, or zeros."""
    if steps < 0:
        return nn.functional.pad(x[:, -steps:], (0, 0, 0, -steps))
    return nn.functional.pad(x[:, :-steps], (0, 0, steps, 0))


def _table(rows: int, config: GLMConfig) -> nn.Embedding:
    table = nn.Embedding(rows, config.hidden_size, dtype=config.params_dtype)
    with torch.no_grad():
        config.init_method(table.weight)
    return table
