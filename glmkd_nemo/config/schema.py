"""All keys of the configuration, with types and defaults (NeMo's names where NeMo has one)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glmkd_nemo.config.engine import EngineSection
from glmkd_nemo.config.run_ahead import RunAheadSection
from glmkd_nemo.data.config import DataConfig, TokenizerConfig


@dataclass
class TrainerSection:
    """Lightning's trainer; what is not here is fixed by the engine.

    Attributes:
        devices: processes per node.
        num_nodes: nodes.
        accelerator: cpu, gpu or auto.
        precision: 32, bf16 or 16 (fp16); half precision keeps fp32 main weights.
        max_steps: optimizer steps.
        max_time: wall-clock limit, ``DD:HH:MM:SS``.
        val_check_interval: steps between validations.
        limit_val_batches: global batches per validation (0: none).
        log_every_n_steps: steps between log lines.
    """

    devices: int = 1
    num_nodes: int = 1
    accelerator: str = "auto"
    precision: Any = 32
    max_steps: int = 1000
    max_time: str | None = None
    val_check_interval: int = 100
    limit_val_batches: int = 10
    log_every_n_steps: int = 10
    benchmark: bool | None = None
    deterministic: bool | None = None
    profiler: str | None = None
    detect_anomaly: bool = False


@dataclass
class SchedSection:
    """NeMo's learning-rate schedules; ``max_steps`` defaults to the trainer's.

    Attributes:
        name: of NeMo's list, e.g. CosineAnnealing; null: constant.
        warmup_steps: steps of linear warm-up.
        warmup_ratio: the same as a share of all steps.
        constant_steps: steps at ``min_lr`` at the end.
        constant_ratio: the same as a share of all steps.
        hold_steps: steps at the peak (hold schedules only).
        hold_ratio: the same as a share of all steps.
        min_lr: rate at the end.
        max_steps: length of the schedule.
        power: of polynomial decay.
    """

    name: str | None = "CosineAnnealing"
    warmup_steps: int | None = None
    warmup_ratio: float | None = None
    constant_steps: int | None = None
    constant_ratio: float | None = None
    hold_steps: int | None = None
    hold_ratio: float | None = None
    decay_ratio: float | None = None
    min_lr: float | None = None
    max_steps: int | None = None
    power: float | None = None
    cycle: bool | None = None


@dataclass
class OptimSection:
    """Adam of Megatron-Core.

    Attributes:
        name: mcore_distributed_optim (state sharded over data-parallel ranks) or adam.
        lr: peak learning rate.
        weight_decay: not applied to biases and norms.
        betas: of Adam.
        eps: of Adam.
        clip_grad: largest norm of all gradients (0: no clipping).
        initial_loss_scale: fp16 only.
        loss_scale_window: fp16 only: good steps before the scale doubles.
        hysteresis: fp16 only: bad steps before it halves.
        min_loss_scale: fp16 only: where halving ends.
    """

    name: str = "mcore_distributed_optim"
    lr: float = 1e-4
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-6
    clip_grad: float = 1.0
    initial_loss_scale: float = 65536.0
    loss_scale_window: int = 1000
    hysteresis: int = 2
    min_loss_scale: float = 1.0
    sched: SchedSection = field(default_factory=SchedSection)


@dataclass
class TeacherSection:
    """A teacher.

    Attributes:
        restore_from_path: its ``.nemo``, saved at any layout.
        trainable: it learns with its student, from the soft labels; frozen by default.
        precision: 32, bf16 or 16; null: as the student. Losses are computed in fp32 anyway, and
            the student's gradients stay in its own precision.
        offload: keep the layers' weights in the host's memory, and bring them to the device one
            after the other as they run; teachers that are offloaded share the memory of two layers.
        transformer_engine, fp8, fp8_*: as the student's (see :class:`ModelSection`), for this
            teacher alone.
    """

    restore_from_path: str | None = None
    trainable: bool = False
    precision: Any = None
    offload: bool = False
    transformer_engine: bool | None = None
    fp8: bool = False
    fp8_e4m3: bool = False
    fp8_hybrid: bool = False
    fp8_recipe: str = "tensorwise"
    fp8_margin: int = 0
    fp8_amax_history_len: int = 1024
    fp8_amax_compute_algo: str = "max"


@dataclass
class VocabMapSection:
    """GLMD's vocabulary compression; a trained model has its map in its checkpoints.

    Attributes:
        size: tokens to keep: a number, or below 1 a share of the vocabulary.
        table: the order of tokens, written by scripts/sort_vocab.py; needed for a new model only.
        replace: what stands for the others: unk, or the kept token that is nearest by a teacher's
            word embeddings: decoder (product), cosine or euclidean.
        teacher: which teacher, where there are several.
        unmap_output: logits of the kept tokens only, instead of all with shared rows: less memory
            and time.
    """

    size: float | None = None
    table: str | None = None
    replace: str = "unk"
    teacher: str | None = None
    unmap_output: bool = False


@dataclass
class AnalysisSection:
    """Similarity of student's and teachers' layers, measured during training.

    Attributes:
        every_n_steps: steps between two measurements.
        temperatures: of the KL divergences.
    """

    every_n_steps: int = 100
    temperatures: list[float] = field(default_factory=lambda: [1.0, 5.0, 10.0, 15.0, 20.0])


@dataclass
class DistillSection:
    """What is learnt from teachers; each term's keys are those of its ``method``.

    Attributes:
        terms: by name.
        aggregator: ``name`` of what combines several teachers, and its options.
        random_data: options of perturbed inputs.
        analysis: null: no analysis of layers.
    """

    terms: dict[str, Any] = field(default_factory=dict)
    aggregator: dict[str, Any] | None = None
    random_data: dict[str, Any] | None = None
    analysis: AnalysisSection | None = None


@dataclass
class StudentInitSection:
    """Weights to start from: a piece cut out of a larger model (first heads, rows and columns).

    Attributes:
        teacher: one of ``model.teachers``, or the path of a ``.nemo``; null: random weights.
        layers: the teacher's layer for each of the student's (null: the first ones).
    """

    teacher: str | None = None
    layers: list[int] | None = None


@dataclass
class ModelSection:
    """Model, parallel layout, data and optimizer; the only section that a ``.nemo`` keeps.

    Names are NeMo's. See :class:`~glmkd_nemo.models.config.GLMConfig` for GLM's own, and
    :func:`~glmkd_nemo.engine.precision.fp8_settings` for fp8.
    """

    micro_batch_size: int = 4
    global_batch_size: int = 16
    eval_batch_size: int | None = None
    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: int | None = None
    sequence_parallel: bool = False

    num_layers: int = 12
    hidden_size: int = 768
    ffn_hidden_size: int | None = None
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    encoder_seq_length: int = 512
    make_vocab_size_divisible_by: int = 128
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float | None = None
    layernorm_epsilon: float = 1e-5
    init_method_std: float = 0.02
    attention_scale: float = 1.0
    embedding_size: int | None = None
    share_layers: bool = False
    bottleneck_size: int | None = None
    bottleneck_ffns: int = 1
    bottleneck_word_embedding: int | None = None
    vocab_map: VocabMapSection | None = None
    student_init: StudentInitSection | None = None

    activations_checkpoint_granularity: str | None = None
    activations_checkpoint_method: str | None = None
    activations_checkpoint_num_layers: int | None = None
    fused_head_rows: int | None = None
    transformer_engine: bool | None = None
    fp8: bool = False
    fp8_e4m3: bool = False
    fp8_hybrid: bool = False
    fp8_recipe: str = "delayed"
    fp8_margin: int = 0
    fp8_amax_history_len: int = 1024
    fp8_amax_compute_algo: str = "max"
    megatron_amp_O2: bool = True
    precision: Any = 32
    seed: int = 1234

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimSection = field(default_factory=OptimSection)
    teachers: dict[str, TeacherSection] = field(default_factory=dict)
    distill: DistillSection | None = None
    run_ahead: RunAheadSection = field(default_factory=RunAheadSection)
    task: dict[str, Any] | None = None
    head: dict[str, Any] | None = None


@dataclass
class PretrainSchema:
    """The whole configuration of ``scripts/pretrain.py``.

    Attributes:
        name: of the experiment.
        restore_from_path: a ``.nemo`` whose weights to start from.
        save_nemo: where to write the trained ``.nemo`` (null: into the log directory).
        engine, trainer, model: see there.
        exp_manager: NeMo's experiment manager, its own keys.
    """

    name: str = "glm"
    restore_from_path: str | None = None
    save_nemo: str | None = None
    engine: EngineSection = field(default_factory=EngineSection)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    exp_manager: Any = None
    model: ModelSection = field(default_factory=ModelSection)
