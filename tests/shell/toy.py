"""A tiny GLM on synthetic samples, trained through the real shell."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from megatron.core import parallel_state
from omegaconf import DictConfig, OmegaConf

import glmkd_nemo  # noqa: F401
from glmkd_nemo.engine.train import train
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
    """The real ModelPT on toy data; remembers what happened, and can kill itself."""

    losses: ClassVar[dict[int, float]] = {}
    held_out: ClassVar[dict[str, float]] = {}
    weights: ClassVar[str] = ""
    collected: ClassVar[list[int]] = []
    kill_at: ClassVar[int | None] = None
    ask_at: ClassVar[int | None] = None

    def build_tokenizer(self) -> Any:
        """No file needed."""
        return ToyTokenizer()

    def build_dataset(self, split: str, num_samples: int) -> Any:
        """Synthetic samples."""
        return ToyData(split, num_samples)

    def on_schedule_end(self, num_microbatches: int, forward_only: bool) -> None:
        """In mid-step: gradients are there, the optimizer has not run."""
        if not forward_only and self.trainer.global_step == type(self).kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        if not forward_only and last and self.trainer.global_step == type(self).ask_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def collect_parts(self, losses: Any) -> Any:
        """Remembers the steps at which ranks had to share their values."""
        steps = int(self.consumed_samples) // int(self.cfg.global_batch_size)
        self.collected.append(steps - 1)
        return super().collect_parts(losses)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Remembers the loss by step."""
        loss = super().training_step(batch, batch_idx)
        self.losses[self.trainer.global_step] = float(loss)
        return loss

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> None:
        """Remembers the held-out numbers."""
        super().on_validation_epoch_end(sync_metrics)
        self.held_out.update(self._held_out.result())

    def on_train_end(self) -> None:
        """Remembers a digest of all weights (of this rank)."""
        super().on_train_end()
        digest = hashlib.sha256()
        for parameter in self.glm.parameters():
            digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
        type(self).weights = digest.hexdigest()


def config(folder: Path | str, **changes: Any) -> DictConfig:
    """The shipped configuration made tiny; ``changes`` are dotted keys with ``__`` for the dots."""
    shipped = OmegaConf.load(Path(__file__).resolve().parents[2] / "conf" / "pretrain.yaml")
    tiny = {
        "trainer": {"devices": 1, "num_nodes": 1, "accelerator": "cpu", "precision": 32}
        | {"max_steps": 6, "val_check_interval": 3, "limit_val_batches": 2}
        | {"log_every_n_steps": 1},
        "exp_manager": {"explicit_log_dir": str(folder), "exp_dir": None, "name": None},
        "model": {"micro_batch_size": 2, "global_batch_size": 8, "num_layers": 4, "seed": 7}
        | {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
        | {"encoder_seq_length": LENGTH, "make_vocab_size_divisible_by": 8, "tokenizer": {}}
        | {"optim": {"lr": 3e-3, "sched": {"min_lr": 1e-4, "warmup_ratio": None}}},
    }
    shipped.pop("defaults")
    cfg = OmegaConf.merge(shipped, tiny)
    cfg.name = "toy"
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    assert isinstance(cfg, DictConfig)
    return cfg


def run(folder: Path | str, **changes: Any) -> dict[str, Any]:
    """Trains (or goes on) with processes that have joined, at a fresh layout.

    Returns:
        Exit code, losses by step (those that were collected, until the next), held-out numbers,
        steps at which values were collected, digest of this rank's weights.
    """
    parallel_state.destroy_model_parallel()
    ToyModelPT.losses.clear()
    ToyModelPT.held_out.clear()
    ToyModelPT.collected.clear()
    changes.setdefault("trainer__devices", torch.distributed.get_world_size())
    code = train(config(folder, **changes), ToyModelPT)
    kept: dict[str, Any] = {"losses": dict(ToyModelPT.losses)}
    kept |= {"held_out": dict(ToyModelPT.held_out), "collected": list(ToyModelPT.collected)}
    return {"code": code, "weights": ToyModelPT.weights, **kept}
