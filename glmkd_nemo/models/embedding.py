"""GLM's input embedding: word + position + block position."""

from __future__ import annotations

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from glmkd_nemo.models.config import GLMConfig


class GLMEmbedding(MegatronModule):
    """Sum of three learned tables, after dropout laid out for the transformer.

    Position ids have two rows (arXiv 2103.10360, section 2.1.1): the position in the text with its
    blanks, and the position inside a block (0 in the context).
    """

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config=config)
        self.word_embeddings = tensor_parallel.VocabParallelEmbedding(
            config.padded_vocab_size,
            config.hidden_size,
            init_method=config.init_method,
            config=config,
        )
        rows = config.max_position_embeddings + 1
        self.position_embeddings = _table(rows, config)
        self.block_position_embeddings = _table(rows, config)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Embeds a batch.

        Args:
            input_ids: ``[b, s]``.
            position_ids: ``[b, 2, s]``: positions and block positions.

        Returns:
            ``[s, b, h]``, or this rank's slice of ``s`` under sequence parallelism.
        """
        h_bsh = self.word_embeddings(input_ids)
        h_bsh = h_bsh + self.position_embeddings(position_ids[:, 0])
        h_bsh = h_bsh + self.block_position_embeddings(position_ids[:, 1])
        h_sbh = h_bsh.transpose(0, 1).contiguous()
        if not self.config.sequence_parallel:
            return self._dropout(h_sbh)
        h_sbh = tensor_parallel.scatter_to_sequence_parallel_region(h_sbh)
        with tensor_parallel.get_cuda_rng_tracker().fork():
            # each rank drops elements of its own slice, so the draws must differ between ranks
            return self._dropout(h_sbh)

    def _dropout(self, h: Tensor) -> Tensor:
        return nn.functional.dropout(h, self.config.embedding_dropout, self.training)


def _table(rows: int, config: GLMConfig) -> nn.Embedding:
    table = nn.Embedding(rows, config.hidden_size, dtype=config.params_dtype)
    with torch.no_grad():
        config.init_method(table.weight)
    return table
