"""A tiny GLM on synthetic samples, trained through the real shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

import glmkd_nemo  # noqa: F401
from glmkd_nemo.engine.trainer import build_trainer
from glmkd_nemo.models.modelpt import GLMModelPT, allow_target

VOCAB, LENGTH = 61, 16
allow_target("tests.")


class ToyTokenizer:
    """Just enough of a tokenizer: a size and a folder to save to."""

    vocab_size = VOCAB

    def save(self, folder: Any) -> Path:
        """Writes a file, so that the archive has a tokenizer folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "toy.txt").write_text(str(VOCAB))
        return path


class ToyData:
    """Samples with a pattern to learn; item ``i`` depends on the split and ``i`` only."""

    def __init__(self, split: str, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([i, len(self.split)])
        words = (rng.integers(0, VOCAB) + rng.integers(1, 4) * np.arange(LENGTH + 1)) % VOCAB
        sep = int(rng.integers(4, 9))
        mask = np.zeros(LENGTH, dtype=np.float32)
        mask[sep : int(rng.integers(sep + 3, LENGTH))] = 1
        positions = np.stack([np.arange(LENGTH), np.maximum(np.arange(LENGTH) - sep, 0)])
        return {
            "input_ids": words[:-1].astype(np.int64),
            "labels": words[1:].astype(np.int64),
            "position_ids": positions.astype(np.int64),
            "attention_mask": np.int64(sep),
            "loss_mask": mask,
        }


class ToyModelPT(GLMModelPT):
    """The real ModelPT on toy data."""

    def build_tokenizer(self) -> Any:
        """No file needed."""
        return ToyTokenizer()

    def build_dataset(self, split: str, num_samples: int) -> Any:
        """Synthetic samples."""
        return ToyData(split, num_samples)


def config(folder: str = "", **changes: Any) -> DictConfig:
    """A whole configuration; ``changes`` are dotted keys with ``__`` for the dots."""
    cfg = OmegaConf.create(
        {
            "name": "toy",
            "trainer": {
                "devices": 1,
                "num_nodes": 1,
                "accelerator": "cpu",
                "max_steps": 4,
                "val_check_interval": 2,
                "limit_val_batches": 2,
                "log_every_n_steps": 1,
            },
            "exp_manager": {"explicit_log_dir": folder, "seconds_to_sleep": 0},
            "model": {
                "micro_batch_size": 2,
                "global_batch_size": 8,
                "tensor_model_parallel_size": 1,
                "pipeline_model_parallel_size": 1,
                "sequence_parallel": False,
                "num_layers": 4,
                "hidden_size": 32,
                "num_attention_heads": 4,
                "max_position_embeddings": LENGTH,
                "encoder_seq_length": LENGTH,
                "make_vocab_size_divisible_by": 8,
                "hidden_dropout": 0.1,
                "attention_dropout": 0.1,
                "precision": 32,
                "seed": 7,
                "tokenizer": {},
                "data": {},
                "optim": {
                    "name": "mcore_distributed_optim",
                    "lr": 3e-3,
                    "weight_decay": 0.01,
                    "betas": [0.9, 0.98],
                    "clip_grad": 1.0,
                    "sched": {"name": "CosineAnnealing", "warmup_steps": 1, "min_lr": 1e-4},
                },
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    return cfg


def fit(cfg: DictConfig, callbacks: Any = ()) -> dict[str, Any]:
    """Trains from scratch; returns losses per step and the last validation."""
    recorder = Recorder()
    trainer = build_trainer(cfg, [recorder, *callbacks])
    model = ToyModelPT(cfg.model, trainer)
    trainer.fit(model)
    return {"losses": recorder.losses, "model": model, "trainer": trainer, **recorder.held_out}


class Recorder(Callback):
    """Keeps losses and the last validation."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.held_out: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """Keeps the loss of the step."""
        self.losses.append(float(module.last_parts["loss"]))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Keeps what validation logged."""
        metrics = trainer.callback_metrics
        self.held_out = {k: float(metrics[k]) for k in ("val_loss", "val_accuracy")}
