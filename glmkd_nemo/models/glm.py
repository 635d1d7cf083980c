"""GLM on Megatron-Core (arXiv 2103.10360): one pipeline stage of it, or all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.enums import ModelType
from torch import Tensor

from glmkd_nemo.distill.losses import cross_entropy
from glmkd_nemo.distill.method import TaskBatch
from glmkd_nemo.distill.taps import put_logits, tap, wanted
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.embedding import GLMEmbedding
from glmkd_nemo.models.heads import HeadConfig, build_head
from glmkd_nemo.models.layer_spec import block_spec
from glmkd_nemo.models.logits import Logits
from glmkd_nemo.models.mask import AttentionMask
from glmkd_nemo.models.replicated import ReplicatedLinear
from glmkd_nemo.models.sharing import GLMBlock
from glmkd_nemo.models.vocab_map import VocabMap


class GLMModel(LanguageModule):
    """Embedding, pre-layernorm transformer with prefix attention, head tied to the embedding.

    Args:
        config: sizes and parallelism.
        pre_process: whether this stage has the embedding.
        post_process: whether this stage has the final layernorm and the head.
        tapped_layers: global indices of layers of which a tensor will be tapped.
        head: the task head of the last stage, if the model has one.
    """

    def __init__(
        self,
        config: GLMConfig,
        pre_process: bool = True,
        post_process: bool = True,
        tapped_layers: Collection[int] = (),
        head: HeadConfig | None = None,
    ) -> None:
        super().__init__(config=config)
        self.pre_process, self.post_process = pre_process, post_process
        self.share_embeddings_and_output_weights = True
        self.model_type = ModelType.encoder_or_decoder
        stage = parallel_state.get_pipeline_model_parallel_rank()
        first = sum(config.split[:stage])
        self.layers = range(first, first + config.split[stage])
        self.vocab_map: VocabMap | None = None
        if config.mapped_vocab_size is not None and (pre_process or post_process):
            self.vocab_map = VocabMap(config.mapped_vocab_size, config.vocab_size)
        if pre_process:
            self.embedding = GLMEmbedding(config)
        self.decoder = GLMBlock(
            config=config,
            spec=block_spec(config, self.layers, tapped_layers),
            pre_process=pre_process,
            post_process=post_process,
        )
        self.output_projection: ReplicatedLinear | None = None
        if post_process:
            width = config.word_embedding_size
            if config.embedding_size is not None:
                self.output_projection = ReplicatedLinear(
                    config.hidden_size, width, config, on_slices=True
                )
            self.output_layer = tensor_parallel.ColumnParallelLinear(
                width,
                config.padded_vocab_size,
                config=config,
                init_method=config.init_method,
                bias=False,
                gather_output=False,
                skip_weight_param_allocation=pre_process,
            )
        self.head = build_head(head, config) if head is not None and post_process else None
        if pre_process or post_process:
            self.setup_embeddings_and_output_layer()

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Receives the activation of the stage before (called by Megatron-Core's schedules)."""
        one = input_tensor[0] if isinstance(input_tensor, list) else input_tensor
        self.decoder.set_input_tensor(one)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        materialize: bool = True,
        task: TaskBatch | None = None,
        inference_context: Any = None,
    ) -> Any:
        """Runs this stage.

        Args:
            input_ids: ``[b, s]``.
            position_ids: ``[b, 2, s]``, positions and block positions.
            attention_mask: ``[b]`` (sep), ``[b, s, s]`` or ``[b, 1, s, s]``, see
                :func:`~glmkd_nemo.models.mask.prefix_mask`.
            labels: ``[b, s]``; with them the per-token loss is returned.
            materialize: ``False`` returns the :class:`Logits` handle instead of logits.
            task: what the task head needs, if there is one.
            inference_context: Megatron-Core's key-value cache, for generation; the mask may then
                be ``[b, 1, s, k]``, ``k`` the positions that are cached, these included.

        Returns:
            Inner stage: ``[s, b, h]`` (``[s / TP, b, h]`` under sequence parallelism). Last stage:
            logits ``[b, s, V / TP]`` of the real vocabulary, the handle, or the loss ``[b, s]``;
            with a task and a head, instead of logits those of the classes, ``[b, c]``.
        """
        cached = inference_context is not None
        mask = AttentionMask(attention_mask, input_ids.shape[1], cached)
        h_sbh = None
        if self.pre_process:
            rows = input_ids if self.vocab_map is None else self.vocab_map.rows(input_ids)
            h_sbh = tap(self.embedding(rows, position_ids, mask), "embedding")
        h_sbh = self.decoder(h_sbh, mask, inference_context=inference_context)
        if not self.post_process:
            return h_sbh
        h_sbh = tap(h_sbh, "output")
        logits = self._head(h_sbh)
        put_logits(logits)
        if self.head is not None and task is not None and (materialize or wanted("classes")):
            classes = tap(self.head(h_sbh, logits, task, attention_mask), "classes")
            return classes if materialize else logits
        if labels is not None:
            return cross_entropy(logits.all(), logits.columns_of(labels), logits.columns.start)
        return logits.all() if materialize else logits

    def _head(self, h_sbh: Tensor) -> Logits:
        config = self.config
        logits = Logits(
            h_sbh if self.output_projection is None else self.output_projection(h_sbh),
            self.shared_embedding_or_output_weight(),
            config.word_rows,
            config.sequence_parallel,
            self.vocab_map,
        )
        if self.vocab_map is None or config.unmap_vocab_output:
            return logits
        return logits.mapped(config.padded(config.vocab_size) // config.tensor_model_parallel_size)

    @torch.no_grad()
    def num_parameters(self) -> int:
        """Parameters of this rank's shard; tied and shared ones count on their first stage."""
        head = 0 if self.pre_process or not self.post_process else self.output_layer.weight.numel()
        copies = self.decoder.num_copied_parameters()
        # under ZeRO-3 a rank has a part of each
        sizes = (getattr(p, "ds_numel", p.numel()) for p in self.parameters())
        return sum(sizes) - head - copies
