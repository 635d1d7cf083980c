"""All keys of the configuration of generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glmkd_nemo.config.schema import TrainerSection
from glmkd_nemo.generation.config import GenerationConfig


@dataclass
class GenerateModelSection:
    """How the model is run; what it is, its ``.nemo`` says.

    Attributes:
        tensor_model_parallel_size: null: all processes that pipeline stages leave.
        pipeline_model_parallel_size: stages.
        precision: 32, bf16 or 16.
        transformer_engine: null: where it is present.
    """

    tensor_model_parallel_size: int | None = None
    pipeline_model_parallel_size: int = 1
    precision: Any = 32
    transformer_engine: bool | None = None


@dataclass
class GenerateSchema:
    """The whole configuration of ``scripts/generate.py``.

    Attributes:
        restore_from_path: the ``.nemo``.
        input: .txt (a prompt a line) or .jsonl; null: prompts are typed in.
        output: .jsonl to write; null: the screen.
        text_key: key of the prompt in jsonl rows.
        batch_size: prompts at a time.
        generation: how text is generated.
        trainer, model: see there; keys of training have no effect.
    """

    restore_from_path: str = ""
    input: str | None = None
    output: str | None = None
    text_key: str = "text"
    batch_size: int = 16
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    model: GenerateModelSection = field(default_factory=GenerateModelSection)
