"""Configuration of a GLM: Megatron-Core's ``TransformerConfig`` plus what is particular to GLM.

GLM: General Language Model Pretraining with Autoregressive Blank Infilling (arXiv 2103.10360).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from glmkd_nemo.models.activation import gelu_tanh

RECOMPUTE = (None, "full", "selective")


def pipeline_layout(split: list[int]) -> list[list[str]]:
    """Megatron-Core's pipeline layout for ``split[k]`` layers on stage ``k``.

    The embedding stands before the first layer and the loss after the last one.
    """
    rows = [["decoder"] * n for n in split]
    rows[0].insert(0, "embedding")
    rows[-1].append("loss")
    return rows


def even_split(num_layers: int, stages: int) -> list[int]:
    """Layers per stage, as even as can be, the earlier stages getting the remainder.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    if num_layers < stages:
        raise ValueError(
            f"{num_layers} layers cannot be spread over {stages} pipeline stages: lower "
            "pipeline_model_parallel_size or take a deeper model."
        )
    return [num_layers // stages + (k < num_layers % stages) for k in range(stages)]


@dataclass
class GLMConfig(TransformerConfig):
    """All that is needed to build a :class:`~glmkd_nemo.models.glm.GLMModel`.

    Fields that ``TransformerConfig`` has keep its names and meaning; these are added:

    Attributes:
        vocab_size: real size of the vocabulary, command tokens included, padding excluded.
        max_position_embeddings: largest position; the two tables have one row more (GLM's own).
        make_vocab_size_divisible_by: the vocabulary is padded to a multiple of this and of TP.
        attention_scale: GLM divides queries by it and multiplies scores back after subtracting
            their maximum; softmax is unchanged, tapped scores are shifted as in the original.
        embedding_dropout: probability of dropping an element of the summed embeddings.
        recompute: activation recompute: ``None``, ``"full"`` (whole layers) or ``"selective"``
            (attention only). Megatron-Core's own recompute is re-entrant and would cut tapped
            tensors off the graph, so ours replaces it (see ``layers.py``).
        recompute_layers: number of leading layers of a stage to recompute, ``None`` for all.
        transformer_engine: use Transformer Engine's fused layers where no tensor is tapped.
        embedding_size: width of the word embedding where it is factorised as in ALBERT (arXiv
            1909.11942, section 3.1): a projection leads up to ``hidden_size``, another one down
            to the tied head. ``None``: ``hidden_size``.
        share_layers: all layers have the same weights (ALBERT, section 3.1).
        bottleneck_size: width of attention and feed-forward inside a layer with MobileBERT's
            inverted bottleneck (arXiv 2004.02984, section 3.1); the layers still pass on
            ``hidden_size``. ``None``: plain layers.
        bottleneck_ffns: feed-forward networks stacked in such a layer.
        bottleneck_word_embedding: leading columns of the word embedding that are read at the
            input, of each position and two others, and projected to ``hidden_size`` (MobileBERT,
            section 3.2; the head uses all columns). ``None``: the whole row as it is.
        mapped_vocab_size: tokens that GLMD's vocabulary map keeps (``vocab_map.py``), the rows of
            the word embedding. ``None``: all, without a map.
        unmap_vocab_output: with a map: logits of the kept tokens only, in the map's order;
            otherwise those of all tokens, replaced ones sharing a kept one's.
        fused_head_rows: rows of fp32 logits that the fused prediction head may hold at a time;
            ``None``: as :class:`~glmkd_nemo.distill.workspace.Workspace` finds.

    Raises:
        ValueError: a value that cannot work, with the remedy.
    """

    vocab_size: int = 0
    max_position_embeddings: int = 512
    make_vocab_size_divisible_by: int = 128
    attention_scale: float = 1.0
    embedding_dropout: float = 0.1
    recompute: str | None = None
    recompute_layers: int | None = None
    transformer_engine: bool = False
    embedding_size: int | None = None
    share_layers: bool = False
    bottleneck_size: int | None = None
    bottleneck_ffns: int = 1
    bottleneck_word_embedding: int | None = None
    mapped_vocab_size: int | None = None
    unmap_vocab_output: bool = False
    fused_head_rows: int | None = None

    pipeline_model_parallel_layout: Any = None
    activation_func: Callable[[torch.Tensor], torch.Tensor] = gelu_tanh
    bias_activation_fusion: bool = False
    gradient_accumulation_fusion: bool = False
    masked_softmax_fusion: bool = False
    persist_layer_norm: bool = False
    batch_p2p_sync: bool = False  # a wait for the device per message, for PyTorch older than ours
    cuda_graph_scope: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._refuse_impossible()
        if self.pipeline_model_parallel_size > 1 and self.pipeline_model_parallel_layout is None:
            split = even_split(self.num_layers, self.pipeline_model_parallel_size)
            self.pipeline_model_parallel_layout = pipeline_layout(split)
        self._fill_in("ffn_hidden_size", 4 * self.inner_size)
        self._fill_in("kv_channels", self.inner_size // self.num_attention_heads)
        super().__post_init__()

    def _fill_in(self, name: str, default: int) -> None:
        if getattr(self, name) is None:
            setattr(self, name, default)

    def _refuse_impossible(self) -> None:
        if self.vocab_size < 1:
            raise ValueError("vocab_size must be set: it is the tokenizer's, command tokens in.")
        if self.recompute not in RECOMPUTE:
            raise ValueError(f"recompute is {self.recompute!r}; it may be one of {RECOMPUTE}.")
        tp = self.tensor_model_parallel_size
        for name in ("num_attention_heads", "hidden_size"):
            if getattr(self, name) % tp:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is not divisible by "
                    f"tensor_model_parallel_size = {tp}: choose a divisor of it."
                )
        if self.sequence_parallel and tp == 1:
            raise ValueError(
                "sequence_parallel needs tensor_model_parallel_size > 1: set it, or "
                "sequence_parallel=false."
            )
        if self.fused_head_rows is not None and self.fused_head_rows < 1:
            raise ValueError(
                f"fused_head_rows = {self.fused_head_rows}: give a number of rows, or null."
            )
        self._refuse_forms()
        if not 1 <= self.word_rows <= self.vocab_size:
            raise ValueError(
                f"mapped_vocab_size = {self.mapped_vocab_size}: a vocabulary map keeps from 1 to "
                f"all {self.vocab_size} tokens."
            )

    def _refuse_forms(self) -> None:
        for name in ("embedding_size", "bottleneck_size", "bottleneck_word_embedding"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {value}: give a width, or null for a plain GLM.")
        if self.inner_size % self.num_attention_heads:
            name = "hidden_size" if self.bottleneck_size is None else "bottleneck_size"
            raise ValueError(
                f"{name} = {self.inner_size} is not divisible by num_attention_heads = "
                f"{self.num_attention_heads}: choose a multiple of it."
            )
        if self.bottleneck_ffns < 1 or (self.bottleneck_ffns > 1 and not self.bottleneck_size):
            raise ValueError(
                f"bottleneck_ffns = {self.bottleneck_ffns}: it is 1 or more, and more than 1 only "
                "with bottleneck_size."
            )
        columns = self.bottleneck_word_embedding
        if columns is not None and columns > self.hidden_size:
            raise ValueError(
                f"bottleneck_word_embedding = {columns} columns of an embedding of "
                f"{self.hidden_size}: lower it, or leave it unset."
            )

    @property
    def inner_size(self) -> int:
        """Width of attention and feed-forward: ``bottleneck_size``, or else ``hidden_size``."""
        return self.bottleneck_size or self.hidden_size

    @property
    def word_embedding_size(self) -> int:
        """Columns of the word embedding and of the head tied to it."""
        return self.embedding_size or self.hidden_size

    @property
    def word_rows(self) -> int:
        """Tokens that have a row of the word embedding: all, or those that a map keeps."""
        return self.vocab_size if self.mapped_vocab_size is None else self.mapped_vocab_size

    @property
    def output_size(self) -> int:
        """Tokens that the model gives logits of, over all tensor-parallel ranks."""
        return self.word_rows if self.unmap_vocab_output else self.vocab_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word embedding over all tensor-parallel ranks."""
        return self.padded(self.word_rows)

    def padded(self, rows: int) -> int:
        """Rows that a table of ``rows`` has over all tensor-parallel ranks."""
        multiple = math.lcm(self.make_vocab_size_divisible_by, self.tensor_model_parallel_size)
        return -(-rows // multiple) * multiple

    @property
    def split(self) -> list[int]:
        """Number of layers on each pipeline stage."""
        layout = self.pipeline_model_parallel_layout
        if layout is None:
            return [self.num_layers]
        stages = range(self.pipeline_model_parallel_size)
        return [layout.get_num_layers_to_build(pp_rank=k, vp_stage=0) for k in stages]
